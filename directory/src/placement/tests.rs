use std::collections::HashMap;
use std::time::UNIX_EPOCH;

use directory_api::TakeoverFrom;
use overlay_proto::{CapsuleId, Locators};
use proptest::prelude::*;

use super::*;

fn host(number: u8) -> HostName {
    ["a", "b", "c"][usize::from(number % 3)].parse().unwrap()
}

fn key(number: u8) -> ClaimKey {
    ClaimKey::from_bytes([number; 32])
}

fn id(number: u8) -> OfferId {
    OfferId::from_bytes([number; 16])
}

fn record() -> CapsuleRecord {
    CapsuleRecord {
        id: CapsuleId::from_bytes([1; 16]),
        name: "db".parse().unwrap(),
        owner: "me".parse().unwrap(),
        locators: Locators { v4: [10, 88, 0, 1].into(), v6: "fd88::1".parse().unwrap() },
        host: host(0),
        generation: Generation::new(1),
        state: CapsuleState::Running,
        offer: None,
        last_outcome: None,
        created_at: UNIX_EPOCH,
        suspension: None,
        registration: [0; 16],
    }
}

/// A takeover by a person's word, in sight of this record.
fn takeover(record: &CapsuleRecord, number: u8, from: TakeoverFrom) -> Takeover {
    Takeover { generation: record.generation, id: id(number), from, host_is_gone: true }
}

/// Offer 1 with key 1, from a to b, at the record's generation.
fn offered(record: &CapsuleRecord) -> CapsuleRecord {
    offer(record, &host(0), &new_offer(record.generation, 1, 1, 1)).unwrap()
}

fn new_offer(generation: Generation, offer: u8, target: u8, with_key: u8) -> NewOffer {
    NewOffer { generation, id: id(offer), target: host(target), claim_key_hash: key(with_key).hash() }
}

#[test]
fn a_claim_moves_the_capsule_and_may_be_repeated() {
    let open = offered(&record());
    assert_eq!((open.state, open.generation), (CapsuleState::Moving, Generation::new(1)));
    let claimed = claim(&open, &host(1), id(1), &key(1)).unwrap();
    assert_eq!(
        (&claimed.host, claimed.generation, claimed.offer.is_none()),
        (&host(1), Generation::new(2), true)
    );
    assert_eq!(claim(&claimed, &host(1), id(1), &key(1)), Ok(claimed.clone()));
    let outcome = claimed.last_outcome.clone().unwrap();
    assert_eq!(revoke(&claimed, &host(0), id(1)), Err(ApiError::OfferEnded { outcome }));
}

#[test]
fn a_revoke_keeps_the_capsule_and_may_be_repeated() {
    let open = offered(&record());
    let revoked = revoke(&open, &host(0), id(1)).unwrap();
    assert_eq!((&revoked.host, revoked.generation), (&host(0), Generation::new(2)));
    assert_eq!((revoked.state, revoked.offer.is_none()), (CapsuleState::Running, true));
    assert_eq!(revoke(&revoked, &host(0), id(1)), Ok(revoked.clone()));
    let outcome = revoked.last_outcome.clone().unwrap();
    assert_eq!(
        claim(&revoked, &host(1), id(1), &key(1)),
        Err(ApiError::OfferEnded { outcome: outcome.clone() })
    );
    let again = offer(&revoked, &host(0), &new_offer(Generation::new(2), 1, 1, 1));
    assert_eq!(again, Err(ApiError::OfferEnded { outcome }));
}

