//! What hosts assert after a restore.

use std::net::{Ipv4Addr, Ipv6Addr};

use overlay_proto::{CapsuleId, ClaimKeyHash, Generation, HostName, Locators, OfferId};

use super::message as wire;
use super::record::{state_from_wire, state_to_wire};
use super::{WireError, bytes, parsed};
use crate::{AssertedCapsule, AssertedOffer, Assertion, RestoreId, Restoring};

pub(super) fn to_wire(assertion: &Assertion) -> wire::Assertion {
    wire::Assertion {
        restore: assertion.restore.as_bytes().to_vec(),
        revision: assertion.revision,
        hosts: names_to_wire(&assertion.hosts),
        capsules: assertion.capsules.iter().map(capsule_to_wire).collect(),
    }
}

pub(super) fn from_wire(assertion: wire::Assertion) -> Result<Assertion, WireError> {
    Ok(Assertion {
        restore: restore_id(&assertion.restore)?,
        revision: assertion.revision,
        hosts: names_from_wire(&assertion.hosts)?,
        capsules: assertion.capsules.into_iter().map(capsule_from_wire).collect::<Result<_, _>>()?,
    })
}

pub(super) fn restoring_to_wire(restoring: &Restoring) -> wire::Restoring {
    wire::Restoring {
        id: restoring.id.as_bytes().to_vec(),
        asks: restoring.asks,
        missing: names_to_wire(&restoring.missing),
    }
}

pub(super) fn restoring_from_wire(restoring: wire::Restoring) -> Result<Restoring, WireError> {
    Ok(Restoring {
        id: restore_id(&restoring.id)?,
        asks: restoring.asks,
        missing: names_from_wire(&restoring.missing)?,
    })
}

fn capsule_to_wire(capsule: &AssertedCapsule) -> wire::AssertedCapsule {
    wire::AssertedCapsule {
        id: capsule.id.as_bytes().to_vec(),
        name: capsule.name.to_string(),
        owner: capsule.owner.to_string(),
        locator_v4: capsule.locators.v4.octets().to_vec(),
        locator_v6: capsule.locators.v6.octets().to_vec(),
        generation: capsule.generation.number(),
        state: state_to_wire(capsule.state),
        offer: capsule.offer.as_ref().map(|offer| wire::AssertedOffer {
            id: offer.id.as_bytes().to_vec(),
            target: offer.target.to_string(),
            claim_key_hash: offer.claim_key_hash.as_bytes().to_vec(),
        }),
        given_by: capsule.given_by.map(|id| id.as_bytes().to_vec()).unwrap_or_default(),
    }
}

fn capsule_from_wire(capsule: wire::AssertedCapsule) -> Result<AssertedCapsule, WireError> {
    let offer = |offer: wire::AssertedOffer| {
        Ok::<_, WireError>(AssertedOffer {
            id: OfferId::from_bytes(bytes(&offer.id, "offer")?),
            target: parsed(&offer.target, "target")?,
            claim_key_hash: ClaimKeyHash::from_bytes(bytes(&offer.claim_key_hash, "claim_key_hash")?),
        })
    };
    Ok(AssertedCapsule {
        id: CapsuleId::from_bytes(bytes(&capsule.id, "id")?),
        name: parsed(&capsule.name, "name")?,
        owner: parsed(&capsule.owner, "owner")?,
        locators: Locators {
            v4: Ipv4Addr::from(bytes::<4>(&capsule.locator_v4, "locator_v4")?),
            v6: Ipv6Addr::from(bytes::<16>(&capsule.locator_v6, "locator_v6")?),
        },
        generation: Generation::new(capsule.generation),
        state: state_from_wire(capsule.state)?,
        offer: capsule.offer.map(offer).transpose()?,
        given_by: match capsule.given_by.as_slice() {
            [] => None,
            id => Some(OfferId::from_bytes(bytes(id, "given_by")?)),
        },
    })
}

fn restore_id(value: &[u8]) -> Result<RestoreId, WireError> {
    Ok(RestoreId::from_bytes(bytes(value, "restore")?))
}

pub(super) fn names_to_wire(names: &[HostName]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

pub(super) fn names_from_wire(names: &[String]) -> Result<Vec<HostName>, WireError> {
    names.iter().map(|name| parsed(name, "host")).collect()
}

pub(super) fn restored_to_wire(restored: &crate::stored::Restored) -> wire::Restored {
    wire::Restored {
        id: restored.id.as_bytes().to_vec(),
        revision: restored.revision,
        taken_at_ms: super::record::time_to_wire(restored.taken_at),
        awaited: names_to_wire(&restored.awaited),
    }
}

pub(super) fn restored_from_wire(restored: wire::Restored) -> Result<crate::stored::Restored, WireError> {
    Ok(crate::stored::Restored {
        id: restore_id(&restored.id)?,
        revision: restored.revision,
        taken_at: super::record::time_from_wire(restored.taken_at_ms)?,
        awaited: names_from_wire(&restored.awaited)?,
    })
}
