//! Updates by DNS: whoever has an owner's key changes the records that were added to that owner's capsules.

use std::sync::{Arc, Mutex, PoisonError};

use directory_api::{ApiError, Response};

use super::Engine;
use crate::zone::update::{UpdateRefusal, ZoneUpdate};

/// Where it is said why an update was refused: DNS has codes of its own for it, which hosts never see.
#[derive(Debug, Clone, Default)]
pub struct Verdict(Arc<Mutex<Option<UpdateRefusal>>>);

impl Verdict {
    /// Why it was refused, if it was.
    pub fn take(&self) -> Option<UpdateRefusal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, refusal: UpdateRefusal) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
    }
}

impl Engine {
    pub(super) fn update_zone(
        &mut self,
        update: &ZoneUpdate,
        verdict: &Verdict,
    ) -> Result<Response, ApiError> {
        let changed = update.evaluate(&self.working).map_err(|refusal| {
            let reason = refusal.to_string();
            verdict.put(refusal);
            ApiError::Denied { reason }
        })?;
        for (id, records) in changed {
            let Some(name) = self.working.capsule(id).map(|record| record.name.clone()) else { continue };
            self.working.put_extras(id, records.clone());
            self.working.revision += 1;
            self.batch.extras(self.working.revision, id, name, records);
        }
        Ok(Response::Done)
    }
}
