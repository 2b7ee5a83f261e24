use overlay_proto::{CapsuleId, ClaimKeyHash, Generation, Locators, OfferId};
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::asked::{Asked, Person};
use crate::policy::{Effect, Terms};
use crate::{AddedRecord, AssertedCapsule, AssertedOffer, Assertion, RestoreId, Restoring, RuleId, RuleSet};
use crate::{ApiError, CapsuleState, Issued, LeaseRequest, LookupKey, OfferRecord, Outcome, OutcomeRecord};
use crate::{
    DirectoryAddresses, HeldCapsule, HostRecord, Lease, StaleCapsule, SuspensionRecord, TakeoverFrom,
};

fn capsule() -> CapsuleRecord {
    CapsuleRecord {
        id: CapsuleId::from_bytes([1; 16]),
        name: "db".parse().unwrap(),
        owner: "me".parse().unwrap(),
        locators: Locators { v4: "10.88.0.1".parse().unwrap(), v6: "fd88::1".parse().unwrap() },
        host: "a".parse().unwrap(),
        generation: Generation::new(3),
        state: CapsuleState::Moving,
        offer: Some(OfferRecord {
            id: OfferId::from_bytes([2; 16]),
            generation: Generation::new(3),
            target: "b".parse().unwrap(),
            claim_key_hash: ClaimKeyHash::from_bytes([3; 32]),
            state_before: CapsuleState::Running,
        }),
        last_outcome: Some(outcome()),
        suspension: Some(SuspensionRecord {
            id: OfferId::from_bytes([6; 16]),
            key_hash: ClaimKeyHash::from_bytes([7; 32]),
            host: "b".parse().unwrap(),
            at: UNIX_EPOCH + Duration::from_millis(1_790_000_000_001),
        }),
        created_at: UNIX_EPOCH + Duration::from_millis(1_790_000_000_123),
        registration: [4; 16],
    }
}

fn outcome() -> OutcomeRecord {
    OutcomeRecord {
        offer: OfferId::from_bytes([5; 16]),
        outcome: Outcome::Revoked,
        generation: Generation::new(2),
        host: "a".parse().unwrap(),
    }
}

fn rule() -> Rule {
    Rule {
        id: RuleId::new(41),
        terms: Terms {
            effect: Effect::Deny,
            from: "*/web-*".parse().unwrap(),
            to: "me/db".parse().unwrap(),
            ports: "5432-5440".parse().unwrap(),
        },
        set_at: UNIX_EPOCH + Duration::from_millis(1_790_000_000_123),
        set_by: "a".parse().unwrap(),
    }
}

fn assertion() -> Assertion {
    let held = AssertedCapsule {
        id: CapsuleId::from_bytes([1; 16]),
        name: "db".parse().unwrap(),
        owner: "me".parse().unwrap(),
        locators: capsule().locators,
        generation: Generation::new(9),
        state: CapsuleState::Stopped,
        offer: None,
        given_by: Some(OfferId::from_bytes([5; 16])),
    };
    let offer = AssertedOffer {
        id: OfferId::from_bytes([2; 16]),
        target: "b".parse().unwrap(),
        claim_key_hash: ClaimKeyHash::from_bytes([3; 32]),
    };
    let leaving = AssertedCapsule { offer: Some(offer), given_by: None, ..held.clone() };
    Assertion {
        restore: RestoreId::from_bytes([4; 16]),
        revision: 77,
        hosts: vec![host().name],
        capsules: vec![held, leaving],
    }
}

fn host() -> HostRecord {
    HostRecord {
        name: "a".parse().unwrap(),
        address: "[fd00::1]:4433".parse().unwrap(),
        last_seen: UNIX_EPOCH + Duration::from_millis(5),
        alive: true,
        operator: false,
    }
}

