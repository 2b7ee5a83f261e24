//! All facts in memory, with their indexes; what requests and DNS are answered from. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::time::SystemTime;

use directory_api::{ApiError, CapsuleRecord, CapsuleState, HostRecord, LookupKey, Policy};
use overlay_proto::{CapsuleId, CapsuleName, HostName, Locators, Owner};

use crate::assertions::Asserting;
use crate::extras::ExtraRecord;
use crate::reverse_order::ReverseOrder;
use crate::store::StoredHost;

/// The facts at one revision.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    /// Rises by one with each change.
    pub revision: u64,
    /// Who may connect to whom.
    pub policy: Policy,
    /// The restore that is not settled, if there is one.
    pub asserting: Option<Arc<Asserting>>,
    capsules: HashMap<CapsuleId, CapsuleRecord>,
    by_name: BTreeMap<CapsuleName, CapsuleId>,
    /// In the order that the reverse zone has.
    by_v4: BTreeMap<ReverseOrder, CapsuleId>,
    by_v6: BTreeMap<Ipv6Addr, CapsuleId>,
    by_host: HashMap<HostName, BTreeSet<CapsuleId>>,
    /// How many capsules each owner has.
    owned: HashMap<Owner, usize>,
    hosts: BTreeMap<HostName, HostEntry>,
    /// Of hosts that may not register everybody's capsules.
    owners: HashMap<HostName, Vec<Owner>>,
    /// Of capsules to which something was added.
    extras: HashMap<CapsuleId, Vec<ExtraRecord>>,
}

/// A host: what the store keeps of it, and what is only known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEntry {
    /// Its name.
    pub name: HostName,
    /// Whether verbs forwarded from it are taken.
    pub operator: bool,
    /// Where it is reached; `None` before its first lease.
    pub address: Option<SocketAddr>,
    /// Whether its lease is good.
    pub alive: bool,
    /// When it last renewed.
    pub last_seen: SystemTime,
}

impl Registry {
    /// Begins empty, at a revision.
    pub fn at(revision: u64) -> Self {
        Self { revision, ..Self::default() }
    }

    /// Puts a capsule in, or in its older record's place.
    pub fn put_capsule(&mut self, record: CapsuleRecord) {
        if let Some(older) = self.capsules.remove(&record.id) {
            self.forget_place(&older);
        }
        self.by_host.entry(record.host.clone()).or_default().insert(record.id);
        *self.owned.entry(record.owner.clone()).or_default() += 1;
        self.by_name.insert(record.name.clone(), record.id);
        self.by_v4.insert(ReverseOrder::of(record.locators.v4), record.id);
        self.by_v6.insert(record.locators.v6, record.id);
        self.capsules.insert(record.id, record);
    }

    /// Takes a capsule out.
    pub fn remove_capsule(&mut self, id: CapsuleId) -> Option<CapsuleRecord> {
        let record = self.capsules.remove(&id)?;
        self.forget_place(&record);
        self.by_name.remove(&record.name);
        self.by_v4.remove(&ReverseOrder::of(record.locators.v4));
        self.by_v6.remove(&record.locators.v6);
        self.extras.remove(&id);
        Some(record)
    }

    fn forget_place(&mut self, record: &CapsuleRecord) {
        if let Some(capsules) = self.by_host.get_mut(&record.host) {
            capsules.remove(&record.id);
            if capsules.is_empty() {
                self.by_host.remove(&record.host);
            }
        }
        if let Some(count) = self.owned.get_mut(&record.owner) {
            *count -= 1;
            if *count == 0 {
                self.owned.remove(&record.owner);
            }
        }
    }

    /// Says what was added to a capsule's records; none: nothing any more.
    pub fn put_extras(&mut self, id: CapsuleId, records: Vec<ExtraRecord>) {
        match records.is_empty() {
            true => drop(self.extras.remove(&id)),
            false => drop(self.extras.insert(id, records)),
        }
    }

    /// What was added to a capsule's records.
    pub fn extras(&self, id: CapsuleId) -> &[ExtraRecord] {
        self.extras.get(&id).map_or(&[], Vec::as_slice)
    }

    /// Puts a host in, or in its older entry's place.
    pub fn put_host(&mut self, entry: HostEntry) {
        self.hosts.insert(entry.name.clone(), entry);
    }

    /// Takes a host out.
    pub fn remove_host(&mut self, name: &HostName) {
        self.hosts.remove(name);
        self.owners.remove(name);
    }

    /// Says whose capsules a host may register; none: anybody's.
    pub fn put_host_owners(&mut self, name: HostName, owners: Vec<Owner>) {
        match owners.is_empty() {
            true => drop(self.owners.remove(&name)),
            false => drop(self.owners.insert(name, owners)),
        }
    }

