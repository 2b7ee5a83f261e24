//! The answers of the capsule zone, without any DNS library: names and types in, records out. Pure.
//!
//! ```text
//!  ZONE                        SOA NS
//!  ├─ directory                A AAAA          where the directory answers DNS
//!  ├─ hosts                    (nothing)
//!  │   └─ HOST                 A AAAA          where a host is reached
//!  └─ CAPSULE                  A AAAA TXT      its locators; generation, state, host (none while suspended)
//!      └─ _udp                 (nothing)
//!          └─ _capsule         SRV             HOST.hosts.ZONE and its QUIC port
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use directory_api::{CapsuleRecord, Zone};

use crate::registry::{HostEntry, Registry};

/// Locators are for life, but a name can be removed and used again.
const TTL_LOCATOR_S: u32 = 30;
/// What a move changes. Sidecars learn it by watch and wait for no TTL.
const TTL_PLACE_S: u32 = 1;
/// A name that is absent may be registered at any moment.
const TTL_NEGATIVE_S: u32 = 2;
/// The zone's own records.
const TTL_ZONE_S: u32 = 300;

/// A zone at one moment.
pub struct View<'a> {
    /// Its name.
    pub zone: &'a Zone,
    /// The facts.
    pub registry: &'a Registry,
    /// Where the directory answers DNS; without the unspecified ones.
    pub servers: &'a [IpAddr],
}

/// The record types that the zone knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 address.
    A,
    /// IPv6 address.
    Aaaa,
    /// Service: host and port.
    Srv,
    /// Text.
    Txt,
    /// Name servers.
    Ns,
    /// Start of authority.
    Soa,
    /// All of them.
    Any,
    /// A type that no name here has.
    Other,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whose, lower case, without the final dot.
    pub name: String,
    /// How long it may be kept, seconds.
    pub ttl: u32,
    /// What it says.
    pub data: Data,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// IPv4 address.
    A(Ipv4Addr),
    /// IPv6 address.
    Aaaa(Ipv6Addr),
    /// Service.
    Srv {
        /// QUIC port.
        port: u16,
        /// Host name.
        target: String,
    },
    /// Text, one string per item.
    Txt(Vec<String>),
    /// Name server.
    Ns(String),
    /// Start of authority.
    Soa {
        /// Primary server.
        server: String,
        /// Mailbox as a name.
        mailbox: String,
        /// Rises with each change.
        serial: u32,
        /// How long a negative answer may be kept, seconds.
        negative_ttl: u32,
    },
}

/// How a question ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The name exists; with no answers, it has nothing of that type.
    Found,
    /// There is no such name, nor any below it.
    NoSuchName,
    /// Not a name of this zone.
    Refused,
}

/// An answer in its three sections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// How it ends.
    pub outcome: Outcome,
    /// What was asked for.
    pub answers: Vec<Entry>,
    /// The SOA, of a negative answer.
    pub authority: Vec<Entry>,
    /// What will be asked next.
    pub additional: Vec<Entry>,
}

