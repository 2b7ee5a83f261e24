//! What everyone may see: the facts as they are committed, and the changes that led there.

use std::collections::VecDeque;
use std::sync::{PoisonError, RwLock};

use directory_api::Change;
use tokio::sync::watch;

use crate::engine::Batch;
use crate::limits::{HISTORY_CHANGES, WATCH_BATCH};
use crate::registry::Registry;

/// The committed facts, shared by requests, watchers and DNS.
#[derive(Debug)]
pub struct Published {
    view: RwLock<View>,
    revision: watch::Sender<u64>,
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
        Self { view: RwLock::new(view), revision: watch::Sender::new(revision) }
    }

    /// Reads the facts.
    pub fn read<T>(&self, read: impl FnOnce(&Registry) -> T) -> T {
        read(&self.view.read().unwrap_or_else(PoisonError::into_inner).registry)
    }

    /// Makes a committed batch visible, all at once.
    pub fn publish(&self, batch: Batch) {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        for update in batch.updates {
            view.registry.apply(update);
        }
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

#[cfg(test)]
mod tests;
