//! The answers of the capsule zone and its two reverse zones, without any DNS library: names and types in, records out.
//! Pure.
//!
//! ```text
//!  ZONE                        SOA NS DNSKEY
//!  ├─ directory                A AAAA          where the directory answers DNS
//!  ├─ hosts                    (nothing)
//!  │   └─ HOST                 A AAAA          where a host is reached
//!  └─ CAPSULE                  A AAAA TXT      its locators; generation, state, host (none while suspended)
//!      └─ _udp                 (nothing)
//!          └─ _capsule         SRV             HOST.hosts.ZONE and its QUIC port; absent without a place
//!      └─ …                    TXT SRV         what the owner added, see [`update`]
//!  88.10.in-addr.arpa          SOA NS DNSKEY   as far as the pool of locators goes, in whole octets
//!  └─ … an octet a label       PTR             CAPSULE.ZONE
//!  …8.8.d.f.ip6.arpa           SOA NS DNSKEY   the same, in whole hexadecimal digits
//!  └─ … a digit a label        PTR             CAPSULE.ZONE
//! ```
//!
//! Within a zone a name is its *path*: its labels from the zone downwards. Paths compare as names do in the canonical
//! order of RFC 4034, section 6.1, which the chain of NSEC records follows.

mod capsules;
mod records;
mod reverse;
mod stamp;
pub mod update;

use std::borrow::Cow;
use std::net::IpAddr;

use directory_api::Zone;

use crate::locators::Pools;
use crate::registry::Registry;

pub use records::{Data, Entry, Kind, ZoneKey};
pub use stamp::{Depends, Stamp};

use capsules::Capsules;
use reverse::{Apex, Reverse};

/// Locators are for life, but a name can be removed and used again.
const TTL_LOCATOR_S: u32 = 30;
/// What a move changes. Sidecars learn it by watch and wait for no TTL.
const TTL_PLACE_S: u32 = 1;
/// A name that is absent may be registered at any moment.
const TTL_NEGATIVE_S: u32 = 2;
/// The zone's own records.
pub const TTL_ZONE_S: u32 = 300;

/// The zones of a mesh, as far as they never change.
#[derive(Debug)]
pub struct Zones {
    zone: Zone,
    servers: Vec<IpAddr>,
    v4: Apex,
    v6: Apex,
}

/// One of the zones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The capsules and hosts by name.
    Capsules,
    /// The capsules by IPv4 locator.
    V4,
    /// The capsules by IPv6 locator.
    V6,
}

/// The labels of a name from the zone downwards, lower case.
pub type Path = Vec<String>;

/// The zones at one moment.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// What never changes.
    pub zones: &'a Zones,
    /// The facts.
    pub registry: &'a Registry,
    /// The keys that the zones show.
    pub keys: &'a [ZoneKey],
}

/// What kind of answer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The name exists; no answers means that it has nothing of that type.
    Found,
    /// The name does not exist.
    NoSuchName,
    /// The name is not in a zone of ours.
    Refused,
}

/// The answer to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What kind it is.
    pub outcome: Outcome,
    /// The zone it is from; none when refused.
    pub origin: Option<Origin>,
    /// What was asked for.
    pub answers: Vec<Entry>,
    /// The SOA of a negative answer.
    pub authority: Vec<Entry>,
    /// The NSEC records that prove a negative answer, for those who ask for proof.
    pub denial: Vec<Entry>,
    /// What will be asked for next.
    pub additional: Vec<Entry>,
    /// What it rests on.
    pub depends: Depends,
}

/// A zone's names below its origin.
trait Tree {
    /// What a name has: empty for a name that only has something below it, `None` for one that is absent.
    fn entries(&self, path: &[String]) -> Option<Vec<Entry>>;
    /// The last name with records that is not behind this one; the origin's is empty.
    fn at_or_before(&self, path: &[String]) -> Path;
    /// The first name with records behind this one.
    fn after(&self, path: &[String]) -> Option<Path>;
    /// What the records of a name rest on.
    fn depends(&self, path: &[String]) -> Depends;
}

impl Zones {
    /// The zones of a mesh; `servers` is where its DNS is answered, without the unspecified ones.
    pub fn new(zone: Zone, pools: &Pools, servers: Vec<IpAddr>) -> Self {
        let mut distinct = Vec::with_capacity(servers.len());
        for server in servers.iter().map(IpAddr::to_canonical) {
            // A set has no record twice; two ports of one address make one record.
            if !distinct.contains(&server) {
                distinct.push(server);
            }
        }
        Self { zone, servers: distinct, v4: Apex::v4(&pools.v4), v6: Apex::v6(&pools.v6) }
    }

