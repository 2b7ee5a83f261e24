//! The directory of the model: the real rules of `capsule_directory::placement`, on the real record.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::SystemTime;

use capsule_directory::placement::{self, NewOffer, Takeover};
use directory_api::{ApiError, CapsuleRecord, CapsuleState, OfferRecord, OutcomeRecord, TakeoverFrom};
use overlay_proto::{CapsuleId, ClaimKey, Locators, OfferId};

use super::Mutation;
use super::state::{
    Answer, Host, MOVES_MAX, Offer, OpenOffer, Outcome, OutcomeId, Record, Request, State, generation,
    host_name, offer_id, other,
};

/// What one request does to the record, and what the directory answers.
pub(super) fn carry_out(mutation: Option<Mutation>, state: &State, request: Request) -> (Record, Answer) {
    type Asked = (
        Option<Mutation>,
        Record,
        Request,
        [Option<(u8, Host)>; MOVES_MAX],
        Option<(Host, u8, Option<Offer>)>,
    );
    thread_local! {
        // The rules are pure, and few different questions are asked millions of times.
        static ANSWERED: RefCell<HashMap<Asked, (Record, Answer)>> = RefCell::default();
    }
    let asked = (mutation, state.record, request, state.moves, state.takeover);
    ANSWERED.with_borrow_mut(|answered| {
        *answered.entry(asked).or_insert_with(|| decide(mutation, state, request))
    })
}

fn decide(mutation: Option<Mutation>, state: &State, request: Request) -> (Record, Answer) {
    let record = full(&state.record);
    let made = |offer: Offer| state.moves[usize::from(offer.number)].expect("an offer belongs to a move");
    let maker = |offer: Offer| if offer.back { other(made(offer).1) } else { made(offer).1 };
    let result = match request {
        Request::Offer(offer) => {
            let new = NewOffer {
                generation: generation(made(offer).0 + u8::from(offer.back)),
                id: offer_id(offer),
                target: host_name(other(maker(offer))),
                claim_key_hash: key(offer).hash(),
            };
            placement::offer(&record, &host_name(maker(offer)), &new)
        }
        Request::Claim(offer) => {
            let claimant = host_name(other(maker(offer)));
            let record = match mutation {
                Some(Mutation::ClaimIgnoresRevoke) => reopened(record, offer, maker(offer)),
                _ => record,
            };
            match placement::claim(&record, &claimant, offer_id(offer), &key(offer)) {
                Ok(same) if same == record && mutation == Some(Mutation::ClaimNotRepeatable) => {
                    Err(ApiError::OfferUnknown { offer: offer_id(offer) })
                }
                result => result,
            }
        }
        Request::Revoke(offer) => placement::revoke(&record, &host_name(maker(offer)), offer_id(offer)),
        Request::Running(host, at) => {
            let at = match mutation {
                Some(Mutation::StateOfAnyGeneration) => record.generation,
                _ => generation(at),
            };
            placement::set_state(&record, &host_name(host), at, CapsuleState::Running)
        }
        Request::TakeOver(host) => {
            let takeover = Takeover {
                generation: generation(state.takeover.map_or(0, |(_, seen, _)| seen)),
                id: outcome_id(OutcomeId::TakeOver(host)),
                from: state
                    .takeover
                    .and_then(|(_, _, copy)| copy)
                    .map_or(TakeoverFrom::Kept, |copy| TakeoverFrom::Copy(offer_id(copy))),
                host_is_gone: true,
            };
            placement::take_over(&record, &host_name(host), &takeover, true)
        }
    };
    match result {
        Ok(record) => (brief(&record), Answer::Holds(number_of(record.generation))),
        Err(error) => (state.record, refusal(&error)),
    }
}