impl View<'_> {
    /// Answers for a name, given as its labels from the left, in lower case.
    pub fn answer(&self, labels: &[&str], kind: Kind) -> Answer {
        let Some(inside) = self.inside(labels) else {
            return Answer {
                outcome: Outcome::Refused,
                answers: vec![],
                authority: vec![],
                additional: vec![],
            };
        };
        let Some(all) = self.entries(inside) else { return self.negative(Outcome::NoSuchName) };
        let answers: Vec<_> =
            all.into_iter().filter(|entry| kind == Kind::Any || entry.data.kind() == kind).collect();
        if answers.is_empty() {
            return self.negative(Outcome::Found);
        }
        let additional = answers.iter().flat_map(|entry| self.needed_next(entry)).collect();
        Answer { outcome: Outcome::Found, answers, authority: vec![], additional }
    }

    /// The labels left of the zone's own; `None` when the name is outside.
    fn inside<'l>(&self, labels: &'l [&'l str]) -> Option<&'l [&'l str]> {
        let zone: Vec<_> = self.zone.as_str().split('.').collect();
        let (inside, outside) = labels.split_at_checked(labels.len().checked_sub(zone.len())?)?;
        (outside == zone).then_some(inside)
    }

    /// Everything that a name has; `None` when it does not exist.
    fn entries(&self, labels: &[&str]) -> Option<Vec<Entry>> {
        match labels {
            [] => Some(vec![self.soa(), self.entry(self.zone.to_string(), TTL_ZONE_S, self.ns())]),
            ["hosts"] => Some(vec![]),
            ["directory"] => Some(self.addresses(&self.zone.directory(), self.servers, TTL_ZONE_S)),
            [host, "hosts"] => {
                let host = self.registry.host(&host.parse().ok()?)?;
                self.host(host)
            }
            [capsule] => Some(self.capsule(self.named(capsule)?)),
            ["_udp", capsule] => self.named(capsule).map(|_| vec![]),
            ["_capsule", "_udp", capsule] => Some(self.place(self.named(capsule)?)),
            _ => None,
        }
    }

    fn named(&self, name: &str) -> Option<&CapsuleRecord> {
        self.registry.capsule_named(&name.parse().ok()?)
    }

    fn capsule(&self, record: &CapsuleRecord) -> Vec<Entry> {
        let name = self.zone.capsule(&record.name);
        let locators = [IpAddr::V4(record.locators.v4), IpAddr::V6(record.locators.v6)];
        let mut entries = self.addresses(&name, &locators, TTL_LOCATOR_S);
        let mut text = vec![
            format!("gen={}", record.generation),
            format!("state={}", self.registry.shown_state(record)),
        ];
        if record.suspension.is_none() {
            text.push(format!("host={}", record.host));
        }
        entries.push(self.entry(name, TTL_PLACE_S, Data::Txt(text)));
        entries
    }

    fn place(&self, record: &CapsuleRecord) -> Vec<Entry> {
        let name = format!("_capsule._udp.{}", self.zone.capsule(&record.name));
        let host = self.registry.host(&record.host).filter(|_| record.suspension.is_none());
        let address = host.and_then(|host| host.address);
        let srv = |port| Data::Srv { port, target: self.zone.host(&record.host) };
        address
            .into_iter()
            .map(|address| self.entry(name.clone(), TTL_PLACE_S, srv(address.port())))
            .collect()
    }

    fn host(&self, host: &HostEntry) -> Option<Vec<Entry>> {
        Some(self.addresses(&self.zone.host(&host.name), &[host.address?.ip()], TTL_PLACE_S))
    }

    fn needed_next(&self, entry: &Entry) -> Vec<Entry> {
        match &entry.data {
            Data::Srv { target, .. } => {
                let labels: Vec<_> = target.split('.').collect();
                self.inside(&labels).and_then(|inside| self.entries(inside)).unwrap_or_default()
            }
            Data::Ns(target) => self.addresses(target, self.servers, TTL_ZONE_S),
            Data::A(_) | Data::Aaaa(_) | Data::Txt(_) | Data::Soa { .. } => vec![],
        }
    }

    fn negative(&self, outcome: Outcome) -> Answer {
        // RFC 2308, section 3: the TTL of the SOA in a negative answer is that of the answer.
        let soa = Entry { ttl: TTL_NEGATIVE_S, ..self.soa() };
        Answer { outcome, answers: vec![], authority: vec![soa], additional: vec![] }
    }

    fn soa(&self) -> Entry {
        let serial = u32::try_from(self.registry.revision & u64::from(u32::MAX)).unwrap_or(0);
        let data = Data::Soa {
            server: self.zone.directory(),
            mailbox: format!("hostmaster.{}", self.zone),
            serial,
            negative_ttl: TTL_NEGATIVE_S,
        };
        self.entry(self.zone.to_string(), TTL_ZONE_S, data)
    }

    fn ns(&self) -> Data {
        Data::Ns(self.zone.directory())
    }

    fn addresses(&self, name: &str, addresses: &[IpAddr], ttl: u32) -> Vec<Entry> {
        let data = |address: &IpAddr| match address.to_canonical() {
            IpAddr::V4(v4) => Data::A(v4),
            IpAddr::V6(v6) => Data::Aaaa(v6),
        };
        addresses.iter().map(|address| self.entry(name.to_owned(), ttl, data(address))).collect()
    }

    fn entry(&self, name: String, ttl: u32, data: Data) -> Entry {
        Entry { name, ttl, data }
    }
}

impl Data {
    fn kind(&self) -> Kind {
        match self {
            Self::A(_) => Kind::A,
            Self::Aaaa(_) => Kind::Aaaa,
            Self::Srv { .. } => Kind::Srv,
            Self::Txt(_) => Kind::Txt,
            Self::Ns(_) => Kind::Ns,
            Self::Soa { .. } => Kind::Soa,
        }
    }
}

#[cfg(test)]
mod tests;
