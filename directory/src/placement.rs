//! Where a capsule is: the compare-and-swap that commits a move, as pure functions over one record.
//!
//! ```text
//!                  offer (placed host, at g)
//!   placed at S, g ────────────────────────► offered S → T, g
//!        ▲                                     │        │
//!        │ revoke (S): g + 1, at S             │        │ claim (T, with the key): g + 1, at T
//!        └─────────────────────────────────────┘        └────────────────► placed at T, g + 1
//! ```
//!
//! The rules, and why:
//!
//! * One offer at most is open. The placed host may repeat it (same id, generation, target and key: nothing changes);
//!   another id is refused until the open one is revoked. Replacing it silently would leave two targets that believe in
//!   their keys, and a source that no longer knows which offer it must revoke.
//! * Claim and revoke end the offer, raise the generation and write down the outcome with the offer's id, in one step.
//!   Whichever comes second finds the outcome, so exactly one of them holds.
//! * Repeating the verb that held is harmless and succeeds, as long as its outcome still stands: the caller has the
//!   capsule at the generation which the outcome made. If the capsule has gone on since (it was offered onwards, or taken
//!   over), the answer says so instead: an old success must thaw nothing.
//! * The other verb gets the outcome that stands against it.
//! * The id that ended last is not offered again. Older ones are not remembered: ids are drawn at random, and an old offer
//!   that arrives late is at an old generation.
//! * A lease that runs out changes nothing here. But it allows an operator's takeover, which also raises the generation
//!   and ends an open offer: whoever was placed, or comes with the key later, finds the capsule elsewhere. See
//!   [`takeover`].

pub mod suspension;
pub mod takeover;

use directory_api::{ApiError, CapsuleRecord, CapsuleState, OfferRecord, Outcome, OutcomeRecord};
use overlay_proto::{ClaimKey, ClaimKeyHash, Generation, HostName, OfferId};

pub use suspension::NewSuspension;
pub use takeover::{Takeover, take_over};

/// What the placed host wants to offer.
#[derive(Debug, Clone)]
pub struct NewOffer {
    /// The generation at which it holds the capsule.
    pub generation: Generation,
    /// Drawn by it.
    pub id: OfferId,
    /// Who may claim.
    pub target: HostName,
    /// Hash of the key that the claim must show.
    pub claim_key_hash: ClaimKeyHash,
}

/// Opens an offer. Gives the record afterwards, equal to the one before when the offer was open already.
///
/// # Errors
/// Says which rule stands against it.
pub fn offer(record: &CapsuleRecord, caller: &HostName, new: &NewOffer) -> Result<CapsuleRecord, ApiError> {
    check_placed(record, caller)?;
    check_not_suspended(record)?;
    if let Some(open) = &record.offer {
        if open.id != new.id {
            return Err(ApiError::OfferPending { offer: open.id, target: open.target.clone() });
        }
        let same = open.generation == new.generation
            && open.target == new.target
            && open.claim_key_hash == new.claim_key_hash;
        return if same { Ok(record.clone()) } else { Err(ApiError::OfferDiffers { offer: new.id }) };
    }
    if let Some(outcome) = outcome_of(record, new.id) {
        return Err(ApiError::OfferEnded { outcome: outcome.clone() });
    }
    check_generation(record, new.generation)?;
    if new.target == *caller {
        return Err(ApiError::Denied { reason: "a capsule is not offered to the host that has it".into() });
    }
    let offer = OfferRecord {
        id: new.id,
        generation: new.generation,
        target: new.target.clone(),
        claim_key_hash: new.claim_key_hash,
        state_before: record.state,
    };
    Ok(CapsuleRecord { offer: Some(offer), state: CapsuleState::Moving, ..record.clone() })
}

/// Takes the capsule: the commit of a move. The state stays `moving` until the new host reports another one.
///
/// # Errors
/// Says which rule stands against it; the caller does not have the capsule by this offer then.
pub fn claim(
    record: &CapsuleRecord,
    caller: &HostName,
    offer: OfferId,
    key: &ClaimKey,
) -> Result<CapsuleRecord, ApiError> {
    if let Some(open) = record.offer.as_ref().filter(|open| open.id == offer) {
        if open.target != *caller {
            return Err(ApiError::NotTheTarget { target: open.target.clone() });
        }
        if key.hash() != open.claim_key_hash {
            return Err(ApiError::WrongKey);
        }
        return Ok(ended(record, offer, Outcome::Claimed, caller));
    }
    repeated(record, caller, offer, Outcome::Claimed)
}

