//! What this host says that it holds, to a directory that was restored from a backup.
//!
//! The directory puts together from the words of all hosts who has what, so each word must hold for as long as it is not
//! settled: nothing that the directory of before decided may be acted on here after this host has spoken, unless it has
//! said so. Whoever asks the directory who has a capsule is *deciding* until the answer is noted; an assertion waits for
//! that, and whoever decides after it gets the answer of the directory that has heard it.
//!
//! ```text
//!  deciding: ask ── answer ── note it ─┐
//!                                      ├─► assertion: what is noted, and what stands in the journals
//!  deciding: ask ── "wait for hosts" ──┘
//! ```

mod words;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use directory_api::{Assertion, RestoreId, Restoring};
use tokio::sync::{RwLock, RwLockReadGuard};

use crate::moving::journal::{Journal, first_entry};
use crate::sidecar::Sidecar;

pub use words::{Decided, Kept, word_for};

/// What this host has said, and who is deciding.
#[derive(Debug, Default)]
pub struct Assertions {
    deciding: RwLock<()>,
    made: AtomicU64,
    restoring: Mutex<Option<Restoring>>,
}

/// Held from before the directory is asked until its answer is noted.
pub(crate) type Deciding<'a> = RwLockReadGuard<'a, ()>;

impl Assertions {
    /// Begins to decide. Never while deciding already: an assertion that waits would come in between.
    pub(crate) async fn deciding(&self) -> Deciding<'_> {
        self.deciding.read().await
    }

    /// How many assertions were made. What was agreed with the directory before the last one may be forgotten.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Acquire)
    }

    /// Takes note of what the directory says of its restore.
    pub(crate) fn heard(&self, restoring: Option<Restoring>) {
        *self.restoring.lock().unwrap_or_else(PoisonError::into_inner) = restoring;
    }

    /// The hosts that the directory waits for, as it last said; nothing when no restore is under way.
    pub(crate) fn awaited(&self) -> Option<Vec<overlay_proto::HostName>> {
        let restoring = self.restoring.lock().unwrap_or_else(PoisonError::into_inner);
        restoring.as_ref().map(|restoring| restoring.missing.clone())
    }
}

/// Says everything that this host holds.
pub(crate) async fn assert(sidecar: &Sidecar, restore: RestoreId) {
    let assertion = {
        let _alone = sidecar.assertions.deciding.write().await;
        sidecar.assertions.made.fetch_add(1, Ordering::AcqRel);
        collected(sidecar, restore)
    };
    let (capsules, revision) = (assertion.capsules.len(), assertion.revision);
    match sidecar.places.directory().assert(assertion).await {
        Ok(()) => {
            tracing::warn!(
                capsules,
                revision,
                "the directory was restored from a backup; it was told what this host holds"
            );
        }
        Err(error) => {
            tracing::warn!(%error, "the directory was not told what this host holds; it is told again")
        }
    }
}

fn collected(sidecar: &Sidecar, restore: RestoreId) -> Assertion {
    let word = |capsule: &std::sync::Arc<crate::capsule::Capsule>| {
        let journal = Journal::read(capsule.directory()).unwrap_or_else(|error| {
            tracing::error!(capsule = %capsule.name(), %error, "its journal cannot be read; what it does counts");
            Journal::Quiet
        });
        let kept = Kept {
            file: capsule.file(),
            stage: capsule.stage(),
            begun: first_entry(capsule.directory()),
            journal,
            decided: capsule.decided(),
        };
        word_for(&sidecar.me, &kept)
    };
    let gateway = sidecar.gateway.get().map(|gateway| gateway.asserted());
    let own = gateway.into_iter().chain(sidecar.around.outward.outlet.asserted());
    Assertion {
        restore,
        revision: sidecar.places.revision(),
        hosts: sidecar.places.hosts().into_iter().map(|host| host.name).collect(),
        capsules: sidecar.capsules.all().iter().filter_map(word).chain(own).collect(),
    }
}
