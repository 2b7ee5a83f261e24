//! Records.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use overlay_proto::{CapsuleId, ClaimKeyHash, Generation, Locators, OfferId};

use super::message as wire;
use super::{WireError, bytes, needed, parsed};
use crate::{CapsuleRecord, CapsuleState, HostRecord, OfferRecord, Outcome, OutcomeRecord, SuspensionRecord};

pub(super) fn capsule_to_wire(record: &CapsuleRecord) -> wire::Capsule {
    wire::Capsule {
        id: record.id.as_bytes().to_vec(),
        name: record.name.to_string(),
        owner: record.owner.to_string(),
        locator_v4: record.locators.v4.octets().to_vec(),
        locator_v6: record.locators.v6.octets().to_vec(),
        host: record.host.to_string(),
        generation: record.generation.number(),
        state: state_to_wire(record.state),
        offer: record.offer.as_ref().map(offer_to_wire),
        last_outcome: record.last_outcome.as_ref().map(outcome_to_wire),
        created_at_ms: time_to_wire(record.created_at),
        registration: record.registration.to_vec(),
        suspension: record.suspension.as_ref().map(suspension_to_wire),
    }
}

pub(super) fn capsule_from_wire(record: wire::Capsule) -> Result<CapsuleRecord, WireError> {
    Ok(CapsuleRecord {
        id: CapsuleId::from_bytes(bytes(&record.id, "id")?),
        name: parsed(&record.name, "name")?,
        owner: parsed(&record.owner, "owner")?,
        locators: Locators {
            v4: Ipv4Addr::from(bytes::<4>(&record.locator_v4, "locator_v4")?),
            v6: Ipv6Addr::from(bytes::<16>(&record.locator_v6, "locator_v6")?),
        },
        host: parsed(&record.host, "host")?,
        generation: Generation::new(record.generation),
        state: state_from_wire(record.state)?,
        offer: record.offer.map(offer_from_wire).transpose()?,
        last_outcome: record.last_outcome.map(outcome_from_wire).transpose()?,
        suspension: record.suspension.map(suspension_from_wire).transpose()?,
        created_at: time_from_wire(record.created_at_ms)?,
        registration: bytes(&record.registration, "registration")?,
    })
}

fn suspension_to_wire(suspension: &SuspensionRecord) -> wire::Suspended {
    wire::Suspended {
        id: suspension.id.as_bytes().to_vec(),
        key_hash: suspension.key_hash.as_bytes().to_vec(),
        host: suspension.host.to_string(),
        at_ms: time_to_wire(suspension.at),
    }
}

fn suspension_from_wire(suspension: wire::Suspended) -> Result<SuspensionRecord, WireError> {
    Ok(SuspensionRecord {
        id: OfferId::from_bytes(bytes(&suspension.id, "suspension")?),
        key_hash: ClaimKeyHash::from_bytes(bytes(&suspension.key_hash, "key_hash")?),
        host: parsed(&suspension.host, "host")?,
        at: time_from_wire(suspension.at_ms)?,
    })
}

fn offer_to_wire(offer: &OfferRecord) -> wire::Offer {
    wire::Offer {
        id: offer.id.as_bytes().to_vec(),
        generation: offer.generation.number(),
        target: offer.target.to_string(),
        claim_key_hash: offer.claim_key_hash.as_bytes().to_vec(),
        state_before: state_to_wire(offer.state_before),
    }
}

fn offer_from_wire(offer: wire::Offer) -> Result<OfferRecord, WireError> {
    Ok(OfferRecord {
        id: OfferId::from_bytes(bytes(&offer.id, "offer")?),
        generation: Generation::new(offer.generation),
        target: parsed(&offer.target, "target")?,
        claim_key_hash: ClaimKeyHash::from_bytes(bytes(&offer.claim_key_hash, "claim_key_hash")?),
        state_before: state_from_wire(offer.state_before)?,
    })
}

pub(super) fn outcome_to_wire(outcome: &OutcomeRecord) -> wire::Outcome {
    wire::Outcome {
        offer: outcome.offer.as_bytes().to_vec(),
        outcome: match outcome.outcome {
            Outcome::Claimed => 1,
            Outcome::Revoked => 2,
            Outcome::TakenOver => 3,
        },
        generation: outcome.generation.number(),
        host: outcome.host.to_string(),
    }
}

pub(super) fn outcome_from_wire(outcome: wire::Outcome) -> Result<OutcomeRecord, WireError> {
    Ok(OutcomeRecord {
        offer: OfferId::from_bytes(bytes(&outcome.offer, "offer")?),
        outcome: match outcome.outcome {
            1 => Outcome::Claimed,
            2 => Outcome::Revoked,
            3 => Outcome::TakenOver,
            _ => return Err(WireError::Field("outcome")),
        },
        generation: Generation::new(outcome.generation),
        host: parsed(&outcome.host, "host")?,
    })
}

pub(super) fn host_to_wire(record: &HostRecord) -> wire::Host {
    wire::Host {
        name: record.name.to_string(),
        address: record.address.to_string(),
        last_seen_ms: time_to_wire(record.last_seen),
        alive: record.alive,
        operator: record.operator,
    }
}

pub(super) fn host_from_wire(record: wire::Host) -> Result<HostRecord, WireError> {
    Ok(HostRecord {
        name: parsed(&record.name, "name")?,
        address: parsed(&record.address, "address")?,
        last_seen: time_from_wire(record.last_seen_ms)?,
        alive: record.alive,
        operator: record.operator,
    })
}

pub(super) fn state_to_wire(state: CapsuleState) -> u32 {
    match state {
        CapsuleState::Running => 1,
        CapsuleState::Moving => 2,
        CapsuleState::Suspended => 3,
        CapsuleState::Lost => 4,
        CapsuleState::Stopped => 5,
    }
}

pub(super) fn state_from_wire(state: u32) -> Result<CapsuleState, WireError> {
    match state {
        1 => Ok(CapsuleState::Running),
        2 => Ok(CapsuleState::Moving),
        3 => Ok(CapsuleState::Suspended),
        4 => Ok(CapsuleState::Lost),
        5 => Ok(CapsuleState::Stopped),
        _ => Err(WireError::Field("state")),
    }
}

pub(super) fn time_to_wire(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn time_from_wire(milliseconds: u64) -> Result<SystemTime, WireError> {
    needed(UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds)), "time")
}