/// Ends the offer in favour of the host that made it; the state from before comes back.
///
/// # Errors
/// Says which rule stands against it; the offer is not revoked by this call then.
pub fn revoke(record: &CapsuleRecord, caller: &HostName, offer: OfferId) -> Result<CapsuleRecord, ApiError> {
    if let Some(open) = record.offer.as_ref().filter(|open| open.id == offer) {
        check_placed(record, caller)?;
        let state = open.state_before;
        return Ok(CapsuleRecord { state, ..ended(record, offer, Outcome::Revoked, caller) });
    }
    repeated(record, caller, offer, Outcome::Revoked)
}

/// Takes over what the placed host says of the capsule.
///
/// # Errors
/// When the caller does not have the capsule at that generation, or the state is one that only the directory gives.
pub fn set_state(
    record: &CapsuleRecord,
    caller: &HostName,
    generation: Generation,
    state: CapsuleState,
) -> Result<CapsuleRecord, ApiError> {
    check_placed(record, caller)?;
    check_generation(record, generation)?;
    check_not_suspended(record)?;
    if state == CapsuleState::Suspended {
        return Err(ApiError::Denied { reason: "`suspended` is what a suspend makes it".into() });
    }
    // Claimed and never reported running: its new host may say that it came to nothing.
    let arriving = record.offer.is_none() && record.state == CapsuleState::Moving;
    if state == CapsuleState::Lost && !arriving && record.state != CapsuleState::Lost {
        return Err(ApiError::Denied { reason: "`lost` is for the directory to say".into() });
    }
    Ok(match &record.offer {
        // A host that reports `moving` while its offer is open says nothing new.
        Some(_) if state == CapsuleState::Moving => record.clone(),
        Some(open) => {
            let offer = OfferRecord { state_before: state, ..open.clone() };
            CapsuleRecord { offer: Some(offer), ..record.clone() }
        }
        None => CapsuleRecord { state, ..record.clone() },
    })
}

/// Whether the caller may remove the capsule. One that lies in a file, or whose host is not of the mesh any more, is nobody's:
/// any host may.
///
/// # Errors
/// When it does not have the capsule at that generation, or an offer is open that its host can still revoke.
pub fn check_remove(
    record: &CapsuleRecord,
    caller: &HostName,
    generation: Generation,
    host_is_member: bool,
) -> Result<(), ApiError> {
    if record.suspension.is_none() && host_is_member {
        check_placed(record, caller)?;
    }
    check_generation(record, generation)?;
    match &record.offer {
        // Nobody revokes what a removed host offered. Whoever claims by it later finds no capsule, and destroys its copy.
        Some(_) if !host_is_member => Ok(()),
        Some(open) => Err(ApiError::OfferPending { offer: open.id, target: open.target.clone() }),
        None => Ok(()),
    }
}

fn check_placed(record: &CapsuleRecord, caller: &HostName) -> Result<(), ApiError> {
    if record.host == *caller { Ok(()) } else { Err(elsewhere(record)) }
}

fn check_not_suspended(record: &CapsuleRecord) -> Result<(), ApiError> {
    match &record.suspension {
        Some(made) => Err(ApiError::Suspended { host: made.host.clone(), generation: record.generation }),
        None => Ok(()),
    }
}

fn check_generation(record: &CapsuleRecord, given: Generation) -> Result<(), ApiError> {
    if given == record.generation {
        return Ok(());
    }
    Err(ApiError::WrongGeneration { given, current: record.generation })
}

fn elsewhere(record: &CapsuleRecord) -> ApiError {
    ApiError::NotPlacedHere { host: record.host.clone(), generation: record.generation }
}

fn outcome_of(record: &CapsuleRecord, offer: OfferId) -> Option<&OutcomeRecord> {
    record.last_outcome.as_ref().filter(|outcome| outcome.offer == offer)
}

fn ended(record: &CapsuleRecord, offer: OfferId, outcome: Outcome, host: &HostName) -> CapsuleRecord {
    let generation = record.generation.next();
    CapsuleRecord {
        host: host.clone(),
        generation,
        offer: None,
        last_outcome: Some(OutcomeRecord { offer, outcome, generation, host: host.clone() }),
        ..record.clone()
    }
}

/// A claim or revoke of an offer that is not open.
fn repeated(
    record: &CapsuleRecord,
    caller: &HostName,
    offer: OfferId,
    wanted: Outcome,
) -> Result<CapsuleRecord, ApiError> {
    match outcome_of(record, offer) {
        Some(outcome) if outcome.outcome != wanted => Err(ApiError::OfferEnded { outcome: outcome.clone() }),
        Some(outcome) => {
            let stands = record.host == *caller && outcome.host == *caller;
            if stands && record.generation == outcome.generation {
                Ok(record.clone())
            } else {
                Err(elsewhere(record))
            }
        }
        None if record.host == *caller => Err(ApiError::OfferUnknown { offer }),
        None => Err(elsewhere(record)),
    }
}

#[cfg(test)]
mod tests;