    /// Whose capsules a host may register, if not anybody's.
    pub fn host_owners(&self, name: &HostName) -> Option<&[Owner]> {
        self.owners.get(name).map(Vec::as_slice)
    }

    /// Notes when a host was seen.
    pub fn touch(&mut self, name: &HostName, now: SystemTime) {
        if let Some(entry) = self.hosts.get_mut(name) {
            entry.last_seen = now;
        }
    }

    /// A capsule's record as it is kept.
    pub fn capsule(&self, id: CapsuleId) -> Option<&CapsuleRecord> {
        self.capsules.get(&id)
    }

    /// A capsule's record by name, as it is kept.
    pub fn capsule_named(&self, name: &CapsuleName) -> Option<&CapsuleRecord> {
        self.capsules.get(self.by_name.get(name)?)
    }

    /// Names of capsules within a range, in the order that the zone has.
    pub fn capsule_names<'a>(
        &'a self,
        range: (Bound<&str>, Bound<&str>),
    ) -> impl DoubleEndedIterator<Item = &'a CapsuleName> + use<'a> {
        self.by_name.range::<str, _>(range).map(|(name, _)| name)
    }

    /// The hosts within a range of names, in the order that the zone has.
    pub fn hosts_within<'a>(
        &'a self,
        range: (Bound<&str>, Bound<&str>),
    ) -> impl DoubleEndedIterator<Item = &'a HostEntry> + use<'a> {
        self.hosts.range::<str, _>(range).map(|(_, host)| host)
    }

    /// The IPv4 locators in use within a range, in the order that the reverse zone has, and whose they are.
    pub fn v4_within(
        &self,
        range: impl RangeBounds<ReverseOrder>,
    ) -> impl DoubleEndedIterator<Item = (ReverseOrder, &CapsuleRecord)> {
        let record = |(key, id): (&ReverseOrder, &CapsuleId)| Some((*key, self.capsules.get(id)?));
        self.by_v4.range(range).filter_map(record)
    }

    /// The IPv6 locators in use within a range, and whose they are.
    pub fn v6_within(
        &self,
        range: impl RangeBounds<Ipv6Addr>,
    ) -> impl DoubleEndedIterator<Item = (Ipv6Addr, &CapsuleRecord)> {
        let record = |(key, id): (&Ipv6Addr, &CapsuleId)| Some((*key, self.capsules.get(id)?));
        self.by_v6.range(range).filter_map(record)
    }

    /// A capsule's record as it is shown.
    ///
    /// # Errors
    /// When there is none.
    pub fn lookup(&self, key: &LookupKey) -> Result<CapsuleRecord, ApiError> {
        let id = match key {
            LookupKey::Id(id) => Some(id),
            LookupKey::Name(name) => self.by_name.get(name),
            LookupKey::Locator(locator) => match locator.to_canonical() {
                IpAddr::V4(v4) => self.by_v4.get(&ReverseOrder::of(v4)),
                IpAddr::V6(v6) => self.by_v6.get(&v6),
            },
        };
        let record = id.and_then(|id| self.capsules.get(id));
        let unknown = || ApiError::UnknownCapsule { what: key.to_string() };
        record.map(|record| self.shown(record)).ok_or_else(unknown)
    }

    /// The record with the state that people see: a capsule that should be up, on a host that is not heard of, is lost.
    pub fn shown(&self, record: &CapsuleRecord) -> CapsuleRecord {
        let shown = CapsuleRecord { state: self.shown_state(record), ..record.clone() };
        match self.asserting.as_ref().and_then(|asserting| asserting.held(record)) {
            Some((host, generation)) => {
                CapsuleRecord { host: host.clone(), generation, offer: None, suspension: None, ..shown }
            }
            None => shown,
        }
    }

    /// Whether nobody knows where the capsule is, since the facts are those of a backup and no host has asserted it.
    pub fn is_unsure(&self, record: &CapsuleRecord) -> bool {
        self.asserting.as_ref().is_some_and(|asserting| asserting.held(record).is_none())
    }

    /// The state in [`Registry::shown`].
    pub fn shown_state(&self, record: &CapsuleRecord) -> CapsuleState {
        let held = self.asserting.as_ref().and_then(|asserting| asserting.held(record));
        let at = held.map_or(&record.host, |(host, _)| host);
        let alive =
            self.hosts.get(at).is_some_and(|host| host.alive) && (held.is_some() || self.asserting.is_none());
        match record.state {
            CapsuleState::Suspended if held.is_some() => CapsuleState::Running,
            CapsuleState::Running | CapsuleState::Moving if !alive => CapsuleState::Lost,
            state @ (CapsuleState::Running
            | CapsuleState::Moving
            | CapsuleState::Suspended
            | CapsuleState::Lost
            | CapsuleState::Stopped) => state,
        }
    }

    /// The records of all capsules, as they are kept.
    pub fn capsules(&self) -> impl Iterator<Item = &CapsuleRecord> {
        self.capsules.values()
    }

    /// All capsules as they are shown, by name.
    pub fn capsules_shown(&self) -> Vec<CapsuleRecord> {
        self.by_name
            .values()
            .filter_map(|id| self.capsules.get(id))
            .map(|record| self.shown(record))
            .collect()
    }

    /// How many capsules there are.
    pub fn capsule_count(&self) -> usize {
        self.capsules.len()
    }

    /// The states that people see, of all capsules.
    pub fn states_shown(&self) -> impl Iterator<Item = CapsuleState> {
        self.capsules.values().map(|record| self.shown_state(record))
    }

    /// The records of the capsules placed at a host, as they are kept, by id.
    pub fn capsules_at<'a>(&'a self, host: &HostName) -> impl Iterator<Item = &'a CapsuleRecord> + use<'a> {
        self.by_host.get(host).into_iter().flatten().filter_map(|id| self.capsules.get(id))
    }

    /// How many capsules an owner has.
    pub fn owned_by(&self, owner: &Owner) -> usize {
        self.owned.get(owner).copied().unwrap_or(0)
    }

    /// Whether no capsule has these addresses.
    pub fn is_free(&self, locators: &Locators) -> bool {
        !self.by_v4.contains_key(&ReverseOrder::of(locators.v4)) && !self.by_v6.contains_key(&locators.v6)
    }

    /// A host.
    pub fn host(&self, name: &HostName) -> Option<&HostEntry> {
        self.hosts.get(name)
    }

    /// All hosts, by name.
    pub fn hosts(&self) -> impl Iterator<Item = &HostEntry> {
        self.hosts.values()
    }

    /// The hosts that others may know of, by name.
    pub fn hosts_shown(&self) -> Vec<HostRecord> {
        self.hosts.values().filter_map(HostEntry::shown).collect()
    }
}