/// As when the rule that claim and revoke exclude each other were not there.
fn reopened(record: CapsuleRecord, offer: Offer, source: Host) -> CapsuleRecord {
    let revoked = record.last_outcome.as_ref().is_some_and(|outcome| {
        outcome.offer == offer_id(offer) && outcome.outcome == directory_api::Outcome::Revoked
    });
    if !revoked {
        return record;
    }
    let open = OfferRecord {
        id: offer_id(offer),
        generation: record.generation,
        target: host_name(other(source)),
        claim_key_hash: key(offer).hash(),
        state_before: record.state,
    };
    CapsuleRecord { offer: Some(open), last_outcome: None, ..record }
}

fn refusal(error: &ApiError) -> Answer {
    match error {
        ApiError::OfferPending { offer, .. } => Answer::Pending(offer_of(*offer)),
        _ => Answer::Refused,
    }
}

/// The claim key of a move, under which its target also offers it back.
pub(super) fn key(offer: Offer) -> ClaimKey {
    ClaimKey::from_bytes([offer.number; 32])
}

pub(super) fn offer_of(id: OfferId) -> Offer {
    let number = id.as_bytes()[0] - 1;
    Offer { number: number / 2, back: number % 2 == 1 }
}

const TAKE_OVERS_FROM: u8 = 200;

fn outcome_id(id: OutcomeId) -> OfferId {
    match id {
        OutcomeId::Offer(offer) => offer_id(offer),
        OutcomeId::TakeOver(host) => OfferId::from_bytes([TAKE_OVERS_FROM + host; 16]),
    }
}

fn host_of(name: &overlay_proto::HostName) -> Host {
    u8::from(*name != host_name(0))
}

pub(super) fn number_of(generation: overlay_proto::Generation) -> u8 {
    u8::try_from(generation.number()).expect("a model's generations are few")
}

fn shown(running: bool) -> CapsuleState {
    if running { CapsuleState::Running } else { CapsuleState::Moving }
}

/// The record as the real rules know it.
pub(super) fn full(record: &Record) -> CapsuleRecord {
    CapsuleRecord {
        id: CapsuleId::from_bytes([1; 16]),
        name: "capsule".parse().expect("a name"),
        owner: "owner".parse().expect("an owner"),
        locators: Locators { v4: [10, 88, 0, 1].into(), v6: [0xfd88, 0, 0, 0, 0, 0, 0, 1].into() },
        host: host_name(record.host),
        generation: generation(record.generation),
        state: shown(record.running),
        offer: record.offer.map(|open| OfferRecord {
            id: offer_id(open.id),
            generation: generation(open.generation),
            target: host_name(open.target),
            claim_key_hash: key(open.id).hash(),
            state_before: shown(open.running_before),
        }),
        last_outcome: record.outcome.map(|outcome| OutcomeRecord {
            offer: outcome_id(outcome.id),
            outcome: outcome.kind,
            generation: generation(outcome.generation),
            host: host_name(outcome.host),
        }),
        created_at: SystemTime::UNIX_EPOCH,
        suspension: None,
        registration: [0; 16],
    }
}

/// What of it changes.
fn brief(record: &CapsuleRecord) -> Record {
    let outcome = |outcome: &OutcomeRecord| Outcome {
        id: match outcome.offer.as_bytes()[0] {
            taken @ TAKE_OVERS_FROM.. => OutcomeId::TakeOver(taken - TAKE_OVERS_FROM),
            _ => OutcomeId::Offer(offer_of(outcome.offer)),
        },
        kind: outcome.outcome,
        generation: number_of(outcome.generation),
        host: host_of(&outcome.host),
    };
    Record {
        host: host_of(&record.host),
        generation: number_of(record.generation),
        running: record.state == CapsuleState::Running,
        offer: record.offer.as_ref().map(|open| OpenOffer {
            id: offer_of(open.id),
            generation: number_of(open.generation),
            target: host_of(&open.target),
            running_before: open.state_before == CapsuleState::Running,
        }),
        outcome: record.last_outcome.as_ref().map(outcome),
    }
}
