//! What `serve` is told: defaults < file < `CAPSULE_…` environment < flags. Nothing else reads the environment.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use figment::Figment;
use figment::providers::{Env, Format as _, Serialized, Toml};
use serde::{Deserialize, Serialize};

use overlay_proto::Owner;

use crate::dns::tsig::{Key, Role, Secret};
use crate::key_file;
use crate::limits::{DNS_THREADS_MAX, SECONDARIES_MAX, UPDATERS_MAX};
use crate::sealed::Passphrase;
use crate::store::{StoreAccess, StoreAddress};

/// The settings of a running directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where requests are taken, by QUIC.
    pub api: SocketAddr,
    /// Where DNS is answered, over UDP and TCP.
    pub dns: SocketAddr,
    /// Where DNS is answered over TLS (RFC 7858).
    pub dot: Option<SocketAddr>,
    /// Where DNS is answered over QUIC (RFC 9250).
    pub doq: Option<SocketAddr>,
    /// Threads that answer DNS over UDP; 0 for one a processor, up to four.
    pub dns_threads: usize,
    /// Answers over UDP that one network (/24, /56) gets in a second; 0 for no limit.
    pub dns_answers_per_second: u32,
    /// Where `/healthz`, `/readyz` and `/metrics` are.
    pub http: SocketAddr,
    /// Where the facts are: `embedded`, or `etcd://HOST:PORT,…` for several directories at once.
    pub store: StoreAddress,
    /// The CA by which etcd is trusted; with it, etcd is asked over TLS.
    pub store_ca: Option<PathBuf>,
    /// The certificate shown to etcd.
    pub store_cert: Option<PathBuf>,
    /// Its key.
    pub store_key: Option<PathBuf>,
    /// A file with the password of the user that `store` names.
    pub store_password_file: Option<PathBuf>,
    /// Where hosts find `api`, when not at the address at which they joined.
    pub advertise_api: Vec<SocketAddr>,
    /// Where hosts and resolvers find `dns`, as above.
    pub advertise_dns: Vec<SocketAddr>,
    /// Name servers that get copies of the zones.
    pub secondaries: Vec<Secondary>,
    /// Keys by which owners change records of their capsules.
    pub updaters: Vec<Updater>,
    /// How long a host may be silent before its capsules are shown lost, seconds.
    pub lease_seconds: u64,
    /// How long hosts' certificates are good, hours.
    pub certificate_hours: u64,
    /// Most capsules of one owner.
    pub owner_capsules_max: usize,
    /// A file with the passphrase of the root's key, so that the directory renews its issuer by itself.
    pub ca_passphrase_file: Option<PathBuf>,
    /// Which log lines are written, as `RUST_LOG` says it.
    pub log: String,
}

/// A name server that gets copies of the zones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secondary {
    /// Where it is told of changes.
    pub address: SocketAddr,
    /// The name of the secret shared with it.
    pub key_name: String,
    /// A file with the secret, for HMAC-SHA256.
    pub key_file: PathBuf,
}

/// A key by which an owner changes records of its capsules (RFC 2136).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Updater {
    /// Whose capsules.
    pub owner: Owner,
    /// The key's name.
    pub key_name: String,
    /// A file with the secret, for HMAC-SHA256.
    pub key_file: PathBuf,
}

/// The secrets shared with others, by what they are for.
pub struct Secrets {
    /// Where a secondary is told of changes, and its secret.
    pub secondaries: Vec<(SocketAddr, Secret)>,
    /// Keys of owners.
    pub updaters: Vec<Key>,
}

/// Settings given as flags.
#[derive(Debug, Default, Serialize)]
pub struct Flags {
    /// `--api`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<SocketAddr>,
    /// `--dns`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<SocketAddr>,
    /// `--dot`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dot: Option<SocketAddr>,
    /// `--doq`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doq: Option<SocketAddr>,
    /// `--http`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<SocketAddr>,
    /// `--store`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreAddress>,
    /// `--store-ca` and its like
    #[serde(flatten)]
    pub access: StoreAccess,
}

/// The settings that `CAPSULE_…` may give; other variables of that prefix belong to other programs.
const KEYS: [&str; 19] = [
    "api",
    "dns",
    "dot",
    "doq",
    "dns_threads",
    "dns_answers_per_second",
    "http",
    "store",
    "store_ca",
    "store_cert",
    "store_key",
    "store_password_file",
    "advertise_api",
    "advertise_dns",
    "lease_seconds",
    "certificate_hours",
    "owner_capsules_max",
    "ca_passphrase_file",
    "log",
];

impl Default for Config {
    fn default() -> Self {
        Self {
            api: ([0, 0, 0, 0], 4400).into(),
            dns: ([0, 0, 0, 0], 53).into(),
            dot: None,
            doq: None,
            dns_threads: 0,
            dns_answers_per_second: 5_000,
            http: ([127, 0, 0, 1], 9440).into(),
            store: StoreAddress::Embedded,
            store_ca: None,
            store_cert: None,
            store_key: None,
            store_password_file: None,
            advertise_api: vec![],
            advertise_dns: vec![],
            secondaries: vec![],
            updaters: vec![],
            lease_seconds: 15,
            certificate_hours: 24,
            owner_capsules_max: 1024,
            ca_passphrase_file: None,
            log: "info,hickory_server=warn,hickory_proto=error".into(),
        }
    }
}

