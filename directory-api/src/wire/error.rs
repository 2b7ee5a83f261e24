//! Refusals: the code says which fields mean something.

use overlay_proto::{Generation, OfferId};

use super::assertion::names_to_wire;
use super::message as wire;
use super::record::{outcome_from_wire, outcome_to_wire};
use super::{WireError, bytes, needed, parsed};
use crate::ApiError;

/// Between the names of hosts, none of which has it.
const NAMES_APART: &str = ",";

pub(super) fn to_wire(refusal: &ApiError) -> wire::Error {
    let blank = wire::Error { code: refusal.code(), message: refusal.to_string(), ..Default::default() };
    let offer_bytes = |offer: &OfferId| offer.as_bytes().to_vec();
    match refusal {
        ApiError::Malformed { reason } | ApiError::Denied { reason } | ApiError::StoreAway { reason } => {
            wire::Error { subject: reason.clone(), ..blank }
        }
        ApiError::NameTaken { name } | ApiError::NameReserved { name } | ApiError::UnknownHost { name } => {
            wire::Error { subject: name.clone(), ..blank }
        }
        ApiError::UnknownCapsule { what } => wire::Error { subject: what.clone(), ..blank },
        ApiError::WrongGeneration { given, current } => {
            wire::Error { number: given.number(), number_other: current.number(), ..blank }
        }
        ApiError::NotPlacedHere { host, generation } | ApiError::Suspended { host, generation } => {
            wire::Error { host: host.to_string(), number: generation.number(), ..blank }
        }
        ApiError::OfferUnknown { offer } | ApiError::OfferDiffers { offer } => {
            wire::Error { offer: offer_bytes(offer), ..blank }
        }
        ApiError::OfferEnded { outcome } => wire::Error { outcome: Some(outcome_to_wire(outcome)), ..blank },
        ApiError::OfferPending { offer, target } => {
            wire::Error { offer: offer_bytes(offer), host: target.to_string(), ..blank }
        }
        ApiError::NotTheTarget { target: host }
        | ApiError::TokenForAnotherHost { host }
        | ApiError::HostAlive { host }
        | ApiError::NotAMember { host } => wire::Error { host: host.to_string(), ..blank },
        ApiError::QuotaExceeded { owner, limit } => {
            wire::Error { subject: owner.clone(), number: *limit, ..blank }
        }
        ApiError::Asserting { missing } => {
            wire::Error { subject: names_to_wire(missing).join(NAMES_APART), ..blank }
        }
        ApiError::UnknownRule { id: number } | ApiError::TooManyRules { limit: number } => {
            wire::Error { number: *number, ..blank }
        }
        ApiError::WrongKey
        | ApiError::TokenUsed
        | ApiError::TokenExpired
        | ApiError::TokenUnknown
        | ApiError::LocatorsExhausted
        | ApiError::StoreFailed
        | ApiError::Stopping => blank,
        ApiError::Unrecognized { message, .. } => wire::Error { message: message.clone(), ..blank },
    }
}

pub(super) fn from_wire(refusal: wire::Error) -> Result<ApiError, WireError> {
    let subject = refusal.subject;
    let offer = |value: &[u8]| Ok::<_, WireError>(OfferId::from_bytes(bytes(value, "offer")?));
    let host = |text: &str| parsed(text, "host");
    Ok(match refusal.code {
        1 => ApiError::Malformed { reason: subject },
        2 => ApiError::Denied { reason: subject },
        3 => ApiError::StoreFailed,
        4 => ApiError::Stopping,
        5 => {
            let names = subject.split(NAMES_APART).filter(|name| !name.is_empty());
            ApiError::Asserting { missing: names.map(|name| parsed(name, "host")).collect::<Result<_, _>>()? }
        }
        6 => ApiError::StoreAway { reason: subject },
        10 => ApiError::NameTaken { name: subject },
        11 => ApiError::NameReserved { name: subject },
        12 => ApiError::UnknownCapsule { what: subject },
        13 => ApiError::UnknownHost { name: subject },
        14 => ApiError::QuotaExceeded { owner: subject, limit: refusal.number },
        15 => ApiError::LocatorsExhausted,
        17 => ApiError::HostAlive { host: host(&refusal.host)? },
        20 => ApiError::WrongGeneration {
            given: Generation::new(refusal.number),
            current: Generation::new(refusal.number_other),
        },
        21 => ApiError::NotPlacedHere {
            host: host(&refusal.host)?,
            generation: Generation::new(refusal.number),
        },
        22 => ApiError::OfferUnknown { offer: offer(&refusal.offer)? },
        23 => ApiError::OfferEnded { outcome: outcome_from_wire(needed(refusal.outcome, "outcome")?)? },
        24 => ApiError::OfferPending { offer: offer(&refusal.offer)?, target: host(&refusal.host)? },
        25 => ApiError::OfferDiffers { offer: offer(&refusal.offer)? },
        26 => ApiError::NotTheTarget { target: host(&refusal.host)? },
        27 => ApiError::WrongKey,
        28 => ApiError::Suspended { host: host(&refusal.host)?, generation: Generation::new(refusal.number) },
        30 => ApiError::TokenUsed,
        31 => ApiError::TokenExpired,
        32 => ApiError::TokenUnknown,
        33 => ApiError::TokenForAnotherHost { host: host(&refusal.host)? },
        34 => ApiError::NotAMember { host: host(&refusal.host)? },
        40 => ApiError::UnknownRule { id: refusal.number },
        41 => ApiError::TooManyRules { limit: refusal.number },
        code => ApiError::Unrecognized { code, message: refusal.message },
    })
}
