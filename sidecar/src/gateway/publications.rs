//! What a gateway publishes, on disk.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use directory_api::CapsuleRecord;
use overlay_proto::{CapsuleId, CapsuleName};
use serde::{Deserialize, Serialize};

/// What is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// The word for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port of a capsule that machines outside reach at a port of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Publication {
    /// The capsule: another one that has its name later is not meant.
    pub capsule: CapsuleId,
    /// Its name.
    pub name: CapsuleName,
    /// What it carries.
    pub protocol: Protocol,
    /// Its port.
    pub port: u16,
    /// The port of this host.
    pub host_port: u16,
    /// The rule of the policy that was made for it; none when there was one.
    pub rule: Option<u64>,
    /// Its program is told by a header of the PROXY protocol which machine each connection comes from.
    #[serde(default)]
    pub proxy_protocol: bool,
}

impl Publication {
    /// Whether it is at this port of the host.
    pub(crate) fn is_at(&self, protocol: Protocol, host_port: u16) -> bool {
        (self.protocol, self.host_port) == (protocol, host_port)
    }

    /// What the gateway's shim holds its listeners as: of IPv4 and IPv6.
    pub(crate) fn listeners(&self) -> [String; 2] {
        ["published4", "published6"]
            .map(|kind| format!("{kind}-{}-{}", self.protocol.as_str(), self.host_port))
    }

    /// Where its connections go, IPv4 first.
    pub(crate) fn destinations(&self, record: &CapsuleRecord) -> [SocketAddr; 2] {
        let (v4, v6) = (record.locators.v4.into(), record.locators.v6.into());
        [SocketAddr::new(v4, self.port), SocketAddr::new(v6, self.port)]
    }

    /// Whether the rule that was made for another one allows this one too.
    pub(super) fn needs_the_rule_of(&self, other: &Self) -> bool {
        (self.capsule, self.port) == (other.capsule, other.port)
    }
}

/// What is published from this directory.
pub(super) fn read(directory: &Path) -> anyhow::Result<Vec<Publication>> {
    let path = directory.join("published.json");
    match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Notes what is published: a crash leaves the old or the new.
pub(super) fn write(directory: &Path, all: &[Publication]) -> anyhow::Result<()> {
    write_json(directory, "published.json", &all)
}

/// Writes a file so that a crash leaves the old one or the new one.
pub(super) fn write_json(directory: &Path, name: &str, what: &impl Serialize) -> anyhow::Result<()> {
    let (path, draft) = (directory.join(name), directory.join(format!("{name}.new")));
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&draft)?;
        file.write_all(&serde_json::to_vec_pretty(what)?)?;
        file.sync_all()?;
        std::fs::rename(&draft, &path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_read_as_it_was_written() {
        let directory = std::env::temp_dir().join(format!("capsule-published-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        assert_eq!(read(&directory).unwrap(), []);
        let one = Publication {
            capsule: CapsuleId::from_bytes([7; 16]),
            name: "db".parse().unwrap(),
            protocol: Protocol::Tcp,
            port: 5432,
            host_port: 15432,
            rule: Some(9),
            proxy_protocol: true,
        };
        let two = Publication {
            protocol: Protocol::Udp,
            host_port: 80,
            rule: None,
            proxy_protocol: false,
            ..one.clone()
        };
        write(&directory, &[one.clone(), two.clone()]).unwrap();
        let found = read(&directory);
        let path = directory.join("published.json");
        let older = std::fs::read_to_string(&path).unwrap().replace(",\n    \"proxy_protocol\": false", "");
        std::fs::write(&path, older).unwrap();
        let of_older = read(&directory);
        std::fs::write(path, "nothing").unwrap();
        let damaged = read(&directory);
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(found.unwrap(), [one.clone(), two.clone()]);
        assert_eq!(of_older.unwrap(), [one, two]);
        assert!(damaged.unwrap_err().to_string().contains("published.json"));
    }
}
