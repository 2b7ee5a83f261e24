//! Names outside of the zone: which servers this host asks for them, and what it remembers of their answers. One for all
//! capsules of the host.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use serde::{Deserialize, Serialize};

use super::PORT;
use super::asking::Asking;
use super::cache::{Answers, Asked};
use super::exchange::Transport;
use crate::limits::{
    UPSTREAM_HEAD_START, UPSTREAM_LOOK, UPSTREAM_PATIENCE, UPSTREAM_SERVERS, UPSTREAM_TIMEOUT,
};

/// The file that names the host's own resolver.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A DNS server as settings name it: an address, with a port if it is not 53.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NameServer(pub SocketAddr);

impl TryFrom<String> for NameServer {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let alone = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, PORT));
        let address = alone.or_else(|_| text.parse());
        address.map(Self).map_err(|_| format!("{text:?} is neither an address nor ADDRESS:PORT"))
    }
}

impl From<NameServer> for String {
    fn from(server: NameServer) -> Self {
        server.0.to_string()
    }
}

/// The host's resolver.
pub struct HostResolver {
    servers: Servers,
    answers: Answers,
}

enum Servers {
    /// As the settings say.
    Set(Vec<SocketAddr>),
    /// As a file in the form of `/etc/resolv.conf` says, which is looked at again after a while.
    File { path: PathBuf, read: Mutex<Option<(Instant, Vec<SocketAddr>)>> },
}

impl HostResolver {
    /// With these servers; without any, with those of `/etc/resolv.conf`.
    pub fn new(servers: &[NameServer]) -> Self {
        if servers.is_empty() {
            return Self::of_file(RESOLV_CONF.into());
        }
        let servers = servers.iter().take(UPSTREAM_SERVERS).map(|server| server.0);
        Self { servers: Servers::Set(servers.collect()), answers: Answers::new() }
    }

    /// With the servers that a file names, also when they change.
    pub(super) fn of_file(path: PathBuf) -> Self {
        Self { servers: Servers::File { path, read: Mutex::default() }, answers: Answers::new() }
    }

    /// The answer to a query: what is remembered, else what a server says within [`UPSTREAM_PATIENCE`].
    pub(super) async fn answer(
        &self,
        query: &Message,
        bytes: &[u8],
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let asked = Asked::of(query, transport);
        let (servers, are_others) = self.servers.all(Instant::now());
        if are_others {
            // Another network may have other answers.
            self.answers.forget_all();
        }
        if let Some(known) = asked.as_ref().and_then(|asked| self.answers.find(asked, query, Instant::now()))
        {
            return Some(known);
        }
        let asking = Asking { limit: UPSTREAM_TIMEOUT, head_start: UPSTREAM_HEAD_START, transport };
        let (_, answer) =
            tokio::time::timeout(UPSTREAM_PATIENCE, asking.first(&servers, bytes)).await.ok()??;
        if let Some(asked) = asked {
            self.answers.keep(asked, &answer, Instant::now());
        }
        Some(answer)
    }
}

impl Servers {
    /// All of them, and whether they are others than the last time.
    fn all(&self, now: Instant) -> (Vec<SocketAddr>, bool) {
        match self {
            Self::Set(servers) => (servers.clone(), false),
            Self::File { path, read } => {
                let mut read = read.lock().expect("no panics under this lock");
                match &*read {
                    Some((when, servers)) if now.saturating_duration_since(*when) < UPSTREAM_LOOK => {
                        (servers.clone(), false)
                    }
                    // What can't be read this time, since it is being written anew, was right a moment ago.
                    before => {
                        let text = std::fs::read_to_string(path);
                        let old = || before.as_ref().map(|(_, servers)| servers.clone()).unwrap_or_default();
                        let servers = text.map_or_else(|_| old(), |text| named_in(&text));
                        let are_others = before.as_ref().is_some_and(|(_, old)| *old != servers);
                        *read = Some((now, servers.clone()));
                        (servers, are_others)
                    }
                }
            }
        }
    }
}

/// The servers that a text in the form of `/etc/resolv.conf` names.
fn named_in(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses = lines.filter_map(|rest| rest.trim().parse::<IpAddr>().ok());
    addresses.map(|address| SocketAddr::new(address, PORT)).take(UPSTREAM_SERVERS).collect()
}

/// Whether so many servers can all be asked in time.
const _: () = assert!(
    UPSTREAM_HEAD_START.as_millis() * (UPSTREAM_SERVERS as u128) < UPSTREAM_PATIENCE.as_millis()
        && Duration::as_millis(&UPSTREAM_TIMEOUT) < UPSTREAM_PATIENCE.as_millis()
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_followed_when_the_file_changes() {
        let path = std::env::temp_dir().join(format!("capsule-resolv-{}", std::process::id()));
        std::fs::write(
            &path,
            "# a comment\nsearch example\nnameserver 192.0.2.1\n nameserver\t2001:db8::1\nnameserver x\n",
        )
        .unwrap();
        let resolver = HostResolver::of_file(path.clone());
        let began = Instant::now();
        let old: Vec<SocketAddr> = vec!["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()];
        assert_eq!(resolver.servers.all(began), (old.clone(), false));
        std::fs::write(&path, "nameserver 192.0.2.2\n").unwrap();
        assert_eq!(resolver.servers.all(began), (old, false), "not looked at for every query");
        let new: Vec<SocketAddr> = vec!["192.0.2.2:53".parse().unwrap()];
        assert_eq!(resolver.servers.all(began + UPSTREAM_LOOK), (new.clone(), true));
        std::fs::remove_file(&path).unwrap();
        let later = resolver.servers.all(began + UPSTREAM_LOOK * 2);
        assert_eq!(later, (new, false), "a file that is away for a moment");
    }

    #[test]
    fn settings_name_servers_with_or_without_a_port() {
        let read = |text: &str| NameServer::try_from(text.to_owned()).map(|server| server.0.to_string());
        assert_eq!(read("192.0.2.1").unwrap(), "192.0.2.1:53");
        assert_eq!(read("192.0.2.1:5353").unwrap(), "192.0.2.1:5353");
        assert_eq!(read("2001:db8::1").unwrap(), "[2001:db8::1]:53");
        assert_eq!(read("[2001:db8::1]:5353").unwrap(), "[2001:db8::1]:5353");
        assert!(read("dns.example").unwrap_err().contains("dns.example"));
    }
}
