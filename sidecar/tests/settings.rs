//! `--check-config`: where a setting comes from, seen from outside.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use directory_api::identity::{SigningRequest, certificate_parameters, read_request};
use directory_api::{Identity, Membership};

/// A folder that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("capsule-settings-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).expect("a fresh name");
        Self(path)
    }

    fn file(&self, toml: &str) -> String {
        let path = self.0.join("sidecar.toml");
        std::fs::write(&path, toml).expect("the folder is ours");
        path.display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The data of a host that joined.
fn joined() -> Scratch {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let scratch = Scratch::new(&format!("host-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    let (zone, host) =
        ("capsule.internal".parse().expect("a sound host"), "a".parse().expect("a sound host"));
    let mut parameters = rcgen::CertificateParams::default();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca =
        rcgen::CertifiedIssuer::self_signed(parameters, rcgen::KeyPair::generate().expect("a sound host"))
            .expect("a sound host");
    let request = SigningRequest::generate(&zone, &host).expect("a sound host");
    let (mut signed, subject) = read_request(request.csr_der()).expect("a sound host");
    signed.params = certificate_parameters(&zone, &subject).expect("a sound host");
    let chain = vec![signed.signed_by(&ca).expect("a sound host").der().clone()];
    let identity = Identity::new(request.key_pem(), chain, ca.der().clone()).expect("a sound host");
    let membership = Membership { host, zone, identity, api: vec![], dns: vec![], locators: vec![] };
    membership.save(&scratch.0.join("identity")).expect("a sound host");
    scratch
}

fn check(variables: &[(&str, &str)], flags: &[&str]) -> Output {
    let host = joined();
    let mut command = Command::new(env!("CARGO_BIN_EXE_capsule-sidecar"));
    let inherited = std::env::vars_os().map(|(name, _)| name);
    for name in inherited.filter(|name| name.to_string_lossy().starts_with("CAPSULE_")) {
        command.env_remove(name);
    }
    command
        .args(["serve", "--check-config", "--data"])
        .arg(&host.0)
        .args(flags)
        .envs(variables.iter().copied());
    command.output().expect("it is built")
}

#[track_caller]
fn good(variables: &[(&str, &str)], flags: &[&str]) {
    let output = check(variables, flags);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[track_caller]
fn bad(variables: &[(&str, &str)], flags: &[&str], words: &[&str]) {
    let output = check(variables, flags);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(words.iter().all(|word| complaint.contains(word)), "{complaint}");
    assert!(output.stdout.is_empty() && !complaint.contains("panicked"), "{output:?}");
}

/// What is wrong in one place does no harm when a place before it says something right.
#[test]
fn variables_are_before_the_file_and_flags_before_variables() {
    let scratch = Scratch::new("order");
    let file = scratch.file("link_idle_s = 1\nhttp = '127.0.0.1:9'\n");
    bad(&[], &["--config", &file], &["link_idle_s"]);
    good(&[("CAPSULE_LINK_IDLE_S", "20")], &["--config", &file]);
    bad(&[("CAPSULE_LINK_IDLE_S", "0")], &[], &["link_idle_s"]);
    bad(&[("CAPSULE_LISTEN", "nowhere")], &[], &["LISTEN", "CAPSULE_"]);
    good(&[("CAPSULE_LISTEN", "nowhere")], &["--listen", "127.0.0.1:4433"]);
    let file = scratch.file("http = 'nowhere'\n");
    bad(&[], &["--config", &file], &["http", "sidecar.toml"]);
    good(&[], &["--config", &file, "--http", "127.0.0.1:9100"]);
}

#[test]
fn unknown_settings_are_named_wherever_they_are() {
    let scratch = Scratch::new("unknown");
    let file = scratch.file("lsiten = '127.0.0.1:1'\n");
    bad(&[], &["--config", &file], &["lsiten"]);
    bad(&[("CAPSULE_LSITEN", "127.0.0.1:1")], &[], &["lsiten"]);
    // Those of `capsule` and of logging are not the sidecar's.
    good(&[("CAPSULE_ADMIN", "/elsewhere"), ("CAPSULE_LOG", "debug")], &[]);
    let output = check(&[], &["--lsiten", "x"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_file_that_can_not_be_read_is_named() {
    bad(&[], &["--config", "/no/such/file.toml"], &["/no/such/file.toml"]);
    let scratch = Scratch::new("broken");
    bad(&[], &["--config", &scratch.file("listen = [")], &["settings"]);
}

#[test]
fn all_faults_are_said_at_once_with_their_lines() {
    let scratch = Scratch::new("all");
    let file = scratch.file("# a host\nlsiten = 'x'\nlink_idle_s = 1\n\nbase = 'relative'\n");
    let output = check(&[("CAPSULE_HTTP", "nowhere")], &["--config", &file]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for fault in [":2: lsiten: ", ":3: link_idle_s: ", ":5: base: ", "environment CAPSULE_HTTP: http: "] {
        assert!(said.lines().any(|line| line.contains(fault)), "{fault} in {said}");
    }
}

#[test]
fn a_host_that_has_not_joined_is_told_so() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_capsule-sidecar"));
    let output = command.args(["serve", "--data", "/nowhere", "--check-config"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("has not joined"), "{output:?}");
}
