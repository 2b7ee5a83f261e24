//! Requests.

use overlay_proto::{CapsuleId, ClaimKey, ClaimKeyHash, Generation, OfferId};

use super::message as wire;
use super::record::{state_from_wire, state_to_wire};
use super::rule::{terms_from_wire, terms_to_wire};
use super::{WireError, assertion, bytes, needed, parsed};
use crate::{HeldCapsule, LeaseRequest, LookupKey, Request, RuleId, TakeoverFrom};

pub(super) fn to_wire(request: &Request) -> wire::Request {
    use wire::RequestKind as Kind;
    let kind = match request {
        Request::Join { token, csr } => Kind::Join(wire::Join { token: token.clone(), csr: csr.clone() }),
        Request::RenewCertificate { csr } => Kind::RenewCertificate(csr.clone()),
        Request::RenewLease(lease) => Kind::RenewLease(lease_to_wire(lease)),
        Request::Register { name, owner, registration } => Kind::Register(wire::Register {
            name: name.to_string(),
            owner: owner.to_string(),
            registration: registration.to_vec(),
        }),
        Request::Lookup(key) => Kind::Lookup(wire::Lookup { key: Some(key_to_wire(key)) }),
        Request::Offer { capsule, generation, offer, target, claim_key_hash } => {
            Kind::Offer(wire::MakeOffer {
                capsule: capsule.as_bytes().to_vec(),
                generation: generation.number(),
                offer: offer.as_bytes().to_vec(),
                target: target.to_string(),
                claim_key_hash: claim_key_hash.as_bytes().to_vec(),
            })
        }
        Request::Claim { capsule, offer, key } => Kind::Claim(end_offer(capsule, offer, key.as_bytes())),
        Request::Revoke { capsule, offer } => Kind::Revoke(end_offer(capsule, offer, &[])),
        Request::Suspend { capsule, generation, suspension, key_hash } => {
            Kind::Suspend(suspension_to_wire(capsule, *generation, suspension, key_hash.as_bytes()))
        }
        Request::Withdraw { capsule, generation, suspension } => {
            Kind::Withdraw(suspension_to_wire(capsule, *generation, suspension, &[]))
        }
        Request::Resume { capsule, generation, suspension, key } => {
            Kind::Resume(suspension_to_wire(capsule, *generation, suspension, key.as_bytes()))
        }
        Request::SetState { capsule, generation, state } => Kind::SetState(wire::Held {
            id: capsule.as_bytes().to_vec(),
            generation: generation.number(),
            state: state_to_wire(*state),
        }),
        Request::Remove { capsule, generation } => Kind::Remove(wire::Held {
            id: capsule.as_bytes().to_vec(),
            generation: generation.number(),
            state: 0,
        }),
        Request::List => Kind::List(wire::Empty {}),
        Request::Hosts => Kind::Hosts(wire::Empty {}),
        Request::RemoveHost { name, force: false } => Kind::RemoveHost(name.to_string()),
        Request::RemoveHost { name, force: true } => Kind::RemoveHostByForce(name.to_string()),
        Request::TakeOver { capsule, generation, takeover, from, host_is_gone } => {
            let (copy, file) = match from {
                TakeoverFrom::Kept => (Vec::new(), 0),
                TakeoverFrom::Copy(offer) => (offer.as_bytes().to_vec(), 0),
                TakeoverFrom::File(generation) => (Vec::new(), generation.number()),
            };
            Kind::TakeOver(wire::TakeOver {
                generation: generation.number(),
                capsule: capsule.as_bytes().to_vec(),
                takeover: takeover.as_bytes().to_vec(),
                copy,
                host_is_gone: *host_is_gone,
                file,
            })
        }
        Request::AddedRecords(capsule) => Kind::AddedRecords(capsule.as_bytes().to_vec()),
        Request::Rules => Kind::Rules(wire::Empty {}),
        Request::SetRule(terms) => Kind::SetRule(terms_to_wire(terms)),
        Request::RemoveRule(id) => Kind::RemoveRule(id.number()),
        Request::Watch { from_revision } => Kind::Watch(*from_revision),
        Request::Assert(assertion) => Kind::Assert(assertion::to_wire(assertion)),
    };
    wire::Request { kind: Some(kind), asked_by: None, credentials: Vec::new() }
}