    /// All of them.
    pub const ORIGINS: [Origin; 3] = [Origin::Capsules, Origin::V4, Origin::V6];

    /// The name of a zone, without the final dot.
    pub fn name(&self, origin: Origin) -> &str {
        match origin {
            Origin::Capsules => self.zone.as_str(),
            Origin::V4 => &self.v4.name,
            Origin::V6 => &self.v6.name,
        }
    }

    /// The zone that a name is in, and its path there. Labels come in the order of the name, lower case.
    pub fn find(&self, labels: &[&[u8]]) -> Option<(Origin, Path)> {
        Self::ORIGINS.into_iter().find_map(|origin| {
            let mut inside = labels.iter().rev();
            let ours = self.name(origin).split('.').rev();
            ours.into_iter()
                .all(|label| inside.next().is_some_and(|found| *found == label.as_bytes()))
                .then(|| (origin, inside.map(|label| text(label).into_owned()).collect()))
        })
    }

    /// The full name of a path.
    pub fn full_name(&self, origin: Origin, path: &[String]) -> String {
        let zone = std::iter::once(self.name(origin));
        path.iter().rev().map(String::as_str).chain(zone).collect::<Vec<_>>().join(".")
    }
}

/// A label as text that compares with the names of the zones as the label does. Those are ASCII and below DEL.
fn text(label: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(label) {
        Ok(text) if text.is_ascii() => Cow::Borrowed(text),
        Ok(_) | Err(_) => {
            let ascii = label.iter().take_while(|byte| byte.is_ascii()).map(|byte| char::from(*byte));
            Cow::Owned(ascii.chain(['\x7f']).collect())
        }
    }
}

