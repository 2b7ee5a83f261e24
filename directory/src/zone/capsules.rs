//! The names of capsules and hosts.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Bound::{Excluded, Included, Unbounded};

use directory_api::{CapsuleRecord, Zone};

use crate::extras::{ExtraData, ExtraRecord};
use crate::registry::{HostEntry, Registry};

use super::{Data, Depends, Entry, Path, TTL_LOCATOR_S, TTL_PLACE_S, TTL_ZONE_S, Tree, addresses};

/// The tree below the capsule zone.
pub(super) struct Capsules<'a> {
    pub(super) zone: &'a Zone,
    pub(super) servers: &'a [IpAddr],
    pub(super) registry: &'a Registry,
}

const DIRECTORY: &str = "directory";
const HOSTS: &str = "hosts";
/// Where a capsule's place stands, from its name downwards.
pub(super) const PLACE: [&str; 2] = ["_udp", "_capsule"];

impl Tree for Capsules<'_> {
    fn entries(&self, path: &[String]) -> Option<Vec<Entry>> {
        let labels: Vec<_> = path.iter().map(String::as_str).collect();
        match labels[..] {
            [DIRECTORY] if !self.servers.is_empty() => {
                Some(addresses(&self.zone.directory(), self.servers, TTL_ZONE_S))
            }
            [HOSTS] => self.last_host(None).map(|_| vec![]),
            [HOSTS, name] => {
                let host = self.registry.host(&name.parse().ok()?)?;
                Some(addresses(&self.zone.host(&host.name), &[host.address?.ip()], TTL_PLACE_S))
            }
            [capsule, ref below @ ..] => {
                let mut beneath = self.subtree(self.named(capsule)?);
                let exact = beneath.iter().position(|(path, _)| path == below);
                match exact {
                    Some(at) => Some(beneath.swap_remove(at).1),
                    None => beneath.iter().any(|(path, _)| path.starts_with(below)).then(Vec::new),
                }
            }
            [] => None,
        }
    }

    fn at_or_before(&self, path: &[String]) -> Path {
        let Some(top) = path.first() else { return vec![] };
        let inside = match top.as_str() {
            HOSTS => path.get(1).and_then(|host| self.last_host(Some(host))),
            top => self.owners(top).into_iter().rfind(|owner| owner.as_slice() <= path),
        };
        inside.or_else(|| self.last_before(top)).unwrap_or_default()
    }

    fn after(&self, path: &[String]) -> Option<Path> {
        let top = path.first().map(String::as_str);
        let inside = match top {
            Some(HOSTS) => self.first_host(path.get(1).map(String::as_str)),
            Some(top) => self.owners(top).into_iter().find(|owner| owner.as_slice() > path),
            None => None,
        };
        inside.or_else(|| self.first_after(top))
    }

    fn depends(&self, path: &[String]) -> Depends {
        match path {
            [top] if top == DIRECTORY => Depends::Nothing,
            [top, host, ..] if top == HOSTS => Depends::on(host),
            [capsule, ..] => match self.named(capsule) {
                // What is beside an added service is of any name.
                Some(record) if self.has_added_services(record) => Depends::Revision,
                Some(record) => Depends::on_both(capsule, record.host.as_str()),
                None => Depends::Revision,
            },
            [] => Depends::Revision,
        }
    }
}