impl Config {
    /// Puts the settings together and checks them, and the files that they name.
    ///
    /// # Errors
    /// All that is wrong with them, a line each.
    pub fn load(file: Option<&Path>, flags: &Flags) -> Result<Self> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(file) = file {
            figment = figment.merge(Toml::file_exact(file));
        }
        let figment = figment.merge(Env::prefixed("CAPSULE_").only(&KEYS)).merge(Serialized::defaults(flags));
        Ok(settings::read(&figment, Self::faults)?)
    }

    /// By which files the store is reached.
    pub fn store_access(&self) -> StoreAccess {
        StoreAccess {
            store_ca: self.store_ca.clone(),
            store_cert: self.store_cert.clone(),
            store_key: self.store_key.clone(),
            store_password_file: self.store_password_file.clone(),
        }
    }

    /// The lease as a time.
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }

    /// How many threads answer DNS over UDP.
    pub fn dns_threads(&self) -> usize {
        /// More do not pay unless DNS is this machine's main work; then the setting says so.
        const BY_ITSELF_MAX: usize = 4;
        match self.dns_threads {
            0 => std::thread::available_parallelism().map_or(1, |count| count.get().min(BY_ITSELF_MAX)),
            threads => threads,
        }
    }

    /// Reads the secrets shared with secondaries and owners.
    pub fn secrets(&self) -> Result<Secrets> {
        let mut known: Vec<(String, Vec<u8>, Option<&Owner>)> = vec![];
        let mut open = |of: &str, name: &str, file: &Path, owner| {
            let bytes = key_file::read(file, name).with_context(|| of.to_owned())?;
            let secret = Secret::new(name, bytes.clone()).with_context(|| format!("{of}: key_name"))?;
            // Whoever signs is known by the name alone.
            let same = known.iter().find(|(name, ..)| *name == secret.name());
            if same.is_some_and(|(_, of_same, whose)| *of_same != bytes || *whose != owner) {
                bail!("{of}: key_name `{name}` is there twice, for different secrets or for different uses");
            }
            known.push((secret.name(), bytes, owner));
            Ok(secret)
        };
        let mut secrets = Secrets { secondaries: vec![], updaters: vec![] };
        for Secondary { address, key_name, key_file } in &self.secondaries {
            secrets.secondaries.push((*address, open("secondaries", key_name, key_file, None)?));
        }
        for Updater { owner, key_name, key_file } in &self.updaters {
            let secret = open("updaters", key_name, key_file, Some(owner))?;
            secrets.updaters.push(Key { secret, role: Role::Updater(owner.clone()) });
        }
        Ok(secrets)
    }

    /// The certificates' time.
    pub fn certificate_life(&self) -> Duration {
        Duration::from_secs(self.certificate_hours * 3600)
    }

    fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        let mut check = |good: bool, key: &'static str, fault: &str| {
            if !good {
                faults.push((key, fault.to_owned()));
            }
        };
        check((1..=3600).contains(&self.lease_seconds), "lease_seconds", "1 to 3600 are allowed");
        check((1..=8760).contains(&self.certificate_hours), "certificate_hours", "1 to 8760 are allowed");
        let too_many = format!("0 to {DNS_THREADS_MAX} are allowed");
        check(self.dns_threads <= DNS_THREADS_MAX, "dns_threads", &too_many);
        let too_many = format!("at most {SECONDARIES_MAX} are allowed");
        check(self.secondaries.len() <= SECONDARIES_MAX, "secondaries", &too_many);
        let too_many = format!("at most {UPDATERS_MAX} are allowed");
        check(self.updaters.len() <= UPDATERS_MAX, "updaters", &too_many);
        check(self.owner_capsules_max > 0, "owner_capsules_max", "at least 1 is needed");
        check(
            self.log.parse::<tracing_subscriber::EnvFilter>().is_ok(),
            "log",
            "not a filter such as `info`",
        );
        let usable =
            |addresses: &[SocketAddr]| addresses.iter().all(|address| !address.ip().is_unspecified());
        check(usable(&self.advertise_api), "advertise_api", "0.0.0.0 and :: can't be reached");
        check(usable(&self.advertise_dns), "advertise_dns", "0.0.0.0 and :: can't be reached");
        if self.store != StoreAddress::Embedded {
            // The other directories tell hosts of this one, and do not know at which address they could reach it.
            let known = |advertised: &[SocketAddr], bound: SocketAddr| {
                !advertised.is_empty() || !bound.ip().is_unspecified()
            };
            check(known(&self.advertise_api, self.api), "advertise_api", "a shared store needs it");
            check(known(&self.advertise_dns, self.dns), "advertise_dns", "a shared store needs it");
        }
        if let Err(error) = self.secrets() {
            // Each says first of which setting it speaks.
            let fault = format!("{error:#}");
            let of = |key: &'static str| said_of(key, &fault);
            let (key, rest) = of("updaters").or_else(|| of("secondaries")).unwrap_or(("secondaries", &fault));
            faults.push((key, rest.to_owned()));
        }
        if let Err(error) = self.store_access().options(&self.store) {
            let fault = format!("{error:#}");
            let keys = ["store_ca", "store_cert", "store_key", "store_password_file"];
            let said = keys.into_iter().find_map(|key| said_of(key, &fault));
            let (key, rest) = said.unwrap_or(("store", &fault));
            faults.push((key, rest.to_owned()));
        }
        if let Some(Err(error)) = self.ca_passphrase_file.as_deref().map(Passphrase::read) {
            faults.push(("ca_passphrase_file", format!("{error:#}")));
        }
        faults
    }
}

