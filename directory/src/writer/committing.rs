//! What becomes of commands that were evaluated: they are durable, published and answered, or undone and refused.

use std::time::Instant;

use directory_api::ApiError;
use tracing::error;

use super::evaluating::Evaluated;
use super::{Thread, away};
use crate::audit::{By, Entry};
use crate::engine::{Now, Update};
use crate::store::{Store, StoreError, Write};

impl<S: Store> Thread<S> {
    /// What was evaluated holds.
    pub(super) fn finish(&mut self, evaluated: Evaluated) {
        if self.store.shared().is_some() {
            let seen = evaluated.batch.updates.iter().filter_map(|update| match update {
                Update::Seen(host, _) => Some(host.clone()),
                _ => None,
            });
            self.seen.extend(seen);
        }
        if !evaluated.batch.writes.is_empty() {
            self.metrics.health.store_took();
        }
        self.metrics.leases_renewed(evaluated.leases.renewed);
        self.metrics.leases_ended(evaluated.leases.ended);
        self.published.publish(evaluated.batch);
        for (result, answer) in evaluated.answers {
            // Whoever asked may be gone; the change holds all the same.
            let _ = answer.send(result);
        }
    }

    /// Nothing of what was evaluated is known to hold.
    pub(super) fn fail(&mut self, evaluated: Evaluated, error: &StoreError) -> Result<(), StoreError> {
        if !matches!(error, StoreError::Unread) {
            self.metrics.health.store_failed(error.to_string());
        }
        let is_shared = self.store.shared().is_some();
        for (_, answer) in evaluated.answers {
            let refusal = match error {
                StoreError::Audit(_) => ApiError::StoreFailed,
                error if is_shared => away(error),
                _ => ApiError::StoreFailed,
            };
            let _ = answer.send(Err(refusal));
        }
        let engine = &mut self.engine;
        if is_shared {
            self.published.read(|committed| engine.undo(&evaluated.batch, committed));
        } else {
            let contents = self.store.load()?;
            self.published.read(|published| engine.recover(contents, published, evaluated.now));
        }
        Ok(())
    }

    /// Writes down who did it, and then does it.
    pub(super) fn make_durable(
        &mut self,
        writes: &[Write],
        entries: &[Entry],
        now: Now,
    ) -> Result<(), StoreError> {
        self.audit.append(entries).map_err(StoreError::Audit)?;
        self.commit(writes).inspect_err(|error| {
            if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
                let range = [first, last].map(|entry| entry.revision.unwrap_or_default());
                let what = match error {
                    StoreError::Away { .. } => "not known to be committed, perhaps nothing",
                    _ => "not committed, nothing",
                };
                let text = format!("{what} holds of revisions {} to {}: {error}", range[0], range[1]);
                let undone = Entry::new(now.wall, &By::Directory, "undo", "mesh", "store", text);
                if let Err(error) = self.audit.append(&[undone]) {
                    error!(%error, "the audit log does not say that changes were undone");
                }
            }
        })
    }

    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        let begin = Instant::now();
        let result = self.store.commit(writes);
        // Who is overtaken finds the store in good order.
        let is_well = matches!(result, Ok(()) | Err(StoreError::Overtaken));
        self.metrics.committed(begin.elapsed(), is_well);
        result
    }
}
