//! What everyone may see: the facts as they are committed, and the changes that led there.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};

use bytes::Bytes;
use directory_api::limits::RESPONSE_BYTES_MAX;
use directory_api::{Change, frame};
use overlay_proto::HostName;
use tokio::sync::watch;

use crate::engine::{Batch, Update};
use crate::limits::{HISTORY_CHANGES, WATCH_BATCH};
use crate::registry::Registry;
use crate::zone::{Depends, Stamp};

/// The committed facts, shared by requests, watchers and DNS.
#[derive(Debug)]
pub struct Published {
    view: RwLock<View>,
    /// A snapshot that is on its way to some watcher: others can have the same one.
    snapshot: Mutex<Weak<Told>>,
    revision: watch::Sender<u64>,
    /// The same, to be read without a lock.
    present: AtomicU64,
    /// For each stamp the revision at which a name of that stamp changed last.
    changed: Box<[AtomicU64]>,
}

/// What watchers are told: one change, or a snapshot.
#[derive(Debug)]
pub struct Told {
    /// What it is.
    pub change: Change,
    frames: OnceLock<Vec<Bytes>>,
}

impl Told {
    fn new(change: Change) -> Arc<Self> {
        Arc::new(Self { change, frames: OnceLock::new() })
    }

    /// How it goes over the wire, made once for all watchers: with hundreds of them, this is what a change costs.
    ///
    /// # Errors
    /// When it is longer than a message may be.
    pub fn frames(&self) -> Result<&[Bytes], frame::FrameError> {
        if let Some(frames) = self.frames.get() {
            return Ok(frames);
        }
        let pieces = self.change.encode();
        let framed = pieces.iter().map(|piece| frame::framed(piece, RESPONSE_BYTES_MAX));
        let frames = framed.collect::<Result<_, _>>()?;
        Ok(self.frames.get_or_init(|| frames))
    }
}

#[derive(Debug)]
struct View {
    registry: Registry,
    /// The last changes, oldest first, in the order of revisions.
    history: VecDeque<Arc<Told>>,
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
        let (view, snapshot) = (RwLock::new(view), Mutex::new(Weak::new()));
        Self { view, snapshot, revision: watch::Sender::new(revision), present, changed }
    }

    /// Reads the facts.
    pub fn read<T>(&self, read: impl FnOnce(&Registry) -> T) -> T {
        read(&self.view.read().unwrap_or_else(PoisonError::into_inner).registry)
    }

    /// Makes a committed batch visible, all at once.
    pub fn publish(&self, batch: Batch) {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let mut touched = Vec::with_capacity(batch.updates.len());
        let mut all_anew = false;
        for update in batch.updates {
            all_anew |= matches!(update, Update::Asserting(_) | Update::Settled);
            touched.extend(stamp(&update, &view.registry));
            view.registry.apply(update);
        }
        // Before anybody can read the facts anew: an answer made from them has this revision and is good.
        for stamp in touched {
            self.changed[stamp.index()].store(view.registry.revision, Ordering::Release);
        }
        if all_anew {
            self.changed.iter().for_each(|stamp| stamp.store(view.registry.revision, Ordering::Release));
        }
        self.present.store(view.registry.revision, Ordering::Release);
        view.history.extend(batch.changes.into_iter().map(Told::new));
        if all_anew {
            // Nobody goes on from what was shown before the facts were put together.
            view.history.clear();
            view.history_from = view.registry.revision;
        }
        while view.history.len() > HISTORY_CHANGES {
            if let Some(oldest) = view.history.pop_front() {
                view.history_from = oldest.change.revision();
            }
        }
        let revision = view.registry.revision;
        drop(view);
        // A host that only shows that it lives wakes nobody: with hundreds of hosts, that is most of what happens.
        self.revision.send_if_modified(|present| std::mem::replace(present, revision) != revision);
    }

    /// Puts other facts in the place of all, when the way between the two is not known. Watchers begin anew.
    pub fn replace(&self, registry: Registry) {
        // One that is on its way to somebody is of other facts.
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Weak::new();
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let revision = registry.revision;
        self.changed.iter().for_each(|changed| changed.store(revision, Ordering::Release));
        self.present.store(revision, Ordering::Release);
        *view = View { registry, history: VecDeque::new(), history_from: revision };
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
    pub fn since(&self, from: u64) -> Vec<Arc<Told>> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        if from == 0 || from < view.history_from || from > view.registry.revision {
            drop(view);
            return vec![self.snapshot()];
        }
        let first = view.history.partition_point(|told| told.change.revision() <= from);
        view.history.range(first..).take(WATCH_BATCH).cloned().collect()
    }

    /// One from which the history goes on. While it is sent to anybody it is the same for all who want one: behind a
    /// restart that is every host, and each snapshot is as large as everything.
    fn snapshot(&self) -> Arc<Told> {
        let mut kept = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = kept.upgrade().filter(|told| told.change.revision() >= view.history_from) {
            return told;
        }
        let (capsules, hosts) = (view.registry.capsules_shown(), view.registry.hosts_shown());
        let (revision, rules) = (view.registry.revision, view.registry.policy.rules().to_vec());
        drop(view);
        let told = Told::new(Change::Snapshot { revision, capsules, hosts, rules });
        *kept = Arc::downgrade(&told);
        told
    }

    /// The hosts that a restored directory waits for; nothing when no restore is under way.
    pub fn awaited(&self) -> Option<Vec<HostName>> {
        self.read(|registry| registry.asserting.as_ref().map(|asserting| asserting.missing()))
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
        Update::Extras { name, .. } => Some(Stamp::of(name.as_str())),
        Update::Host(entry) => Some(Stamp::of(entry.name.as_str())),
        Update::HostRemoved(name) => Some(Stamp::of(name.as_str())),
        Update::Revision(_)
        | Update::Seen(..)
        | Update::HostOwners(..)
        | Update::Rule(_)
        | Update::RuleRemoved(_)
        | Update::Asserting(_)
        | Update::Settled => None,
    }
}

#[cfg(test)]
mod tests;