#[test]
fn impostors_get_nothing() {
    let open = offered(&record());
    assert!(matches!(
        offer(&record(), &host(1), &new_offer(Generation::new(1), 2, 2, 2)),
        Err(ApiError::NotPlacedHere { .. })
    ));
    assert_eq!(claim(&open, &host(2), id(1), &key(1)), Err(ApiError::NotTheTarget { target: host(1) }));
    assert_eq!(claim(&open, &host(0), id(1), &key(1)), Err(ApiError::NotTheTarget { target: host(1) }));
    assert_eq!(claim(&open, &host(1), id(1), &key(2)), Err(ApiError::WrongKey));
    assert!(matches!(claim(&open, &host(1), id(2), &key(1)), Err(ApiError::NotPlacedHere { .. })));
    assert!(matches!(revoke(&open, &host(1), id(1)), Err(ApiError::NotPlacedHere { .. })));
    assert!(matches!(revoke(&open, &host(2), id(1)), Err(ApiError::NotPlacedHere { .. })));
    assert!(matches!(
        set_state(&open, &host(1), Generation::new(1), CapsuleState::Stopped),
        Err(ApiError::NotPlacedHere { .. })
    ));
    assert!(matches!(
        check_remove(&record(), &host(1), Generation::new(1), true),
        Err(ApiError::NotPlacedHere { .. })
    ));
}

#[test]
fn an_open_offer_gives_way_to_no_other() {
    let open = offered(&record());
    let same = new_offer(Generation::new(1), 1, 1, 1);
    assert_eq!(offer(&open, &host(0), &same), Ok(open.clone()));
    let pending = Err(ApiError::OfferPending { offer: id(1), target: host(1) });
    assert_eq!(offer(&open, &host(0), &new_offer(Generation::new(1), 2, 2, 2)), pending);
    for different in [new_offer(Generation::new(1), 1, 2, 1), new_offer(Generation::new(1), 1, 1, 2)] {
        assert_eq!(offer(&open, &host(0), &different), Err(ApiError::OfferDiffers { offer: id(1) }));
    }
    let removed = check_remove(&open, &host(0), Generation::new(1), true);
    assert!(matches!(removed, Err(ApiError::OfferPending { .. })));
}

#[test]
fn what_a_removed_host_had_is_anybodys_to_remove() {
    let open = offered(&record());
    for record in [record(), open] {
        assert_eq!(check_remove(&record, &host(2), Generation::new(1), false), Ok(()));
        let stale = check_remove(&record, &host(2), Generation::new(0), false);
        assert!(matches!(stale, Err(ApiError::WrongGeneration { .. })), "{stale:?}");
    }
}

#[test]
fn a_success_that_no_longer_stands_is_not_repeated() {
    // b claimed, and the capsule was taken over by c since: b must thaw nothing.
    let claimed = claim(&offered(&record()), &host(1), id(1), &key(1)).unwrap();
    let taken = CapsuleRecord { host: host(2), generation: claimed.generation.next(), ..claimed.clone() };
    let elsewhere = ApiError::NotPlacedHere { host: host(2), generation: taken.generation };
    assert_eq!(claim(&taken, &host(1), id(1), &key(1)), Err(elsewhere));
    // Taken over by b itself, from another copy: the old claim is not the reason.
    let taken = CapsuleRecord { generation: claimed.generation.next(), ..claimed };
    assert!(claim(&taken, &host(1), id(1), &key(1)).is_err());
}

#[test]
fn a_state_reported_during_an_offer_comes_back_with_a_revoke() {
    let open = offered(&record());
    let stopped = set_state(&open, &host(0), Generation::new(1), CapsuleState::Stopped).unwrap();
    assert_eq!(stopped.state, CapsuleState::Moving);
    assert_eq!(revoke(&stopped, &host(0), id(1)).unwrap().state, CapsuleState::Stopped);
    assert!(set_state(&record(), &host(0), Generation::new(1), CapsuleState::Lost).is_err());
    let old = set_state(&record(), &host(0), Generation::new(0), CapsuleState::Stopped);
    assert_eq!(
        old,
        Err(ApiError::WrongGeneration { given: Generation::new(0), current: Generation::new(1) })
    );
}

#[derive(Debug, Clone)]
enum Step {
    Offer { caller: u8, offer: u8, target: u8, key: u8, generations_back: u64 },
    Claim { caller: u8, offer: u8, key: u8 },
    Revoke { caller: u8, offer: u8 },
    State { caller: u8 },
    TakeOver { caller: u8, takeover: u8, from: TakeoverFrom },
}

