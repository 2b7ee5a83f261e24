//! From what this host keeps of a capsule to its word for it. Pure.
//!
//! | the journal's last entry | word |
//! |---|---|
//! | none, `offered`, `undone`, `suspending`, `thawed` | holds it |
//! | `key_sent` | holds it, and may have given it away by that offer |
//! | `key` | has the key of that offer, and no answer to its claim |
//! | `giving_back` | holds it, and does not run it |
//! | `arriving`, `resuming`, `recovering`, `superseded`, `removing` | nothing |
//!
//! What the directory decided and no journal says yet goes before all of them.

use directory_api::{AssertedCapsule, AssertedOffer, CapsuleState};
use overlay_proto::{ClaimKey, Generation, HostName, OfferId};

use crate::capsule::Stage;
use crate::capsule::file::CapsuleFile;
use crate::moving::journal::{Entry, Journal};

/// What the directory has answered of a capsule, from the moment of the answer on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decided {
    /// It is this host's, at this generation.
    Given(Generation),
    /// It is this host's no more.
    Gone,
}

/// Everything that this host keeps of a capsule.
#[derive(Debug, Clone)]
pub struct Kept {
    /// `capsule.json`.
    pub file: CapsuleFile,
    /// What it does.
    pub stage: Stage,
    /// How its journal begins.
    pub begun: Option<Entry>,
    /// Where it stands by its journal.
    pub journal: Journal,
    /// What the directory has answered last.
    pub decided: Option<Decided>,
}

/// This host's word for a capsule, or none when it does not hold it.
pub fn word_for(me: &HostName, kept: &Kept) -> Option<AssertedCapsule> {
    let given = match kept.decided {
        Some(Decided::Gone) => return None,
        Some(Decided::Given(generation)) => Some(generation).filter(|given| *given > kept.file.generation),
        None => None,
    };
    let gone = matches!(
        kept.stage,
        Stage::Left { .. } | Stage::Removed | Stage::Suspended | Stage::Superseded { .. }
    );
    if gone {
        return None;
    }
    let own = kept.file.generation;
    match (&kept.journal, given) {
        (Journal::Superseded | Journal::Removing, _) => None,
        (Journal::Key { .. } | Journal::Resuming { .. } | Journal::Recovering { .. }, Some(generation)) => {
            Some(held(kept, generation, CapsuleState::Moving))
        }
        (Journal::Key { offer, key, .. }, None) => {
            let offer = offer_to(me, *offer, key);
            Some(AssertedCapsule {
                offer: Some(offer),
                given_by: None,
                ..held(kept, own, CapsuleState::Moving)
            })
        }
        (Journal::Arriving | Journal::Resuming { .. } | Journal::Recovering { .. }, _) => None,
        (Journal::GivingBack { generation, .. } | Journal::PuttingBack { generation, .. }, _) => {
            Some(held(kept, *generation, CapsuleState::Moving))
        }
        (Journal::KeySent { offer, generation, key }, None) if own <= *generation => {
            let target = match &kept.begun {
                Some(Entry::Offered { target, .. }) => Some(target),
                _ => None,
            };
            let offer = target.map(|target| offer_to(target, *offer, key));
            Some(AssertedCapsule { offer, ..held(kept, own, state(&kept.stage)) })
        }
        (Journal::Thawed { generation, .. }, _) => {
            Some(held(kept, own.max(*generation).max(given.unwrap_or(own)), state(&kept.stage)))
        }
        (
            Journal::Quiet
            | Journal::Offered { .. }
            | Journal::Undone { .. }
            | Journal::Suspending { .. }
            | Journal::KeySent { .. },
            given,
        ) => Some(held(kept, given.unwrap_or(own), state(&kept.stage))),
    }
}

fn held(kept: &Kept, generation: Generation, state: CapsuleState) -> AssertedCapsule {
    let file = &kept.file;
    let arrived = matches!(
        kept.journal,
        Journal::Key { .. }
            | Journal::Resuming { .. }
            | Journal::Thawed { .. }
            | Journal::GivingBack { .. }
            | Journal::PuttingBack { .. }
    );
    let given_by = match (&kept.journal, &kept.begun) {
        (Journal::Thawed { generation: thawed, .. }, _) if generation != *thawed => None,
        (_, Some(Entry::Arriving { offer, .. })) if arrived => Some(*offer),
        (_, Some(Entry::Resuming { suspension, .. })) if arrived => Some(*suspension),
        _ => None,
    };
    AssertedCapsule {
        id: file.id,
        name: file.name.clone(),
        owner: file.owner.clone(),
        locators: file.locators,
        generation,
        state,
        offer: None,
        given_by,
    }
}

fn offer_to(target: &HostName, id: OfferId, key: &ClaimKey) -> AssertedOffer {
    AssertedOffer { id, target: target.clone(), claim_key_hash: key.hash() }
}

fn state(stage: &Stage) -> CapsuleState {
    match stage {
        Stage::Stopped(_) => CapsuleState::Stopped,
        Stage::Died => CapsuleState::Lost,
        // Of what an earlier sidecar left, the lease tells when that is known.
        Stage::Starting
        | Stage::Running
        | Stage::Moving
        | Stage::Arriving
        | Stage::Found
        | Stage::Left { .. }
        | Stage::Suspended
        | Stage::Removed
        | Stage::Superseded { .. } => CapsuleState::Running,
    }
}

#[cfg(test)]
mod tests;
