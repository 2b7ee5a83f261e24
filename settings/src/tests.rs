use figment::Jail;
use figment::providers::{Env, Format, Toml};
use serde::Deserialize;

use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sample {
    listen: std::net::SocketAddr,
    lease_s: u64,
    peers: Vec<Peer>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Peer {
    name: String,
}

impl Default for Sample {
    fn default() -> Self {
        Self { listen: ([127, 0, 0, 1], 1).into(), lease_s: 15, peers: Vec::new() }
    }
}

fn judge(sample: &Sample) -> Vec<(&'static str, String)> {
    (sample.lease_s == 0).then(|| ("lease_s", "at least 1 is needed".to_owned())).into_iter().collect()
}

/// What is said of this file, with this address as a flag.
fn said(file: &str, listen: Option<&str>) -> String {
    let mut figment = Figment::from(Serialized::defaults(Sample::default()));
    figment = figment.merge(Toml::file_exact(file)).merge(Env::prefixed("CAPSULE_"));
    if let Some(listen) = listen {
        figment = figment.merge(Serialized::default("listen", listen));
    }
    read(&figment, judge).map_or_else(|faults| faults.to_string(), |sample| format!("{sample:?}"))
}

#[test]
fn every_fault_is_found_with_its_place() {
    Jail::expect_with(|jail| {
        jail.create_file(
            "s.toml",
            "# a\n\nlsiten = '127.0.0.1:9'\nlisten = 'nowhere'\nlease_s = 0\n\n[[peers]]\nname = 'x'\nport = 1\n",
        )?;
        let all = said("s.toml", None);
        let lines: Vec<_> = all.lines().collect();
        assert_eq!(lines.len(), 4, "{all}");
        for (place, words) in [
            ("s.toml:3: lsiten: ", "unknown field"),
            ("s.toml:4: listen: ", "socket address"),
            ("s.toml:5: lease_s: ", "at least 1"),
            ("s.toml:7: peers: ", "port"),
        ] {
            let found = lines.iter().any(|line| line.contains(place) && line.contains(words));
            assert!(found, "{place}{words} in {all}");
        }
        // What a flag overrules does no harm.
        assert_eq!(said("s.toml", Some("127.0.0.1:9")).lines().count(), 3);
        Ok(())
    });
}

#[test]
fn the_environment_is_named_and_a_file_that_is_no_toml_has_its_line() {
    Jail::expect_with(|jail| {
        jail.create_file("s.toml", "lease_s = 3\n")?;
        jail.set_env("CAPSULE_LISTEN", "nowhere");
        let said_of_it = said("s.toml", None);
        assert!(said_of_it.starts_with("environment CAPSULE_LISTEN: listen: "), "{said_of_it}");
        jail.create_file("broken.toml", "lease_s = 3\nlisten = [\n")?;
        let broken = said("broken.toml", None);
        assert!(broken.contains("broken.toml:") && broken.lines().count() >= 1, "{broken}");
        assert!(said("none.toml", Some("127.0.0.1:9")).contains("none.toml"));
        Ok(())
    });
}