impl HostEntry {
    /// What others may know; nothing before the host came up once.
    pub fn shown(&self) -> Option<HostRecord> {
        Some(HostRecord {
            name: self.name.clone(),
            address: self.address?,
            last_seen: self.last_seen,
            alive: self.alive,
            operator: self.operator,
        })
    }

    /// What the store keeps.
    pub fn stored(&self) -> StoredHost {
        StoredHost {
            name: self.name.clone(),
            operator: self.operator,
            address: self.address,
            alive: self.alive,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use overlay_proto::Generation;

    use super::*;

    fn capsule(number: u8, host: &str, owner: &str) -> CapsuleRecord {
        CapsuleRecord {
            id: CapsuleId::from_bytes([number; 16]),
            name: format!("c{number}").parse().unwrap(),
            owner: owner.parse().unwrap(),
            locators: Locators {
                v4: [10, 88, 0, number].into(),
                v6: [0xfd88, 0, 0, 0, 0, 0, 0, number.into()].into(),
            },
            host: host.parse().unwrap(),
            generation: Generation::new(1),
            state: CapsuleState::Running,
            offer: None,
            last_outcome: None,
            created_at: UNIX_EPOCH,
            suspension: None,
            registration: [0; 16],
        }
    }

    #[test]
    fn what_a_host_and_an_owner_have_follows_every_change() {
        let mut registry = Registry::default();
        let at = |registry: &Registry, host: &str| {
            let names = registry.capsules_at(&host.parse().unwrap()).map(|record| record.name.to_string());
            names.collect::<Vec<_>>()
        };
        let owned = |registry: &Registry, owner: &str| registry.owned_by(&owner.parse().unwrap());
        for (number, host) in [(1, "a"), (2, "b"), (3, "a")] {
            registry.put_capsule(capsule(number, host, "ann"));
        }
        assert_eq!(
            (at(&registry, "a"), at(&registry, "b")),
            (vec!["c1".into(), "c3".into()], vec!["c2".into()])
        );
        registry.put_capsule(capsule(3, "b", "ann"));
        assert_eq!(
            (at(&registry, "a"), at(&registry, "b")),
            (vec!["c1".into()], vec!["c2".into(), "c3".into()])
        );
        assert_eq!((owned(&registry, "ann"), owned(&registry, "bob")), (3, 0));
        for number in [1, 1, 2, 3] {
            registry.remove_capsule(CapsuleId::from_bytes([number; 16]));
        }
        assert!(at(&registry, "a").is_empty() && registry.by_host.is_empty() && registry.owned.is_empty());
    }
}
