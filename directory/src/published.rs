//! What everyone may see: the facts as they are committed, and the changes that led there.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use directory_api::Change;
use tokio::sync::watch;

use crate::engine::{Batch, Update};
use crate::limits::{HISTORY_CHANGES, WATCH_BATCH};
use crate::registry::Registry;
use crate::zone::{Depends, Stamp};

/// The committed facts, shared by requests, watchers and DNS.
#[derive(Debug)]
pub struct Published {
    view: RwLock<View>,
    revision: watch::Sender<u64>,
    /// The same, to be read without a lock.
    present: AtomicU64,
    /// For each stamp the revision at which a name of that stamp changed last.
    changed: Box<[AtomicU64]>,
}

#[derive(Debug)]
struct View {
    registry: Registry,
    /// The last changes, oldest first, in the order of revisions.
    history: VecDeque<Change>,
    /// The revision before the oldest change in `history`: whoever has it can go on from there.
    history_from: u64,
}

impl Published {
    /// Begins without history.
    pub fn new(registry: Registry) -> Self {
        let revision = registry.revision;
        let view = View { registry, history: VecDeque::new(), history_from: revision };
        let changed = std::iter::repeat_with(|| AtomicU64::new(revision)).take(Stamp::COUNT).collect();
        let present = AtomicU64::new(revision);
        Self { view: RwLock::new(view), revision: watch::Sender::new(revision), present, changed }
    }

    /// Reads the facts.
    pub fn read<T>(&self, read: impl FnOnce(&Registry) -> T) -> T {
        read(&self.view.read().unwrap_or_else(PoisonError::into_inner).registry)
    }

    /// Makes a committed batch visible, all at once.
    pub fn publish(&self, batch: Batch) {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let mut touched = Vec::with_capacity(batch.updates.len());
        for update in batch.updates {
            touched.extend(stamp(&update, &view.registry));
            view.registry.apply(update);
        }
        // Before anybody can read the facts anew: an answer made from them has this revision and is good.
        for stamp in touched {
            self.changed[stamp.index()].store(view.registry.revision, Ordering::Release);
        }
        self.present.store(view.registry.revision, Ordering::Release);
        view.history.extend(batch.changes);
        while view.history.len() > HISTORY_CHANGES {
            if let Some(oldest) = view.history.pop_front() {
                view.history_from = oldest.revision();
            }
        }
        let revision = view.registry.revision;
        drop(view);
        self.revision.send_replace(revision);
    }

    /// Whether what was made of these facts at a revision would be made of them still.
    pub fn is_current(&self, depends: &Depends, revision: u64) -> bool {
        match depends {
            Depends::Nothing => true,
            Depends::Names(stamps) => {
                stamps.iter().all(|stamp| self.changed[stamp.index()].load(Ordering::Acquire) <= revision)
            }
            Depends::Revision => self.present.load(Ordering::Acquire) == revision,
        }
    }

    /// What comes after `from`: some changes, or a snapshot when they are no longer known. Empty when `from` is the
    /// present.
    pub fn since(&self, from: u64) -> Vec<Change> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let revision = view.registry.revision;
        if from == 0 || from < view.history_from || from > revision {
            let (capsules, hosts) = (view.registry.capsules_shown(), view.registry.hosts_shown());
            let rules = view.registry.policy.rules().to_vec();
            return vec![Change::Snapshot { revision, capsules, hosts, rules }];
        }
        let first = view.history.partition_point(|change| change.revision() <= from);
        view.history.range(first..).take(WATCH_BATCH).cloned().collect()
    }

    /// Tells of every new revision.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }
}

/// The name whose answers an update changes.
fn stamp(update: &Update, before: &Registry) -> Option<Stamp> {
    match update {
        Update::Capsule(record) => Some(Stamp::of(record.name.as_str())),
        Update::CapsuleRemoved(id) => before.capsule(*id).map(|record| Stamp::of(record.name.as_str())),
        Update::Host(entry) => Some(Stamp::of(entry.name.as_str())),
        Update::HostRemoved(name) => Some(Stamp::of(name.as_str())),
        Update::Revision(_)
        | Update::Seen(..)
        | Update::HostOwners(..)
        | Update::Rule(_)
        | Update::RuleRemoved(_) => None,
    }
}

#[cfg(test)]
mod tests;
