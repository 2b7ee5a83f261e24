//! What happened since the last commit.

use std::sync::Arc;
use std::time::SystemTime;

use directory_api::{CapsuleRecord, Change, Rule, RuleId};
use overlay_proto::{CapsuleId, CapsuleName, HostName, Owner};

use crate::assertions::{Asserting, Resolution};
use crate::extras::ExtraRecord;
use crate::registry::{HostEntry, Registry};
use crate::store::Write;

/// Changes that are to become true together.
#[derive(Debug, Default)]
pub struct Batch {
    /// For the store; the revision, when there is one, comes last.
    pub writes: Vec<Write>,
    /// For the published registry.
    pub updates: Vec<Update>,
    /// For watchers.
    pub changes: Vec<Change>,
}

/// One change to a registry.
#[derive(Debug)]
pub enum Update {
    /// The revision alone.
    Revision(u64),
    /// A capsule, new or changed, as it is kept.
    Capsule(Box<CapsuleRecord>),
    /// A capsule is gone.
    CapsuleRemoved(CapsuleId),
    /// A host, new or changed.
    Host(HostEntry),
    /// A host is gone.
    HostRemoved(HostName),
    /// Whose capsules a host may register; none: anybody's.
    HostOwners(HostName, Vec<Owner>),
    /// A rule is new.
    Rule(Rule),
    /// A rule is gone.
    RuleRemoved(RuleId),
    /// A host was seen.
    Seen(HostName, SystemTime),
    /// What was added to a capsule's records; none: nothing any more.
    Extras {
        /// Which capsule.
        id: CapsuleId,
        /// Its name.
        name: CapsuleName,
        /// All that was added.
        records: Vec<ExtraRecord>,
    },
    /// Hosts have asserted what they hold, or more of them are waited for.
    Asserting(Arc<Asserting>),
    /// A restore is settled: whatever was shown before is void.
    Settled,
}

impl Batch {
    pub(super) fn begin(&mut self, revision: u64) {
        self.revise(revision);
    }

    pub(super) fn write(&mut self, write: Write) {
        self.writes.push(write);
    }

    pub(super) fn capsule(&mut self, revision: u64, kept: CapsuleRecord, shown: CapsuleRecord) {
        self.writes.push(Write::Capsule(Box::new(kept.clone())));
        self.updates.push(Update::Capsule(Box::new(kept)));
        self.shown_anew(revision, shown);
    }

    /// A capsule is shown otherwise, though its record stays.
    pub(super) fn shown_anew(&mut self, revision: u64, shown: CapsuleRecord) {
        self.changes.push(Change::Capsule { revision, record: Box::new(shown) });
        self.revise(revision);
    }

    pub(super) fn capsule_removed(&mut self, revision: u64, id: CapsuleId, name: CapsuleName) {
        self.writes.push(Write::CapsuleRemoved(id));
        self.writes.push(Write::Extras(id, vec![]));
        self.updates.push(Update::CapsuleRemoved(id));
        self.changes.push(Change::CapsuleRemoved { revision, id, name });
        self.revise(revision);
    }

    pub(super) fn host(&mut self, revision: u64, entry: HostEntry) {
        self.writes.push(Write::Host(entry.stored()));
        self.changes.extend(entry.shown().map(|record| Change::Host { revision, record }));
        self.updates.push(Update::Host(entry));
        self.revise(revision);
    }

    pub(super) fn host_removed(&mut self, revision: u64, name: HostName) {
        self.writes.push(Write::HostRemoved(name.clone()));
        self.updates.push(Update::HostRemoved(name.clone()));
        self.changes.push(Change::HostRemoved { revision, name });
        self.revise(revision);
    }

    /// No watcher needs to know: the directory alone goes by it.
    pub(super) fn host_owners(&mut self, name: HostName, owners: Vec<Owner>) {
        self.writes.push(Write::HostOwners(name.clone(), owners.clone()));
        self.updates.push(Update::HostOwners(name, owners));
    }

    pub(super) fn rule(&mut self, revision: u64, rule: Rule) {
        self.writes.push(Write::Rule(rule.clone()));
        self.updates.push(Update::Rule(rule.clone()));
        self.changes.push(Change::Rule { revision, rule });
        self.revise(revision);
    }

    pub(super) fn rule_removed(&mut self, revision: u64, id: RuleId) {
        self.writes.push(Write::RuleRemoved(id));
        self.updates.push(Update::RuleRemoved(id));
        self.changes.push(Change::RuleRemoved { revision, id });
        self.revise(revision);
    }

    /// No watcher needs to know: only DNS shows them.
    pub(super) fn extras(
        &mut self,
        revision: u64,
        id: CapsuleId,
        name: CapsuleName,
        records: Vec<ExtraRecord>,
    ) {
        self.writes.push(Write::Extras(id, records.clone()));
        self.updates.push(Update::Extras { id, name, records });
        self.revise(revision);
    }

    pub(super) fn seen(&mut self, host: &HostName, now: SystemTime) {
        self.updates.push(Update::Seen(host.clone(), now));
    }

    pub(super) fn asserting(&mut self, revision: u64, asserting: Arc<Asserting>) {
        self.writes.push(Write::Restored(Some(Box::new(asserting.restored.clone()))));
        self.updates.push(Update::Asserting(asserting));
        self.revise(revision);
    }

    /// Watchers begin anew after this, so there are no changes for them.
    pub(super) fn settled(&mut self, revision: u64, resolution: Resolution, locator_next: u64) {
        for (id, name) in resolution.removed {
            self.writes.push(Write::CapsuleRemoved(id));
            self.writes.push(Write::Extras(id, vec![]));
            self.updates.push(Update::CapsuleRemoved(id));
            self.changes.push(Change::CapsuleRemoved { revision, id, name });
        }
        for record in resolution.put {
            self.writes.push(Write::Capsule(Box::new(record.clone())));
            self.updates.push(Update::Capsule(Box::new(record)));
        }
        self.writes.push(Write::LocatorNext(locator_next));
        self.writes.push(Write::Restored(None));
        self.updates.push(Update::Settled);
        self.revise(revision);
    }

    fn revise(&mut self, revision: u64) {
        self.writes.push(Write::Revision(revision));
        self.updates.push(Update::Revision(revision));
    }
}

impl Registry {
    /// Carries out one update.
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::Revision(revision) => self.revision = revision,
            Update::Capsule(record) => self.put_capsule(*record),
            Update::CapsuleRemoved(id) => drop(self.remove_capsule(id)),
            Update::Host(entry) => self.put_host(entry),
            Update::HostRemoved(name) => self.remove_host(&name),
            Update::HostOwners(name, owners) => self.put_host_owners(name, owners),
            Update::Rule(rule) => self.policy.put(rule),
            Update::RuleRemoved(id) => drop(self.policy.remove(id)),
            Update::Seen(name, now) => self.touch(&name, now),
            Update::Extras { id, records, .. } => self.put_extras(id, records),
            Update::Asserting(asserting) => self.asserting = Some(asserting),
            Update::Settled => self.asserting = None,
        }
    }
}
