//! Where capsules and hosts are, as the directory last said: filled by its watch, so that nothing waits for a TTL.

pub(crate) mod asking;
mod members;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use anyhow::bail;
use directory_api::{
    ApiError, CapsuleRecord, CapsuleState, Change, Client, ClientError, HostRecord, LookupKey, Rule, RuleId,
};
use ipnet::IpNet;
use overlay_proto::{CapsuleId, CapsuleName, HostName};
use tokio::sync::watch;

use self::asking::Asking;
use crate::asker;
use crate::finder::Finder;
use crate::limits::{POLICY_CALL, TOMBSTONES};
use crate::policy::Enforcement;

/// This host's picture of the mesh.
#[derive(Clone)]
pub struct Places(Arc<Inner>);

struct Inner {
    known: RwLock<Known>,
    /// The highest revision that the watch has brought.
    revision: AtomicU64,
    changes: watch::Sender<u64>,
    on_change: OnceLock<OnChange>,
    policy: Enforcement,
    on_host_removed: OnceLock<OnHostRemoved>,
    asking: Asking,
    directory: Client,
    finder: Finder,
    /// The networks of all locators; empty while they are not known.
    locators: RwLock<Vec<IpNet>>,
}

/// Told of every capsule whose record changed.
type OnChange = Box<dyn Fn(CapsuleId) + Send + Sync>;

/// Told of every host that is no longer one of the mesh.
type OnHostRemoved = Box<dyn Fn(&HostName) + Send + Sync>;

/// What a change of the watch does to the policy.
enum PolicyChange {
    All(u64, Vec<Rule>),
    Put(u64, Rule),
    Removed(u64, RuleId),
}

#[derive(Default)]
struct Known {
    capsules: HashMap<CapsuleId, CapsuleRecord>,
    by_name: HashMap<CapsuleName, CapsuleId>,
    by_locator: HashMap<IpAddr, CapsuleId>,
    hosts: HashMap<HostName, HostRecord>,
    /// How often hosts were said to be gone: an answer from before that may name one of them.
    host_removals: u64,
    removed: HashSet<CapsuleId>,
    removed_order: VecDeque<CapsuleId>,
}

impl Known {
    fn put(&mut self, record: CapsuleRecord) -> bool {
        if let Some(old) = self.capsules.get(&record.id) {
            // A lookup and the watch may overtake each other.
            if old.generation > record.generation || *old == record {
                return false;
            }
            // At one generation a capsule that has come is `moving` without an offer first and `running` then.
            let came_before = record.state == CapsuleState::Moving && record.offer.is_none();
            if old.generation == record.generation && old.state == CapsuleState::Running && came_before {
                return false;
            }
        }
        self.by_name.insert(record.name.clone(), record.id);
        self.by_locator.insert(record.locators.v4.into(), record.id);
        self.by_locator.insert(record.locators.v6.into(), record.id);
        self.capsules.insert(record.id, record);
        true
    }

    fn remove(&mut self, id: &CapsuleId) {
        if let Some(record) = self.capsules.remove(id) {
            if self.by_name.get(&record.name) == Some(id) {
                self.by_name.remove(&record.name);
            }
            for locator in [IpAddr::from(record.locators.v4), record.locators.v6.into()] {
                if self.by_locator.get(&locator) == Some(id) {
                    self.by_locator.remove(&locator);
                }
            }
        }
        if self.removed.insert(*id) {
            self.removed_order.push_back(*id);
            if self.removed_order.len() > TOMBSTONES {
                let oldest = self.removed_order.pop_front();
                oldest.map(|oldest| self.removed.remove(&oldest));
            }
        }
    }
}

