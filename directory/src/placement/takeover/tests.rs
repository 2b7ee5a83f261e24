use std::time::UNIX_EPOCH;

use overlay_proto::{CapsuleId, ClaimKey, Locators};

use super::*;
use crate::placement::{self, NewOffer, NewSuspension, suspension};

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

/// Runs on a, at generation 1.
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

/// Offer 1 with key 1, from a to b.
fn offered() -> CapsuleRecord {
    let new = NewOffer { generation: at(1), id: id(1), target: host(1), claim_key_hash: key(1).hash() };
    placement::offer(&record(), &host(0), &new).unwrap()
}

fn takeover(generation: u64, from: TakeoverFrom) -> Takeover {
    Takeover { generation: at(generation), id: id(9), from, host_is_gone: false }
}

#[test]
fn it_ends_everything_from_before() {
    let (open, kept) = (offered(), takeover(1, TakeoverFrom::Kept));
    let alive = ApiError::HostAlive { host: host(0) };
    assert_eq!(take_over(&open, &host(2), &kept, true), Err(alive));
    let said = Takeover { host_is_gone: true, ..kept.clone() };
    assert!(take_over(&open, &host(2), &said, true).is_ok());
    let taken = take_over(&open, &host(2), &kept, false).unwrap();
    assert_eq!((&taken.host, taken.generation, &taken.offer), (&host(2), at(2), &None));
    assert_eq!(taken.state, CapsuleState::Moving);
    assert_eq!(take_over(&taken, &host(2), &kept, false), Ok(taken.clone()));
    // Who comes late with the key or the offer gets nothing, nor does the same takeover by another host.
    let elsewhere = ApiError::NotPlacedHere { host: host(2), generation: taken.generation };
    assert_eq!(placement::claim(&taken, &host(1), id(1), &key(1)), Err(elsewhere.clone()));
    assert_eq!(placement::revoke(&taken, &host(0), id(1)), Err(elsewhere.clone()));
    assert_eq!(take_over(&taken, &host(1), &kept, false), Err(elsewhere));
    let old = placement::set_state(&taken, &host(0), at(1), CapsuleState::Running);
    assert!(matches!(old, Err(ApiError::NotPlacedHere { .. })));
}

#[test]
fn a_copy_must_be_the_last_one() {
    let copy = takeover(2, TakeoverFrom::Copy(id(1)));
    let denied = |record: &CapsuleRecord| {
        matches!(take_over(record, &host(0), &copy, false), Err(ApiError::Denied { .. }))
    };
    let claimed = placement::claim(&offered(), &host(1), id(1), &key(1)).unwrap();
    assert!(take_over(&claimed, &host(0), &copy, false).is_ok());
    // Its new host may say that it came to nothing, and only before it has run.
    let died = placement::set_state(&claimed, &host(1), at(2), CapsuleState::Lost).unwrap();
    assert!(take_over(&died, &host(0), &copy, false).is_ok());
    let ran = placement::set_state(&claimed, &host(1), at(2), CapsuleState::Running).unwrap();
    assert!(denied(&ran));
    assert!(placement::set_state(&ran, &host(1), at(2), CapsuleState::Lost).is_err());
    let later = CapsuleRecord { generation: at(2), ..record() };
    let elsewhere = CapsuleRecord { host: host(2), ..later.clone() };
    assert!(denied(&elsewhere), "no such offer");
    assert!(take_over(&later, &host(0), &copy, true).is_ok(), "the placed host's own");
    // What happened since the person looked is not ended by it.
    let late = Err(ApiError::WrongGeneration { given: at(2), current: at(1) });
    assert_eq!(take_over(&record(), &host(0), &copy, true), late);
}

/// Suspended on a, resumed on b at generation 3; the file has generation 2.
fn resumed() -> (CapsuleRecord, CapsuleRecord) {
    let new = NewSuspension { generation: at(1), id: id(1), key_hash: key(1).hash() };
    let suspended = suspension::suspend(&record(), &host(0), &new, UNIX_EPOCH).unwrap();
    let resumed = suspension::resume(&suspended, &host(1), at(2), id(1), &key(1)).unwrap();
    (suspended, placement::set_state(&resumed, &host(1), at(3), CapsuleState::Running).unwrap())
}

#[test]
fn going_back_to_a_file_takes_a_person_s_word() {
    let (suspended, runs) = resumed();
    let file = takeover(3, TakeoverFrom::File(at(2)));
    let said = Takeover { host_is_gone: true, ..file.clone() };
    assert_eq!(take_over(&runs, &host(2), &file, true), Err(ApiError::HostAlive { host: host(1) }));
    assert!(matches!(take_over(&runs, &host(2), &file, false), Err(ApiError::Denied { .. })));
    let taken = take_over(&runs, &host(2), &said, true).unwrap();
    assert_eq!((&taken.host, taken.generation, taken.state), (&host(2), at(4), CapsuleState::Moving));
    // Again the same; a second one that saw the same as the first comes too late.
    assert_eq!(take_over(&taken, &host(2), &said, true), Ok(taken.clone()));
    let late = Takeover { id: id(8), ..said.clone() };
    let outrun = ApiError::WrongGeneration { given: at(3), current: at(4) };
    assert_eq!(take_over(&taken, &host(0), &late, true), Err(outrun));
    // The lost host changes nothing any more: not by news, an offer, or the suspend that it was about to make.
    let elsewhere = ApiError::NotPlacedHere { host: host(2), generation: at(4) };
    assert_eq!(placement::set_state(&taken, &host(1), at(3), CapsuleState::Running), Err(elsewhere.clone()));
    let late = NewSuspension { generation: at(3), id: id(2), key_hash: key(2).hash() };
    assert_eq!(suspension::suspend(&taken, &host(1), &late, UNIX_EPOCH), Err(elsewhere.clone()));
    // Nobody resumes from the file, before or after.
    assert!(suspension::resume(&runs, &host(2), at(2), id(1), &key(1)).is_err());
    assert!(suspension::resume(&taken, &host(0), at(2), id(1), &key(1)).is_err());
    // What lies in a file has no host that could be gone.
    let lies = Takeover { generation: at(2), ..said };
    assert!(matches!(take_over(&suspended, &host(2), &lies, false), Err(ApiError::Suspended { .. })));
}

#[test]
fn a_file_is_of_the_capsule_s_past() {
    let (_, runs) = resumed();
    let of = |file| Takeover { host_is_gone: true, ..takeover(3, TakeoverFrom::File(at(file))) };
    assert!(take_over(&runs, &host(2), &of(3), false).is_ok(), "a suspend that was withdrawn left it");
    let ahead = ApiError::WrongGeneration { given: at(4), current: at(3) };
    assert_eq!(take_over(&runs, &host(2), &of(4), false), Err(ahead));
}