impl View<'_> {
    /// Answers a question about a name, given as its labels in lower case.
    pub fn answer(&self, labels: &[&[u8]], kind: Kind) -> Answer {
        let Some((origin, path)) = self.zones.find(labels) else {
            return Answer {
                outcome: Outcome::Refused,
                origin: None,
                answers: vec![],
                authority: vec![],
                denial: vec![],
                additional: vec![],
                depends: Depends::Nothing,
            };
        };
        let Some(all) = self.entries(origin, &path) else {
            return self.negative(origin, Outcome::NoSuchName, &path);
        };
        let mut answers: Vec<_> =
            all.into_iter().filter(|entry| kind == Kind::Any || entry.data.kind() == kind).collect();
        let mut depends = self.depends(origin, &path, kind);
        if kind == Kind::Nsec && self.tree(origin).at_or_before(&path) == path {
            answers.push(self.link(origin, &path));
            depends = Depends::Revision;
        }
        if answers.is_empty() {
            return self.negative(origin, Outcome::Found, &path);
        }
        let additional = answers.iter().flat_map(|entry| self.needed_next(entry)).collect();
        Answer {
            outcome: Outcome::Found,
            origin: Some(origin),
            answers,
            authority: vec![],
            denial: vec![],
            additional,
            depends,
        }
    }

    /// All records of one name, with its NSEC; of the zone's own name the SOA comes first.
    pub fn owner(&self, origin: Origin, path: &[String]) -> Vec<Entry> {
        let mut entries = self.entries(origin, path).unwrap_or_default();
        entries.push(self.link(origin, path));
        entries
    }

    /// The name with records that follows in canonical order; the first is the zone's own, whose path is empty.
    pub fn after(&self, origin: Origin, path: &[String]) -> Option<Path> {
        self.tree(origin).after(path)
    }

    /// The SOA record of a zone.
    pub fn soa(&self, origin: Origin) -> Entry {
        // Serial numbers go round (RFC 1982); the revision rises by one at a time, so its low half does as they should.
        let serial = u32::try_from(self.registry.revision & u64::from(u32::MAX)).unwrap_or(0);
        let data = Data::Soa {
            server: self.zones.zone.directory(),
            mailbox: format!("hostmaster.{}", self.zones.zone),
            serial,
            negative_ttl: TTL_NEGATIVE_S,
        };
        Entry { name: self.zones.name(origin).to_owned(), ttl: TTL_ZONE_S, data }
    }

    fn tree(&self, origin: Origin) -> Box<dyn Tree + '_> {
        let Self { zones, registry, .. } = *self;
        match origin {
            Origin::Capsules => Box::new(Capsules { zone: &zones.zone, servers: &zones.servers, registry }),
            Origin::V4 => Box::new(Reverse { apex: &zones.v4, zone: &zones.zone, registry }),
            Origin::V6 => Box::new(Reverse { apex: &zones.v6, zone: &zones.zone, registry }),
        }
    }

    fn entries(&self, origin: Origin, path: &[String]) -> Option<Vec<Entry>> {
        if !path.is_empty() {
            return self.tree(origin).entries(path);
        }
        let entry = |data| Entry { name: self.zones.name(origin).to_owned(), ttl: TTL_ZONE_S, data };
        let keys = self.keys.iter().map(|key| entry(Data::Dnskey(key.clone())));
        let server = entry(Data::Ns(self.zones.zone.directory()));
        Some([self.soa(origin), server].into_iter().chain(keys).collect())
    }

    fn depends(&self, origin: Origin, path: &[String], kind: Kind) -> Depends {
        match kind {
            Kind::Ns | Kind::Dnskey if path.is_empty() => Depends::Nothing,
            _ if path.is_empty() => Depends::Revision,
            _ => self.tree(origin).depends(path),
        }
    }

    fn needed_next(&self, entry: &Entry) -> Vec<Entry> {
        match &entry.data {
            Data::Srv { target, .. } | Data::Ns(target) => {
                let labels: Vec<_> = target.split('.').map(str::as_bytes).collect();
                let inside = self.zones.find(&labels);
                let entries = inside.and_then(|(origin, path)| self.entries(origin, &path));
                let mut entries = entries.unwrap_or_default();
                entries.retain(|entry| matches!(entry.data.kind(), Kind::A | Kind::Aaaa));
                entries
            }
            Data::A(_)
            | Data::Aaaa(_)
            | Data::Txt(_)
            | Data::Ptr(_)
            | Data::Soa { .. }
            | Data::Dnskey(_)
            | Data::Nsec { .. } => vec![],
        }
    }

    /// RFC 4035, section 3.1.3: for an absent type the NSEC at the name, or in front of a name that has no records; for an
    /// absent name the NSEC that spans it, and the one that spans the wildcard that could stand for it.
    fn negative(&self, origin: Origin, outcome: Outcome, path: &[String]) -> Answer {
        let tree = self.tree(origin);
        let mut owners = vec![tree.at_or_before(path)];
        if outcome == Outcome::NoSuchName {
            let exists = |length: &usize| *length == 0 || tree.entries(&path[..*length]).is_some();
            let encloser = (0..path.len()).rev().find(exists).unwrap_or(0);
            let wildcard: Path = path[..encloser].iter().cloned().chain(["*".to_owned()]).collect();
            owners.push(tree.at_or_before(&wildcard));
            owners.dedup();
        }
        // RFC 2308, section 3: the TTL of the SOA in a negative answer is that of the answer.
        let soa = Entry { ttl: TTL_NEGATIVE_S, ..self.soa(origin) };
        Answer {
            outcome,
            origin: Some(origin),
            answers: vec![],
            authority: vec![soa],
            denial: owners.iter().map(|owner| self.link(origin, owner)).collect(),
            additional: vec![],
            depends: Depends::Revision,
        }
    }

    /// The NSEC record of a name: which types it has and which name follows.
    fn link(&self, origin: Origin, path: &[String]) -> Entry {
        let mut kinds: Vec<_> =
            self.entries(origin, path).unwrap_or_default().iter().map(|entry| entry.data.kind()).collect();
        kinds.dedup();
        let next = self.tree(origin).after(path).unwrap_or_default();
        let data = Data::Nsec { next: self.zones.full_name(origin, &next), kinds };
        // RFC 9077: no longer than a negative answer.
        Entry { name: self.zones.full_name(origin, path), ttl: TTL_NEGATIVE_S, data }
    }
}

fn addresses(name: &str, addresses: &[IpAddr], ttl: u32) -> Vec<Entry> {
    let data = |address: &IpAddr| match address.to_canonical() {
        IpAddr::V4(v4) => Data::A(v4),
        IpAddr::V6(v6) => Data::Aaaa(v6),
    };
    let mut entries: Vec<_> =
        addresses.iter().map(|address| Entry { name: name.to_owned(), ttl, data: data(address) }).collect();
    // Records of one type stand together, since they are signed together.
    entries.sort_by_key(|entry| entry.data.kind());
    entries
}

#[cfg(test)]
mod tests;