pub(super) fn from_wire(request: wire::Request) -> Result<Request, WireError> {
    use wire::RequestKind as Kind;
    Ok(match request.kind.ok_or(WireError::Unknown("request"))? {
        Kind::Join(join) => Request::Join { token: join.token, csr: join.csr },
        Kind::RenewCertificate(csr) => Request::RenewCertificate { csr },
        Kind::RenewLease(lease) => Request::RenewLease(lease_from_wire(lease)?),
        Kind::Register(register) => Request::Register {
            name: parsed(&register.name, "name")?,
            owner: parsed(&register.owner, "owner")?,
            registration: bytes(&register.registration, "registration")?,
        },
        Kind::Lookup(lookup) => Request::Lookup(key_from_wire(needed(lookup.key, "key")?)?),
        Kind::Offer(offer) => Request::Offer {
            capsule: capsule_id(&offer.capsule)?,
            generation: Generation::new(offer.generation),
            offer: offer_id(&offer.offer)?,
            target: parsed(&offer.target, "target")?,
            claim_key_hash: ClaimKeyHash::from_bytes(bytes(&offer.claim_key_hash, "claim_key_hash")?),
        },
        Kind::Claim(claim) => Request::Claim {
            capsule: capsule_id(&claim.capsule)?,
            offer: offer_id(&claim.offer)?,
            key: ClaimKey::from_bytes(bytes(&claim.key, "key")?),
        },
        Kind::Revoke(revoke) => {
            Request::Revoke { capsule: capsule_id(&revoke.capsule)?, offer: offer_id(&revoke.offer)? }
        }
        Kind::Suspend(suspend) => Request::Suspend {
            capsule: capsule_id(&suspend.capsule)?,
            generation: Generation::new(suspend.generation),
            suspension: offer_id(&suspend.suspension)?,
            key_hash: ClaimKeyHash::from_bytes(bytes(&suspend.key, "key_hash")?),
        },
        Kind::Withdraw(withdraw) => Request::Withdraw {
            capsule: capsule_id(&withdraw.capsule)?,
            generation: Generation::new(withdraw.generation),
            suspension: offer_id(&withdraw.suspension)?,
        },
        Kind::Resume(resume) => Request::Resume {
            capsule: capsule_id(&resume.capsule)?,
            generation: Generation::new(resume.generation),
            suspension: offer_id(&resume.suspension)?,
            key: ClaimKey::from_bytes(bytes(&resume.key, "key")?),
        },
        Kind::SetState(held) => Request::SetState {
            capsule: capsule_id(&held.id)?,
            generation: Generation::new(held.generation),
            state: state_from_wire(held.state)?,
        },
        Kind::Remove(held) => {
            Request::Remove { capsule: capsule_id(&held.id)?, generation: Generation::new(held.generation) }
        }
        Kind::List(wire::Empty {}) => Request::List,
        Kind::Hosts(wire::Empty {}) => Request::Hosts,
        Kind::RemoveHost(name) => Request::RemoveHost { name: parsed(&name, "name")?, force: false },
        Kind::RemoveHostByForce(name) => Request::RemoveHost { name: parsed(&name, "name")?, force: true },
        Kind::TakeOver(takeover) => Request::TakeOver {
            generation: Generation::new(takeover.generation),
            capsule: capsule_id(&takeover.capsule)?,
            takeover: offer_id(&takeover.takeover)?,
            from: match (takeover.copy.as_slice(), takeover.file) {
                ([], 0) => TakeoverFrom::Kept,
                ([], file) => TakeoverFrom::File(Generation::new(file)),
                (copy, _) => TakeoverFrom::Copy(offer_id(copy)?),
            },
            host_is_gone: takeover.host_is_gone,
        },
        Kind::AddedRecords(capsule) => Request::AddedRecords(capsule_id(&capsule)?),
        Kind::Rules(wire::Empty {}) => Request::Rules,
        Kind::SetRule(terms) => Request::SetRule(terms_from_wire(&terms)?),
        Kind::RemoveRule(id) => Request::RemoveRule(RuleId::new(id)),
        Kind::Watch(from_revision) => Request::Watch { from_revision },
        Kind::Assert(asserted) => Request::Assert(Box::new(assertion::from_wire(asserted)?)),
    })
}

fn lease_to_wire(lease: &LeaseRequest) -> wire::RenewLease {
    let held = |capsule: &HeldCapsule| wire::Held {
        id: capsule.id.as_bytes().to_vec(),
        generation: capsule.generation.number(),
        state: state_to_wire(capsule.state),
    };
    wire::RenewLease {
        port: lease.port.into(),
        advertise: lease.advertise.map(|address| address.to_string()).unwrap_or_default(),
        capsules: lease.capsules.iter().map(held).collect(),
    }
}

fn lease_from_wire(lease: wire::RenewLease) -> Result<LeaseRequest, WireError> {
    let held = |capsule: wire::Held| {
        Ok(HeldCapsule {
            id: capsule_id(&capsule.id)?,
            generation: Generation::new(capsule.generation),
            state: state_from_wire(capsule.state)?,
        })
    };
    Ok(LeaseRequest {
        port: u16::try_from(lease.port).map_err(|_| WireError::Field("port"))?,
        advertise: match lease.advertise.as_str() {
            "" => None,
            address => Some(parsed(address, "advertise")?),
        },
        capsules: lease.capsules.into_iter().map(held).collect::<Result<_, WireError>>()?,
    })
}

fn key_to_wire(key: &LookupKey) -> wire::LookupKey {
    match key {
        LookupKey::Name(name) => wire::LookupKey::Name(name.to_string()),
        LookupKey::Locator(locator) => wire::LookupKey::Locator(locator.to_string()),
        LookupKey::Id(id) => wire::LookupKey::Id(id.as_bytes().to_vec()),
    }
}

fn key_from_wire(key: wire::LookupKey) -> Result<LookupKey, WireError> {
    Ok(match key {
        wire::LookupKey::Name(name) => LookupKey::Name(parsed(&name, "name")?),
        wire::LookupKey::Locator(locator) => LookupKey::Locator(parsed(&locator, "locator")?),
        wire::LookupKey::Id(id) => LookupKey::Id(capsule_id(&id)?),
    })
}

fn suspension_to_wire(
    capsule: &CapsuleId,
    generation: Generation,
    suspension: &OfferId,
    key: &[u8],
) -> wire::Suspension {
    wire::Suspension {
        capsule: capsule.as_bytes().to_vec(),
        generation: generation.number(),
        suspension: suspension.as_bytes().to_vec(),
        key: key.to_vec(),
    }
}

fn end_offer(capsule: &CapsuleId, offer: &OfferId, key: &[u8]) -> wire::EndOffer {
    wire::EndOffer {
        capsule: capsule.as_bytes().to_vec(),
        offer: offer.as_bytes().to_vec(),
        key: key.to_vec(),
    }
}

fn capsule_id(value: &[u8]) -> Result<CapsuleId, WireError> {
    Ok(CapsuleId::from_bytes(bytes(value, "capsule")?))
}

fn offer_id(value: &[u8]) -> Result<OfferId, WireError> {
    Ok(OfferId::from_bytes(bytes(value, "offer")?))
}