impl Capsules<'_> {
    fn named(&self, name: &str) -> Option<&CapsuleRecord> {
        self.registry.capsule_named(&name.parse().ok()?)
    }

    fn has_added_services(&self, record: &CapsuleRecord) -> bool {
        let is_service = |extra: &ExtraRecord| matches!(extra.data, ExtraData::Srv { .. });
        self.registry.extras(record.id).iter().any(is_service)
    }

    /// The names with records at and below a capsule, as far as they are below it, in canonical order.
    fn subtree(&self, record: &CapsuleRecord) -> Vec<(Vec<&str>, Vec<Entry>)> {
        let mut names = vec![(vec![], self.capsule(record))];
        names.extend(self.place(record).map(|place| (PLACE.to_vec(), vec![place])));
        match self.registry.extras(record.id) {
            [] => names,
            added => self.with_added(record, names, added),
        }
    }

    fn with_added<'n>(
        &self,
        record: &CapsuleRecord,
        names: Vec<(Vec<&'n str>, Vec<Entry>)>,
        added: &'n [ExtraRecord],
    ) -> Vec<(Vec<&'n str>, Vec<Entry>)> {
        let mut names: BTreeMap<_, _> = names.into_iter().collect();
        for extra in added {
            let below: Vec<_> = extra.below.iter().map(String::as_str).collect();
            let capsule = self.zone.capsule(&record.name);
            let name = below.iter().rev().copied().chain([capsule.as_str()]).collect::<Vec<_>>().join(".");
            let data = Data::from(&extra.data);
            let entries = names.entry(below).or_default();
            // RFC 2181, section 5.2: a set of records has one TTL; what a move changes has its own.
            let same = entries.iter().find(|entry| entry.data.kind() == data.kind());
            let ttl = same.map_or(extra.ttl, |entry| entry.ttl);
            entries.push(Entry { name, ttl, data });
        }
        for entries in names.values_mut() {
            entries.sort_by_key(|entry| entry.data.kind());
        }
        names.into_iter().collect()
    }

    fn capsule(&self, record: &CapsuleRecord) -> Vec<Entry> {
        let name = self.zone.capsule(&record.name);
        let locators = [IpAddr::V4(record.locators.v4), IpAddr::V6(record.locators.v6)];
        let mut entries = addresses(&name, &locators, TTL_LOCATOR_S);
        let shown = self.registry.shown(record);
        let mut text = vec![
            format!("gen={}", shown.generation).into_bytes(),
            format!("state={}", shown.state).into_bytes(),
        ];
        if shown.suspension.is_none() {
            text.push(format!("host={}", shown.host).into_bytes());
        }
        entries.push(Entry { name, ttl: TTL_PLACE_S, data: Data::Txt(text) });
        entries
    }

    fn place(&self, record: &CapsuleRecord) -> Option<Entry> {
        let shown = self.registry.shown(record);
        let placed = shown.suspension.is_none() && !self.registry.is_unsure(record);
        let host = self.registry.host(&shown.host).filter(|_| placed)?;
        let (port, target) = (host.address?.port(), self.zone.host(&shown.host));
        let data = Data::Srv { priority: 0, weight: 0, port, target };
        let name = format!("_capsule._udp.{}", self.zone.capsule(&record.name));
        Some(Entry { name, ttl: TTL_PLACE_S, data })
    }

    /// The names with records whose first label this is, other than hosts.
    fn owners(&self, top: &str) -> Vec<Path> {
        if top == DIRECTORY {
            return if self.servers.is_empty() { vec![] } else { vec![vec![top.to_owned()]] };
        }
        let Some(record) = self.named(top) else { return vec![] };
        let owner = |(below, _): (Vec<&str>, _)| {
            std::iter::once(top).chain(below).map(str::to_owned).collect::<Path>()
        };
        self.subtree(record).into_iter().map(owner).collect()
    }

    /// The last name whose first label is before this one.
    fn last_before(&self, top: &str) -> Option<Path> {
        let capsule = self.registry.capsule_names((Unbounded, Excluded(top))).next_back();
        let fixed = self.fixed().filter(|fixed| *fixed < top);
        let before = fixed.chain(capsule.map(|name| name.as_str())).max()?;
        if before == HOSTS { self.last_host(None) } else { self.owners(before).pop() }
    }

    /// The first name whose first label is behind this one; without one, the first of all.
    fn first_after(&self, top: Option<&str>) -> Option<Path> {
        let low = top.map_or(Unbounded, Excluded);
        let capsule = self.registry.capsule_names((low, Unbounded)).next();
        let fixed = self.fixed().filter(|fixed| top.is_none_or(|top| *fixed > top));
        let next = fixed.chain(capsule.map(|name| name.as_str())).min()?;
        if next == HOSTS { self.first_host(None) } else { self.owners(next).into_iter().next() }
    }

    /// The first labels that are no capsules' and have records at or below them.
    fn fixed<'s>(&self) -> impl Iterator<Item = &'s str> + use<'s> {
        let directory = (!self.servers.is_empty()).then_some(DIRECTORY);
        let hosts = self.last_host(None).map(|_| HOSTS);
        directory.into_iter().chain(hosts)
    }

    fn last_host(&self, up_to: Option<&str>) -> Option<Path> {
        let high = up_to.map_or(Unbounded, Included);
        self.registry.hosts_within((Unbounded, high)).rev().find_map(host_path)
    }

    fn first_host(&self, behind: Option<&str>) -> Option<Path> {
        let low = behind.map_or(Unbounded, Excluded);
        self.registry.hosts_within((low, Unbounded)).find_map(host_path)
    }
}

fn host_path(host: &HostEntry) -> Option<Path> {
    host.address.map(|_| vec![HOSTS.to_owned(), host.name.to_string()])
}
