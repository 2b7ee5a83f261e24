use std::time::{Duration, UNIX_EPOCH};

use overlay_proto::{CapsuleId, Locators};
use proptest::prelude::*;

use super::*;
use crate::placement::{self, NewOffer};

fn host(number: u8) -> HostName {
    ["a", "b", "c"][usize::from(number % 3)].parse().unwrap()
}

fn key(number: u8) -> ClaimKey {
    ClaimKey::from_bytes([number; 32])
}

fn id(number: u8) -> OfferId {
    OfferId::from_bytes([number; 16])
}

fn at(generation: u64) -> Generation {
    Generation::new(generation)
}

fn record() -> CapsuleRecord {
    CapsuleRecord {
        id: CapsuleId::from_bytes([1; 16]),
        name: "db".parse().unwrap(),
        owner: "me".parse().unwrap(),
        locators: Locators { v4: [10, 88, 0, 1].into(), v6: "fd88::1".parse().unwrap() },
        host: host(0),
        generation: at(1),
        state: CapsuleState::Running,
        offer: None,
        last_outcome: None,
        suspension: None,
        created_at: UNIX_EPOCH,
        registration: [0; 16],
    }
}

fn new(generation: u64, number: u8) -> NewSuspension {
    NewSuspension { generation: at(generation), id: id(number), key_hash: key(number).hash() }
}

fn suspended() -> CapsuleRecord {
    suspend(&record(), &host(0), &new(1, 1), UNIX_EPOCH).unwrap()
}

#[test]
fn a_suspend_may_be_repeated_and_a_resume_has_one_winner() {
    let lies = suspended();
    assert_eq!((lies.state, lies.generation), (CapsuleState::Suspended, at(2)));
    let later = UNIX_EPOCH + Duration::from_secs(9);
    assert_eq!(suspend(&lies, &host(0), &new(1, 1), later), Ok(lies.clone()));
    let resumed = resume(&lies, &host(1), at(2), id(1), &key(1)).unwrap();
    assert_eq!((&resumed.host, resumed.generation, resumed.state), (&host(1), at(3), CapsuleState::Moving));
    assert_eq!(resume(&resumed, &host(1), at(2), id(1), &key(1)), Ok(resumed.clone()));
    let elsewhere = ApiError::NotPlacedHere { host: host(1), generation: at(3) };
    assert_eq!(resume(&resumed, &host(2), at(2), id(1), &key(1)), Err(elsewhere.clone()));
    assert_eq!(suspend(&resumed, &host(0), &new(1, 1), later), Err(elsewhere));
}

#[test]
fn a_resume_needs_the_key_the_file_and_the_generation() {
    let lies = suspended();
    assert_eq!(resume(&lies, &host(1), at(2), id(1), &key(2)), Err(ApiError::WrongKey));
    let other = ApiError::Suspended { host: host(0), generation: at(2) };
    assert_eq!(resume(&lies, &host(1), at(2), id(2), &key(1)), Err(other));
    let old = ApiError::WrongGeneration { given: at(1), current: at(2) };
    assert_eq!(resume(&lies, &host(1), at(1), id(1), &key(1)), Err(old));
    let unknown = ApiError::OfferUnknown { offer: id(1) };
    assert_eq!(resume(&record(), &host(0), at(1), id(1), &key(1)), Err(unknown));
}

#[test]
fn a_withdrawn_suspension_is_never_made() {
    let kept = withdraw(&record(), &host(0), at(1), id(1)).unwrap();
    assert_eq!((kept.state, kept.generation, &kept.host), (CapsuleState::Running, at(2), &host(0)));
    assert_eq!(withdraw(&kept, &host(0), at(1), id(1)), Ok(kept.clone()));
    let outcome = kept.last_outcome.clone().unwrap();
    assert_eq!(
        suspend(&kept, &host(0), &new(1, 1), UNIX_EPOCH),
        Err(ApiError::OfferEnded { outcome: outcome.clone() })
    );
    assert_eq!(resume(&kept, &host(1), at(2), id(1), &key(1)), Err(ApiError::OfferEnded { outcome }));
    // And one that was made is not withdrawn.
    let made = ApiError::Suspended { host: host(0), generation: at(2) };
    assert_eq!(withdraw(&suspended(), &host(0), at(1), id(1)), Err(made));
    let resumed = resume(&suspended(), &host(1), at(2), id(1), &key(1)).unwrap();
    assert!(withdraw(&resumed, &host(0), at(1), id(1)).is_err());
}