#[test]
fn requests_are_read_back() {
    let (capsule, offer) = (CapsuleId::from_bytes([1; 16]), OfferId::from_bytes([2; 16]));
    let generation = Generation::new(u64::MAX);
    let held = HeldCapsule { id: capsule, generation, state: CapsuleState::Running };
    let take_over =
        |from, host_is_gone| Request::TakeOver { capsule, generation, takeover: offer, from, host_is_gone };
    let requests = [
        Request::Join { token: "t".into(), csr: vec![1, 2] },
        Request::RenewCertificate { csr: vec![] },
        Request::RenewLease(LeaseRequest { port: 4433, advertise: None, capsules: vec![held; 3] }),
        Request::RenewLease(LeaseRequest { port: 1, advertise: Some(host().address), capsules: vec![] }),
        Request::Register {
            name: "db".parse().unwrap(),
            owner: "me".parse().unwrap(),
            registration: [9; 16],
        },
        Request::Lookup(LookupKey::Name("db".parse().unwrap())),
        Request::Lookup(LookupKey::Locator("fd88::1".parse().unwrap())),
        Request::Lookup(LookupKey::Id(capsule)),
        Request::Offer {
            capsule,
            generation,
            offer,
            target: "b".parse().unwrap(),
            claim_key_hash: ClaimKeyHash::from_bytes([3; 32]),
        },
        Request::Claim { capsule, offer, key: overlay_proto::ClaimKey::from_bytes([7; 32]) },
        Request::Revoke { capsule, offer },
        Request::Suspend {
            capsule,
            generation,
            suspension: offer,
            key_hash: ClaimKeyHash::from_bytes([8; 32]),
        },
        Request::Withdraw { capsule, generation, suspension: offer },
        Request::Resume {
            capsule,
            generation,
            suspension: offer,
            key: overlay_proto::ClaimKey::from_bytes([9; 32]),
        },
        Request::SetState { capsule, generation, state: CapsuleState::Suspended },
        Request::Remove { capsule, generation },
        Request::List,
        Request::Hosts,
        Request::RemoveHost { name: "a".parse().unwrap(), force: false },
        Request::RemoveHost { name: "a".parse().unwrap(), force: true },
        take_over(TakeoverFrom::Kept, true),
        take_over(TakeoverFrom::Copy(offer), false),
        take_over(TakeoverFrom::File(generation), true),
        Request::AddedRecords(capsule),
        Request::Rules,
        Request::SetRule(rule().terms),
        Request::RemoveRule(RuleId::new(41)),
        Request::Watch { from_revision: 0 },
        Request::Watch { from_revision: 77 },
        Request::Assert(Box::new(assertion())),
    ];
    for request in requests {
        assert_eq!(Request::decode(&request.encode()), Ok(request));
    }
}

#[test]
fn what_goes_along_with_a_request_is_read_back_and_may_be_skipped() {
    let person = Person {
        host: Some("a".parse().unwrap()),
        uid: 1000,
        user: Some("ann".into()),
        login: Some("ann.lee".into()),
    };
    let asked = Asked { request: Request::List, by: Some(person.clone()), credentials: Some([4; 32]) };
    assert_eq!(Asked::decode(&asked.encode()), Ok(asked.clone()));
    assert_eq!(Request::decode(&asked.encode()), Ok(Request::List));
    let bare = Asked { request: Request::List, by: None, credentials: None };
    assert_eq!(Asked::decode(&Request::List.encode()), Ok(bare));
    assert_eq!(person.to_string(), "ann (uid 1000), logged in as ann.lee, at a");

    // A name is shown to people: it has one line, and an end.
    let loud = Person { user: Some(format!("x\n\u{1b}[2J{}", "y".repeat(500))), ..person };
    let read = Asked::decode(&Asked { by: Some(loud), ..asked }.encode()).unwrap().by.unwrap().user.unwrap();
    assert!(read.starts_with("x??[2Jy") && read.chars().count() == 64, "{read}");
}

#[test]
fn responses_are_read_back() {
    let stale = [
        StaleCapsule { id: CapsuleId::from_bytes([1; 16]), placed: None },
        StaleCapsule {
            id: CapsuleId::from_bytes([2; 16]),
            placed: Some(("b".parse().unwrap(), Generation::new(4))),
        },
    ];
    let directories = DirectoryAddresses {
        api: vec!["192.0.2.7:4400".parse().unwrap(), "[fd00::7]:4400".parse().unwrap()],
        dns: vec!["192.0.2.7:53".parse().unwrap()],
    };
    let lease = Lease {
        duration: Duration::from_secs(15),
        host: host(),
        stale: stale.to_vec(),
        credentials: Some([5; 32]),
        restoring: None,
        directories,
        locators: vec!["10.88.0.0/16".parse().unwrap(), "fd88::/64".parse().unwrap()],
    };
    let restoring = Restoring {
        id: RestoreId::from_bytes([4; 16]),
        asks: true,
        missing: vec![host().name, "b".parse().unwrap()],
    };
    let restored = Lease { restoring: Some(restoring), ..lease.clone() };
    let issued = Issued {
        chain: vec![vec![1]],
        ca: vec![2],
        also_trusted: vec![vec![3]],
        api: vec![host().address],
        dns: vec![],
    };
    let responses = [
        Response::Issued(issued),
        Response::Lease(lease.clone()),
        Response::Lease(restored),
        Response::Lease(Lease { credentials: None, ..lease }),
        Response::Capsule(Box::new(capsule())),
        Response::Capsules(vec![capsule(), CapsuleRecord { offer: None, last_outcome: None, ..capsule() }]),
        Response::Hosts(vec![host()]),
        Response::AddedRecords(vec![AddedRecord {
            below: "_x._tcp".into(),
            ttl_seconds: 60,
            kind: "SRV".into(),
            data: "0 0 5432 db.capsule.internal.".into(),
        }]),
        Response::Rules(RuleSet { revision: 9, rules: vec![rule()] }),
        Response::Done,
    ];
    for response in responses {
        assert_eq!(Response::decode(&response.encode()), Ok(response));
    }
    assert_eq!(decode_capsule(&encode_capsule(&capsule())), Ok(capsule()));
    assert_eq!(decode_rule(&encode_rule(&rule())), Ok(rule()));
    let restored = crate::stored::Restored {
        id: RestoreId::from_bytes([4; 16]),
        revision: 9,
        taken_at: UNIX_EPOCH + Duration::from_millis(1_790_000_000_001),
        awaited: vec![host().name],
    };
    assert_eq!(decode_restored(&encode_restored(&restored)), Ok(restored));
}

