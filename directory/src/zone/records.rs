//! Records as the zones know them.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::extras::ExtraData;

/// The record types that the zones know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// IPv4 address.
    A,
    /// IPv6 address.
    Aaaa,
    /// Service: host and port.
    Srv,
    /// Text.
    Txt,
    /// The name of an address.
    Ptr,
    /// Name servers.
    Ns,
    /// Start of authority.
    Soa,
    /// The keys that sign the zone.
    Dnskey,
    /// The types of a name, and the name that follows.
    Nsec,
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
        /// Lower ones are tried first.
        priority: u16,
        /// Share of the load among those of one priority.
        weight: u16,
        /// Where it listens; of a capsule's host its QUIC port.
        port: u16,
        /// The machine's name.
        target: String,
    },
    /// Text, one string of up to 255 bytes per item.
    Txt(Vec<Vec<u8>>),
    /// The name of an address.
    Ptr(String),
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
    /// A key that signs the zone.
    Dnskey(ZoneKey),
    /// The types of a name, without those that only DNSSEC adds, and the name that follows.
    Nsec {
        /// The name that follows; behind the last one the zone's own.
        next: String,
        /// The types.
        kinds: Vec<Kind>,
    },
}

/// The public half of a key of the zones: Ed25519 (RFC 8080), for zone and key signing alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneKey(pub [u8; 32]);

impl From<&ExtraData> for Data {
    fn from(added: &ExtraData) -> Self {
        match added {
            ExtraData::Txt(strings) => Self::Txt(strings.clone()),
            ExtraData::Srv { priority, weight, port, target } => {
                Self::Srv { priority: *priority, weight: *weight, port: *port, target: target.clone() }
            }
        }
    }
}

impl Data {
    /// The record's type.
    pub fn kind(&self) -> Kind {
        match self {
            Self::A(_) => Kind::A,
            Self::Aaaa(_) => Kind::Aaaa,
            Self::Srv { .. } => Kind::Srv,
            Self::Txt(_) => Kind::Txt,
            Self::Ptr(_) => Kind::Ptr,
            Self::Ns(_) => Kind::Ns,
            Self::Soa { .. } => Kind::Soa,
            Self::Dnskey(_) => Kind::Dnskey,
            Self::Nsec { .. } => Kind::Nsec,
        }
    }
}
