use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A file of settings that goes with the test.
struct File(PathBuf);

impl File {
    fn new(toml: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("capsule-config-{}-{number}.toml", std::process::id()));
        std::fs::write(&path, toml).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn flags(config: Option<&File>) -> Serve {
    Serve {
        data: "/nowhere".into(),
        config: config.map(|file| file.0.clone()),
        listen: None,
        advertise: None,
        admin: None,
        http: None,
        check_config: false,
        gateway: false,
    }
}

/// The message by which settings in a file are refused.
fn refused(toml: &str) -> String {
    let file = File::new(toml);
    let error = Config::load(&flags(Some(&file))).expect_err(toml);
    format!("{error:#}")
}

#[test]
fn without_anything_the_defaults_hold() {
    let config = Config::load(&flags(None)).unwrap();
    assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    let empty = File::new("# nothing\n");
    let config = Config::load(&flags(Some(&empty))).unwrap();
    assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
}

#[test]
fn the_file_is_before_the_defaults_and_flags_are_before_the_file() {
    let file = File::new(
        "listen = '192.0.2.1:1'\nhttp = '192.0.2.1:2'\nadvertise = '192.0.2.1:3'\nadmin = '/file'\n\
         masks = ['/secret']\nlog = 'json'\nlink_idle_s = 2\n",
    );
    let config = Config::load(&flags(Some(&file))).unwrap();
    assert_eq!(
        (config.listen, config.http),
        ("192.0.2.1:1".parse().unwrap(), "192.0.2.1:2".parse().unwrap())
    );
    assert_eq!((config.log, config.link_idle_s), (LogFormat::Json, 2));
    assert_eq!((config.admin, config.masks), ("/file".into(), vec![PathBuf::from("/secret")]));
    assert_eq!(config.hold_ms_max, Config::default().hold_ms_max, "what it does not say is the default");
    let address = |port| Some(SocketAddr::from(([203, 0, 113, 1], port)));
    let serve = Serve {
        listen: address(1),
        http: address(2),
        advertise: address(3),
        admin: Some("/flag".into()),
        ..flags(Some(&file))
    };
    let config = Config::load(&serve).unwrap();
    assert_eq!(
        (Some(config.listen), Some(config.http), config.advertise),
        (address(1), address(2), address(3))
    );
    assert_eq!((config.admin, config.link_idle_s), (PathBuf::from("/flag"), 2));
}

#[test]
fn an_unknown_key_is_named() {
    let message = refused("listne = '0.0.0.0:1'\n");
    assert!(message.contains("listne") && message.contains("settings"), "{message}");
    assert!(refused("[link]\nidle = 3\n").contains("link"));
}

#[test]
fn a_value_that_makes_no_sense_is_named() {
    for (toml, words) in [
        ("listen = 'nowhere'", ["listen", "address"]),
        ("listen = 5", ["listen", "5"]),
        ("link_idle_s = 1", ["link_idle_s", "1"]),
        ("link_idle_s = -1", ["link_idle_s", "-1"]),
        ("mtu_initial_bytes = 1199", ["mtu_initial_bytes", "1199"]),
        ("mtu_initial_bytes = 6501", ["mtu_initial_bytes", "6501"]),
        ("mtu_initial_bytes = 70000", ["mtu_initial_bytes", "70000"]),
        ("base = 'relative'", ["base", "relative"]),
        ("base = '/no/such/directory'", ["base", "/no/such/directory"]),
        ("log = 'loud'", ["log", "loud"]),
    ] {
        let message = refused(toml);
        assert!(words.iter().all(|word| message.contains(word)), "{toml}: {message}");
    }
}

#[test]
fn a_file_that_is_no_toml_or_not_there_is_named() {
    let broken = File::new("listen = \n");
    let message = format!("{:#}", Config::load(&flags(Some(&broken))).unwrap_err());
    assert!(message.contains("settings"), "{message}");
    let missing = Serve { config: Some("/no/such/file.toml".into()), ..flags(None) };
    let message = format!("{:#}", Config::load(&missing).unwrap_err());
    assert!(message.contains("/no/such/file.toml"), "{message}");
}

#[test]
fn the_limits_of_values_are_taken() {
    for toml in ["mtu_initial_bytes = 1200", "mtu_initial_bytes = 6500", "link_idle_s = 2", "base = '/tmp'"] {
        let file = File::new(toml);
        assert!(Config::load(&flags(Some(&file))).is_ok(), "{toml}");
    }
}

#[test]
fn budgets_that_are_not_set_follow_from_the_memory_of_the_host() {
    let config = Config::load(&flags(None)).unwrap();
    let limits = config.buffer_limits(32 << 30);
    assert_eq!(
        (limits.host_bytes, limits.capsule_bytes, limits.session_bytes),
        (1 << 30, 512 << 20, 8 << 20)
    );
    let file = File::new("buffer_host_bytes = 1000000\nbuffer_session_bytes = 65536\n");
    let limits = Config::load(&flags(Some(&file))).unwrap().buffer_limits(32 << 30);
    assert_eq!((limits.host_bytes, limits.capsule_bytes, limits.session_bytes), (1_000_000, 500_000, 65_536));
    assert!(refused("buffer_session_bytes = 65535\n").contains("below 65536"));
}
