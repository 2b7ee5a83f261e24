//! Suspending and resuming: the capsule lies in a file, and whoever has the file may take it.
//!
//! ```text
//!                   suspend (S, at g): g + 1
//!   placed at S, g ──────────────────────────► suspended, g + 1
//!        │                                         │
//!        │ withdraw (S, at g): g + 1, at S         │ resume (anyone, with the key, at g + 1): g + 2
//!        ▼                                         ▼
//!   placed at S, g + 1                        placed at T, g + 2
//! ```
//!
//! * Suspend and withdraw are at the same generation and both raise it, so they exclude each other: whoever does not know
//!   whether its suspend was made asks with either until it is answered, and a suspend that arrives late changes nothing.
//! * Resume is a claim: it names the generation that its caller saw, and raises it, so that one of many wins.
//! * Whoever resumed and could not let the capsule run suspends it again, by the same id and key: the file is good again.
//! * The outcome of a resume is written down like that of a claim: repeating it is harmless while it stands.

use std::time::SystemTime;

use directory_api::{ApiError, CapsuleRecord, CapsuleState, Outcome, SuspensionRecord};
use overlay_proto::{ClaimKey, ClaimKeyHash, Generation, HostName, OfferId};

use super::{check_generation, check_not_suspended, check_placed, ended, outcome_of, repeated};

/// What the placed host has written to a file.
#[derive(Debug, Clone)]
pub struct NewSuspension {
    /// The generation at which it holds the capsule.
    pub generation: Generation,
    /// Drawn by it.
    pub id: OfferId,
    /// Hash of the key in the file.
    pub key_hash: ClaimKeyHash,
}

/// Suspends the capsule: the commit of a suspend.
///
/// # Errors
/// Says which rule stands against it; the capsule is not suspended by this call then.
pub fn suspend(
    record: &CapsuleRecord,
    caller: &HostName,
    new: &NewSuspension,
    now: SystemTime,
) -> Result<CapsuleRecord, ApiError> {
    if let Some(made) = record.suspension.as_ref().filter(|made| made.id == new.id) {
        let same = made.host == *caller && made.key_hash == new.key_hash;
        return if same { Ok(record.clone()) } else { Err(ApiError::OfferDiffers { offer: new.id }) };
    }
    check_not_suspended(record)?;
    if let Some(outcome) = outcome_of(record, new.id).filter(|ended| ended.outcome == Outcome::Revoked) {
        return Err(ApiError::OfferEnded { outcome: outcome.clone() });
    }
    check_placed(record, caller)?;
    if let Some(open) = &record.offer {
        return Err(ApiError::OfferPending { offer: open.id, target: open.target.clone() });
    }
    check_generation(record, new.generation)?;
    let suspension = SuspensionRecord { id: new.id, key_hash: new.key_hash, host: caller.clone(), at: now };
    Ok(CapsuleRecord {
        generation: record.generation.next(),
        state: CapsuleState::Suspended,
        suspension: Some(suspension),
        ..record.clone()
    })
}

/// Makes sure that a suspension is not made by a suspend that is under way.
///
/// # Errors
/// [`ApiError::Suspended`] when it was made; otherwise says which rule stands against it.
pub fn withdraw(
    record: &CapsuleRecord,
    caller: &HostName,
    generation: Generation,
    suspension: OfferId,
) -> Result<CapsuleRecord, ApiError> {
    check_not_suspended(record)?;
    if outcome_of(record, suspension).is_some() {
        return repeated(record, caller, suspension, Outcome::Revoked);
    }
    check_placed(record, caller)?;
    if let Some(open) = &record.offer {
        return Err(ApiError::OfferPending { offer: open.id, target: open.target.clone() });
    }
    check_generation(record, generation)?;
    Ok(ended(record, suspension, Outcome::Revoked, caller))
}

/// Takes the capsule from its file: the commit of a resume. The state is `moving` until the new host reports another.
///
/// # Errors
/// Says which rule stands against it; the caller does not have the capsule by this file then.
pub fn resume(
    record: &CapsuleRecord,
    caller: &HostName,
    generation: Generation,
    suspension: OfferId,
    key: &ClaimKey,
) -> Result<CapsuleRecord, ApiError> {
    let Some(made) = record.suspension.as_ref().filter(|made| made.id == suspension) else {
        check_not_suspended(record)?;
        return repeated(record, caller, suspension, Outcome::Claimed);
    };
    check_generation(record, generation)?;
    if key.hash() != made.key_hash {
        return Err(ApiError::WrongKey);
    }
    let taken = ended(record, suspension, Outcome::Claimed, caller);
    Ok(CapsuleRecord { state: CapsuleState::Moving, suspension: None, ..taken })
}

#[cfg(test)]
mod tests;