#[test]
fn refusals_are_read_back_and_have_codes_of_their_own() {
    let (host, offer) = (host().name, OfferId::from_bytes([2; 16]));
    let text = || "x".to_owned();
    let generation = Generation::new(1);
    let refusals = [
        ApiError::Malformed { reason: text() },
        ApiError::Denied { reason: text() },
        ApiError::NameTaken { name: text() },
        ApiError::NameReserved { name: text() },
        ApiError::UnknownCapsule { what: text() },
        ApiError::UnknownHost { name: text() },
        ApiError::WrongGeneration { given: generation, current: Generation::new(2) },
        ApiError::NotPlacedHere { host: host.clone(), generation },
        ApiError::OfferUnknown { offer },
        ApiError::OfferEnded { outcome: outcome() },
        ApiError::OfferPending { offer, target: host.clone() },
        ApiError::OfferDiffers { offer },
        ApiError::NotTheTarget { target: host.clone() },
        ApiError::WrongKey,
        ApiError::Suspended { host: host.clone(), generation },
        ApiError::TokenUsed,
        ApiError::TokenExpired,
        ApiError::TokenUnknown,
        ApiError::TokenForAnotherHost { host: host.clone() },
        ApiError::QuotaExceeded { owner: text(), limit: 5 },
        ApiError::LocatorsExhausted,
        ApiError::HostAlive { host: host.clone() },
        ApiError::NotAMember { host },
        ApiError::UnknownRule { id: 7 },
        ApiError::TooManyRules { limit: 8 },
        ApiError::StoreFailed,
        ApiError::StoreAway { reason: text() },
        ApiError::Stopping,
        ApiError::Asserting { missing: vec!["a".parse().unwrap(), "b".parse().unwrap()] },
        ApiError::Unrecognized { code: 999, message: text() },
    ];
    let mut codes = std::collections::BTreeSet::new();
    for refusal in refusals {
        assert!(codes.insert(refusal.code()), "code {} twice", refusal.code());
        let response = Response::Error(refusal);
        assert_eq!(Response::decode(&response.encode()), Ok(response));
    }
}

#[test]
fn a_snapshot_comes_in_pieces_and_ends() {
    let capsules = vec![capsule(); 600];
    let change = Change::Snapshot { revision: 9, capsules, hosts: vec![host()], rules: vec![rule(); 257] };
    let pieces: Vec<_> = change.encode().iter().map(|piece| piece_from_wire(piece).unwrap()).collect();
    assert_eq!(pieces.len(), 2 + 1 + 3 + 1);
    let lasts: Vec<_> =
        pieces.iter().map(|piece| matches!(piece, WatchPiece::Snapshot { last: true, .. })).collect();
    assert_eq!(lasts, [false, false, false, false, false, false, true]);
}

#[test]
fn unknown_kinds_and_noise_are_errors() {
    // Field 99, length-delimited, empty: a kind from the future.
    assert_eq!(Request::decode(&[0x9a, 0x06, 0x00]), Err(WireError::Unknown("request")));
    assert_eq!(Response::decode(&[]), Err(WireError::Unknown("response")));
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for length in 0..2000 {
        let noise: Vec<u8> = (0..length % 64)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        let _ = (
            Request::decode(&noise),
            Response::decode(&noise),
            piece_from_wire(&noise),
            decode_capsule(&noise),
        );
    }
}