#[test]
fn who_can_not_let_it_run_makes_the_file_good_again() {
    let resumed = resume(&suspended(), &host(1), at(2), id(1), &key(1)).unwrap();
    let back = suspend(&resumed, &host(1), &new(3, 1), UNIX_EPOCH).unwrap();
    assert_eq!((back.state, back.generation), (CapsuleState::Suspended, at(4)));
    // The resume from before arrives once more.
    let late = ApiError::WrongGeneration { given: at(2), current: at(4) };
    assert_eq!(resume(&back, &host(1), at(2), id(1), &key(1)), Err(late));
    assert_eq!(resume(&back, &host(2), at(4), id(1), &key(1)).unwrap().host, host(2));
}

#[test]
fn a_suspended_capsule_is_nobodys() {
    let lies = suspended();
    let refused = Err(ApiError::Suspended { host: host(0), generation: at(2) });
    let offer = NewOffer { generation: at(2), id: id(7), target: host(1), claim_key_hash: key(7).hash() };
    assert_eq!(placement::offer(&lies, &host(0), &offer), refused);
    assert_eq!(placement::set_state(&lies, &host(0), at(2), CapsuleState::Running), refused);
    assert_eq!(placement::check_remove(&lies, &host(2), at(2), true), Ok(()));
    assert!(placement::check_remove(&lies, &host(2), at(1), true).is_err());
    // No host says of its own that a capsule is suspended.
    assert!(placement::set_state(&record(), &host(0), at(1), CapsuleState::Suspended).is_err());
}

#[test]
fn what_is_being_offered_is_not_suspended() {
    let offer = NewOffer { generation: at(1), id: id(7), target: host(1), claim_key_hash: key(7).hash() };
    let open = placement::offer(&record(), &host(0), &offer).unwrap();
    let pending = Err(ApiError::OfferPending { offer: id(7), target: host(1) });
    assert_eq!(suspend(&open, &host(0), &new(1, 1), UNIX_EPOCH), pending);
    assert_eq!(withdraw(&open, &host(0), at(1), id(1)), pending);
}

/// A request on the wire; it may arrive again at any time.
#[derive(Debug, Clone)]
enum Sent {
    Suspend(u8, u64, u8),
    Withdraw(u8, u64, u8),
    Resume(u8, u64, u8),
}

fn deliver(record: &CapsuleRecord, sent: &Sent) -> Result<CapsuleRecord, ApiError> {
    match *sent {
        Sent::Suspend(by, generation, number) => {
            suspend(record, &host(by), &new(generation, number), UNIX_EPOCH)
        }
        Sent::Withdraw(by, generation, number) => withdraw(record, &host(by), at(generation), id(number)),
        Sent::Resume(by, generation, number) => {
            resume(record, &host(by), at(generation), id(number), &key(number))
        }
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    (0..3_u8, 0..3_u8, 1..8_u64, 1..3_u8).prop_map(|(verb, by, generation, number)| match verb {
        0 => Sent::Suspend(by, generation, number),
        1 => Sent::Withdraw(by, generation, number),
        _ => Sent::Resume(by, generation, number),
    })
}

proptest! {
    /// Whoever was told that it has the capsule, has it until it was told otherwise by its own request.
    #[test]
    fn at_most_one_host_may_let_it_run(requests in proptest::collection::vec(sent(), 1..60)) {
        let mut now = record();
        // The host that runs it: it alone may suspend it, and it stands still from the moment it asks.
        let mut runs: Option<(HostName, Generation)> = Some((host(0), at(1)));
        for sent in requests {
            // A host asks for a suspend or a withdrawal only of what it holds; others are repetitions of old ones.
            let Ok(after) = deliver(&now, &sent) else { continue };
            prop_assert!(after.generation >= now.generation);
            let changed = after != now;
            match sent {
                Sent::Suspend(by, ..) => {
                    if changed {
                        prop_assert_eq!(&now.host, &host(by));
                        runs = None;
                    }
                    prop_assert!(runs.is_none() && after.suspension.is_some());
                }
                Sent::Withdraw(by, ..) | Sent::Resume(by, ..) => {
                    if changed {
                        prop_assert!(runs.is_none() || runs.as_ref() == Some(&(host(by), now.generation)));
                        runs = Some((host(by), after.generation));
                    }
                    prop_assert_eq!(runs.as_ref(), Some(&(host(by), after.generation)));
                }
            }
            if changed {
                prop_assert_eq!(after.generation, now.generation.next());
            }
            now = after;
        }
    }
}