/// A fault that begins with a setting's name, without it.
fn said_of<'a>(key: &'static str, fault: &'a str) -> Option<(&'static str, &'a str)> {
    fault.strip_prefix(key)?.strip_prefix(": ").map(|rest| (key, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    // `figment::Jail` sets the environment for one test at a time; its error type is as large as it is.
    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        figment::Jail::expect_with(|jail| {
            jail.create_file(
                "d.toml",
                "api = '1.1.1.1:1'\ndns = '1.1.1.1:2'\nhttp = '1.1.1.1:3'\nlease_seconds = 3",
            )?;
            jail.set_env("CAPSULE_DNS", "2.2.2.2:2");
            jail.set_env("CAPSULE_HTTP", "2.2.2.2:3");
            jail.set_env("CAPSULE_ADMIN", "/run/x.sock");
            let flags = Flags { http: "3.3.3.3:3".parse().ok(), ..Flags::default() };
            let config =
                Config::load(Some(Path::new("d.toml")), &flags).map_err(|error| error.to_string())?;
            let addresses = [config.api, config.dns, config.http].map(|address| address.to_string());
            assert_eq!(addresses, ["1.1.1.1:1", "2.2.2.2:2", "3.3.3.3:3"]);
            assert_eq!((config.lease_seconds, config.certificate_hours), (3, 24));
            Ok(())
        });
    }

    #[test]
    fn a_key_name_stands_for_one_secret_and_one_use() {
        figment::Jail::expect_with(|jail| {
            jail.create_file("one", &key_file::show("k", &[1; 32]))?;
            jail.create_file("other", &key_file::show("k", &[2; 32]))?;
            let secondary = |file: &str| {
                format!("[[secondaries]]\naddress = '1.1.1.1:1'\nkey_name = 'K'\nkey_file = '{file}'\n")
            };
            let updater =
                |owner: &str| format!("[[updaters]]\nowner = '{owner}'\nkey_name = 'k'\nkey_file = 'one'\n");
            let secrets = |parts: &[String]| {
                std::fs::write("d.toml", parts.concat()).unwrap();
                Config::load(Some(Path::new("d.toml")), &Flags::default())?.secrets()
            };
            assert_eq!(secrets(&[secondary("one"), secondary("one")]).unwrap().secondaries.len(), 2);
            assert_eq!(secrets(&[updater("ann"), updater("ann")]).unwrap().updaters.len(), 2);
            for twice in [
                [secondary("one"), secondary("other")],
                [updater("ann"), updater("bob")],
                [secondary("one"), updater("ann")],
            ] {
                let error = format!("{:#}", secrets(&twice).err().unwrap());
                assert!(error.contains("twice"), "{twice:?}: {error}");
            }
            Ok(())
        });
    }

    #[test]
    fn faults_say_what_and_where() {
        figment::Jail::expect_with(|jail| {
            for (text, expected) in [
                ("lease = 3", "lease"),
                ("api = 'x'", "api"),
                ("lease_seconds = 0", "lease_seconds"),
                ("advertise_dns = ['0.0.0.0:53']", "advertise_dns"),
                ("log = 'a=b=c'", "log"),
                ("dns_threads = 65", "dns_threads"),
                ("store = 'etcd:'", "etcd://"),
                ("store = 'etcd://127.0.0.1:2379'", "advertise_api"),
                ("store = 'etcd://me@127.0.0.1:2379'", "store_ca"),
                ("store = 'etcd://me:secret@127.0.0.1:2379'", "store_password_file"),
                ("store = 'etcd://127.0.0.1:2379'\nstore_password_file = 'p'", "etcd://USER@"),
                ("store = 'etcd://127.0.0.1:2379'\nstore_ca = 'none.pem'", "none.pem"),
                ("store_ca = 'd.toml'", "embedded"),
            ] {
                jail.create_file("d.toml", text)?;
                let error =
                    Config::load(Some(Path::new("d.toml")), &Flags::default()).unwrap_err().to_string();
                assert!(error.contains(expected), "{text}: {error}");
            }
            let error =
                Config::load(Some(Path::new("none.toml")), &Flags::default()).unwrap_err().to_string();
            assert!(error.contains("none.toml"), "{error}");
            Ok(())
        });
    }
}