fn step() -> impl Strategy<Value = Step> {
    // Few hosts, offers and keys, so that steps meet; an offer's key mostly has its number.
    let (host, offer) = (0u8..3, 0u8..6);
    let generations_back = prop_oneof![9 => Just(0u64), 1 => Just(1u64)];
    let from = prop_oneof![
        Just(TakeoverFrom::Kept),
        (0u8..6).prop_map(|offer| TakeoverFrom::Copy(id(offer))),
        (1u64..4).prop_map(|file| TakeoverFrom::File(Generation::new(file))),
    ];
    prop_oneof![
        (host.clone(), offer.clone(), 0u8..3, generations_back).prop_map(
            |(caller, offer, target, generations_back)| {
                Step::Offer { caller, offer, target, key: offer, generations_back }
            }
        ),
        (host.clone(), offer.clone(), 0u8..8).prop_map(|(caller, offer, key)| Step::Claim {
            caller,
            offer,
            key: if key < 6 { offer } else { key }
        }),
        (host.clone(), offer).prop_map(|(caller, offer)| Step::Revoke { caller, offer }),
        host.clone().prop_map(|caller| Step::State { caller }),
        (host, 6u8..8, from).prop_map(|(caller, takeover, from)| Step::TakeOver { caller, takeover, from }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Whatever the hosts do, each offer (an id at a generation) ends in one way at most, whoever was told that it has the capsule has it, and
    /// the generation only rises, by one, when an offer ends.
    #[test]
    fn one_outcome_per_offer(steps in prop::collection::vec(step(), 1..80)) {
        let mut record = record();
        let mut outcomes: HashMap<(OfferId, Generation), Outcome> = HashMap::new();
        for step in steps {
            let before = record.clone();
            match step {
                Step::Offer { caller, offer: number, target, key: with, generations_back } => {
                    let generation = Generation::new(record.generation.number().saturating_sub(generations_back));
                    let new = new_offer(generation, number, target, with);
                    if let Ok(after) = offer(&record, &host(caller), &new) {
                        prop_assert_eq!(&before.host, &host(caller));
                        prop_assert_eq!((&after.host, after.generation), (&before.host, before.generation));
                        record = after;
                    }
                }
                Step::Claim { caller, offer, key: with } => {
                    if let Ok(after) = claim(&record, &host(caller), id(offer), &key(with)) {
                        prop_assert_eq!(&after.host, &host(caller));
                        check(&mut outcomes, id(offer), Outcome::Claimed, &before, &after)?;
                        record = after;
                    }
                }
                Step::Revoke { caller, offer } => {
                    if let Ok(after) = revoke(&record, &host(caller), id(offer)) {
                        prop_assert_eq!((&after.host, &before.host), (&host(caller), &host(caller)));
                        check(&mut outcomes, id(offer), Outcome::Revoked, &before, &after)?;
                        record = after;
                    }
                }
                Step::TakeOver { caller, takeover: number, from } => {
                    if let Ok(after) = take_over(&record, &host(caller), &takeover(&record, number, from), false) {
                        prop_assert_eq!(&after.host, &host(caller));
                        check(&mut outcomes, id(number), Outcome::TakenOver, &before, &after)?;
                        record = after;
                    }
                }
                Step::State { caller } => {
                    let state = CapsuleState::Running;
                    if let Ok(after) = set_state(&record, &host(caller), record.generation, state) {
                        prop_assert_eq!((&after.host, after.generation), (&before.host, before.generation));
                        record = after;
                    }
                }
            }
            prop_assert!(record.host == before.host || record.generation == before.generation.next());
        }
    }
}

fn check(
    outcomes: &mut HashMap<(OfferId, Generation), Outcome>,
    offer: OfferId,
    outcome: Outcome,
    before: &CapsuleRecord,
    after: &CapsuleRecord,
) -> Result<(), TestCaseError> {
    if after == before {
        // A repetition: it says what was said the first time, and it still holds.
        prop_assert_eq!(outcomes.get(&(offer, after.generation)), Some(&outcome));
        return Ok(());
    }
    prop_assert_eq!(after.generation, before.generation.next());
    let earlier = outcomes.insert((offer, after.generation), outcome);
    prop_assert!(earlier.is_none(), "{} ended twice: {:?}, then {:?}", offer, earlier, outcome);
    Ok(())
}
