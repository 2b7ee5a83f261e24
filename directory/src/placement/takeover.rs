//! Takeovers: an operator declares the host of a capsule gone, and the capsule goes on elsewhere from what there is.
//!
//! | from | rule |
//! |---|---|
//! | what the caller kept, superseded | the person chose that host |
//! | the copy of an unfinished move | the last one only: if the capsule was reported running after it, the copy is older than what its peers have seen |
//! | a capsule file | any of the capsule's past, always by a person's word that its host is gone: going back is what the person decides |
//!
//! * All of them raise the generation and end an open offer. A host that comes back finds the capsule elsewhere, at a
//!   higher generation, by a takeover: it freezes what it has, and keeps it.
//! * All of them name the generation that the person saw: what happened since is not ended by a takeover, however late
//!   that comes; of two at once one wins.
//! * None touches a capsule that lies in a file: nobody runs it, and whoever has that file resumes it. The files of
//!   earlier suspends are void then, and so is, after a takeover, a suspend that the lost host was about to make.
//! * A file of a generation that the capsule has not reached is of another history: the directory has lost its memory.

use directory_api::{ApiError, CapsuleRecord, CapsuleState, Outcome, TakeoverFrom};
use overlay_proto::{Generation, HostName, OfferId};

use super::{check_generation, check_not_suspended, ended, outcome_of, repeated};

/// A takeover that an operator wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Takeover {
    /// The generation that the person saw: what happened since is not ended by it, however late it comes.
    pub generation: Generation,
    /// Drawn by the caller.
    pub id: OfferId,
    /// What the caller goes on from.
    pub from: TakeoverFrom,
    /// Whether a person said that the placed host is gone.
    pub host_is_gone: bool,
}

/// Places the capsule at the caller, because its host is gone. `alive` says whether that one's lease is good.
///
/// # Errors
/// Says which rule stands against it.
pub fn take_over(
    record: &CapsuleRecord,
    caller: &HostName,
    takeover: &Takeover,
    alive: bool,
) -> Result<CapsuleRecord, ApiError> {
    if outcome_of(record, takeover.id).is_some() {
        return repeated(record, caller, takeover.id, Outcome::TakenOver);
    }
    check_not_suspended(record)?;
    check_generation(record, takeover.generation)?;
    // The placed host itself knows best that what it has does not run.
    if record.host != *caller && alive && !takeover.host_is_gone {
        return Err(ApiError::HostAlive { host: record.host.clone() });
    }
    match takeover.from {
        TakeoverFrom::Kept => {}
        TakeoverFrom::Copy(copy) => check_last_copy(record, caller, copy)?,
        TakeoverFrom::File(_) if !takeover.host_is_gone => {
            let reason = "going back to a capsule file needs a person's word that the host is gone".into();
            return Err(ApiError::Denied { reason });
        }
        TakeoverFrom::File(file) if file > record.generation => {
            return Err(ApiError::WrongGeneration { given: file, current: record.generation });
        }
        TakeoverFrom::File(_) => {}
    }
    let taken = ended(record, takeover.id, Outcome::TakenOver, caller);
    Ok(CapsuleRecord { state: CapsuleState::Moving, ..taken })
}

/// Whether the capsule has not run since the move of this offer left the caller its copy.
fn check_last_copy(record: &CapsuleRecord, caller: &HostName, copy: OfferId) -> Result<(), ApiError> {
    // What the placed host has is not older than what it has.
    if record.host == *caller {
        return Ok(());
    }
    let offered = record.offer.as_ref().is_some_and(|open| open.id == copy);
    let claimed = outcome_of(record, copy).is_some_and(|outcome| {
        // As kept: a host that only went silent leaves the state that it reported.
        let unreported = matches!(record.state, CapsuleState::Moving | CapsuleState::Lost);
        // Only what runs is offered onwards.
        let unreported = unreported && record.offer.is_none();
        unreported && outcome.outcome == Outcome::Claimed && outcome.generation == record.generation
    });
    if offered || claimed {
        return Ok(());
    }
    Err(ApiError::Denied { reason: "the capsule has run after that copy was made".into() })
}

#[cfg(test)]
mod tests;