impl Places {
    /// An empty picture.
    pub fn new(directory: Client, finder: Finder) -> Self {
        let known = RwLock::default();
        let (changes, on_change) = (watch::Sender::new(0), OnceLock::new());
        let policy = Enforcement::new(directory.with_call_time(POLICY_CALL));
        let (on_host_removed, asking) = (OnceLock::new(), Asking::default());
        Self(Arc::new(Inner {
            known,
            revision: AtomicU64::new(0),
            changes,
            on_change,
            policy,
            on_host_removed,
            asking,
            directory,
            finder,
            locators: RwLock::default(),
        }))
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Known> {
        self.0.known.read().expect("no panics under this lock")
    }

    /// Says who is told when a capsule's record changed, whether by the watch or by an answer.
    pub fn on_change(&self, told: impl Fn(CapsuleId) + Send + Sync + 'static) {
        let _ = self.0.on_change.set(Box::new(told));
    }

    fn tell(&self, changed: impl IntoIterator<Item = CapsuleId>) {
        self.0.changes.send_modify(|count| *count += 1);
        if let Some(on_change) = self.0.on_change.get() {
            changed.into_iter().for_each(on_change);
        }
    }

    /// Takes a change of the watch.
    pub(crate) fn apply(&self, change: Change) {
        self.0.revision.fetch_max(change.revision(), Ordering::AcqRel);
        let (mut touched, mut policy, mut removed) = (Vec::new(), None, Vec::new());
        {
            let mut known = self.0.known.write().expect("no panics under this lock");
            match change {
                Change::Snapshot { revision, capsules, hosts, rules } => {
                    policy = Some(PolicyChange::All(revision, rules));
                    let there: HashSet<CapsuleId> = capsules.iter().map(|record| record.id).collect();
                    let gone: Vec<_> =
                        known.capsules.keys().filter(|id| !there.contains(id)).copied().collect();
                    for id in gone {
                        known.remove(&id);
                        touched.push(id);
                    }
                    for record in capsules {
                        let id = record.id;
                        if known.put(record) {
                            touched.push(id);
                        }
                    }
                    let hosts: HashMap<_, _> =
                        hosts.into_iter().map(|host| (host.name.clone(), host)).collect();
                    removed.extend(known.hosts.keys().filter(|name| !hosts.contains_key(*name)).cloned());
                    known.hosts = hosts;
                    known.host_removals += 1;
                }
                Change::Capsule { record, .. } => {
                    let id = record.id;
                    if known.put(*record) {
                        touched.push(id);
                    }
                }
                Change::CapsuleRemoved { id, .. } => {
                    known.remove(&id);
                    touched.push(id);
                }
                Change::Host { record, .. } => {
                    known.hosts.insert(record.name.clone(), record);
                }
                Change::HostRemoved { name, .. } => {
                    known.hosts.remove(&name);
                    known.host_removals += 1;
                    removed.push(name);
                }
                Change::Rule { revision, rule } => policy = Some(PolicyChange::Put(revision, rule)),
                Change::RuleRemoved { revision, id } => policy = Some(PolicyChange::Removed(revision, id)),
            }
        }
        // After the records: who is judged is known.
        match policy {
            Some(PolicyChange::All(revision, rules)) => self.0.policy.begin(revision, rules),
            Some(PolicyChange::Put(revision, rule)) => self.0.policy.put(revision, rule),
            Some(PolicyChange::Removed(revision, id)) => self.0.policy.remove(revision, id),
            None => {}
        }
        self.0.finder.forget_all();
        self.tell_removed(&removed);
        self.tell(touched);
    }

    /// The highest revision that this host has seen; 0 for none.
    pub fn revision(&self) -> u64 {
        self.0.revision.load(Ordering::Acquire)
    }

    /// The record of a capsule.
    pub fn capsule(&self, id: &CapsuleId) -> Option<CapsuleRecord> {
        self.read().capsules.get(id).cloned()
    }

    /// The record of a capsule by name.
    pub fn named(&self, name: &CapsuleName) -> Option<CapsuleRecord> {
        let known = self.read();
        known.by_name.get(name).and_then(|id| known.capsules.get(id)).cloned()
    }

    /// The capsule at a locator, if this host knows it.
    pub fn known_at(&self, locator: &IpAddr) -> Option<CapsuleRecord> {
        let known = self.read();
        known.by_locator.get(locator).and_then(|id| known.capsules.get(id)).cloned()
    }

    /// The capsule at a locator; asks the directory if this host does not know it.
    ///
    /// # Errors
    /// The directory can't be reached.
    pub async fn at(&self, locator: IpAddr) -> Result<Option<CapsuleRecord>, ClientError> {
        if let Some(found) = self.known_at(&locator) {
            return Ok(Some(found));
        }
        self.looked_up(LookupKey::Locator(locator)).await
    }

    /// The capsule of a name; asks the directory if this host does not know it.
    ///
    /// # Errors
    /// The directory can't be reached.
    pub async fn of_name(&self, name: &CapsuleName) -> Result<Option<CapsuleRecord>, ClientError> {
        match self.named(name) {
            Some(found) => Ok(Some(found)),
            None => self.looked_up(LookupKey::Name(name.clone())).await,
        }
    }

    async fn looked_up(&self, key: LookupKey) -> Result<Option<CapsuleRecord>, ClientError> {
        match self.0.directory.lookup(key).await {
            Ok(record) => {
                self.take(record.clone());
                Ok(Some(record))
            }
            Err(ClientError::Refused(ApiError::UnknownCapsule { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The capsule at a locator, if this host knows it or the directory says so.
    pub async fn by_locator(&self, locator: IpAddr) -> Option<CapsuleRecord> {
        self.at(locator).await.ok().flatten()
    }

    /// True if the capsule is known to have been removed.
    pub fn was_removed(&self, id: &CapsuleId) -> bool {
        self.read().removed.contains(id)
    }

    /// All capsules.
    pub fn capsules(&self) -> Vec<CapsuleRecord> {
        self.read().capsules.values().cloned().collect()
    }

    /// A host.
    pub fn host(&self, name: &HostName) -> Option<HostRecord> {
        self.read().hosts.get(name).cloned()
    }

    /// All hosts.
    pub fn hosts(&self) -> Vec<HostRecord> {
        self.read().hosts.values().cloned().collect()
    }

    /// Asks the directory for a capsule's record.
    ///
    /// # Errors
    /// The directory can't be reached, or does not know the capsule.
    pub async fn refresh(&self, id: &CapsuleId) -> anyhow::Result<()> {
        match self.0.directory.lookup(LookupKey::Id(*id)).await {
            Ok(record) => {
                self.take(record);
                Ok(())
            }
            Err(ClientError::Refused(refusal @ ApiError::UnknownCapsule { .. })) => {
                self.0.known.write().expect("no panics under this lock").remove(id);
                self.tell([*id]);
                Err(refusal.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes a record that came as an answer.
    pub fn take(&self, record: CapsuleRecord) {
        let id = record.id;
        if self.0.known.write().expect("no panics under this lock").put(record) {
            self.tell([id]);
        }
    }

    /// Makes those who wait for a change look again: a way to a host may have opened.
    pub fn nudge(&self) {
        self.tell([]);
    }

    /// Waits until something changed, or for `limit`.
    pub async fn changed_or(&self, limit: Duration) {
        let mut changes = self.0.changes.subscribe();
        changes.mark_unchanged();
        let _ = tokio::time::timeout(limit, changes.changed()).await;
    }

    /// Waits until the directory places a capsule as `wanted` says.
    pub async fn wait_until(&self, id: &CapsuleId, wanted: impl Fn(Option<&CapsuleRecord>) -> bool) {
        let mut changes = self.0.changes.subscribe();
        while !wanted(self.capsule(id).as_ref()) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Where a host takes links: by the DNS records of a capsule that is there, or by the directory's watch.
    ///
    /// # Errors
    /// Neither knows the host.
    pub async fn address_of(
        &self,
        host: &HostName,
        capsule: Option<&CapsuleId>,
    ) -> anyhow::Result<SocketAddr> {
        if let Some(name) = capsule.and_then(|id| self.capsule(id)).map(|record| record.name) {
            let found = match self.host(host) {
                Some(_) => self.0.finder.host_of_soon(&name).await,
                None => self.0.finder.host_of(&name).await,
            };
            match found {
                Ok((found, address)) if found == *host => return Ok(address),
                Ok(_) => {}
                Err(error) => tracing::debug!(%host, error = format!("{error:#}"), "no answer by DNS"),
            }
        }
        match self.host(host) {
            Some(record) => Ok(record.address),
            None => bail!("the directory knows no host {host}; see: capsule hosts"),
        }
    }

    /// Who may connect to whom.
    pub fn policy(&self) -> &Enforcement {
        &self.0.policy
    }

    /// The directory's DNS servers are others.
    ///
    /// # Errors
    /// The resolver can't be made; the old servers stay.
    pub fn learn_dns(&self, servers: &[SocketAddr]) -> anyhow::Result<()> {
        self.0.finder.learn_servers(servers)
    }

    /// Notes what addresses capsules have or may get.
    pub fn learn_locators(&self, networks: Vec<IpNet>) {
        *self.0.locators.write().expect("no panics under this lock") = networks;
    }

    /// The networks of all locators; empty while they are not known.
    pub fn locators(&self) -> Vec<IpNet> {
        self.0.locators.read().expect("no panics under this lock").clone()
    }

    /// Whether an address is a capsule's or may become one's, or this host does not know that.
    pub fn may_be_locator(&self, address: &IpAddr) -> bool {
        let networks = self.0.locators.read().expect("no panics under this lock");
        networks.is_empty()
            || networks.iter().any(|network| network.contains(address))
            || self.known_at(address).is_some()
    }

    /// The directory's own client, for the person whose verb is being carried out, if it is one.
    pub fn directory(&self) -> Client {
        self.0.directory.asked_by(asker::current())
    }
}

/// True if no program can answer at this capsule as it stands.
pub fn can_never_answer(record: &CapsuleRecord) -> bool {
    matches!(record.state, CapsuleState::Stopped)
}

/// Follows the directory's watch for the life of the sidecar.
pub async fn follow(places: Places) {
    let mut changes = places.directory().watch(0);
    while let Some(change) = changes.recv().await {
        places.apply(change);
    }
}

#[cfg(test)]
mod tests;
