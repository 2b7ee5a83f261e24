use std::time::SystemTime;

use admin_api::request::Run;
use directory_api::CapsuleRecord;
use overlay_proto::{CapsuleId, Locators};

use super::*;

fn me() -> HostName {
    "a".parse().unwrap()
}

fn other() -> HostName {
    "b".parse().unwrap()
}

fn id(number: u8) -> OfferId {
    OfferId::from_bytes([number; 16])
}

fn key() -> ClaimKey {
    ClaimKey::from_bytes([7; 32])
}

fn generation(number: u64) -> Generation {
    Generation::new(number)
}

/// A capsule at generation 5.
fn kept(stage: Stage, journal: Journal) -> Kept {
    let record = CapsuleRecord {
        id: CapsuleId::from_bytes([1; 16]),
        name: "db".parse().unwrap(),
        owner: "me".parse().unwrap(),
        locators: Locators { v4: [10, 88, 0, 1].into(), v6: "fd88::1".parse().unwrap() },
        host: me(),
        generation: generation(5),
        state: CapsuleState::Running,
        offer: None,
        last_outcome: None,
        suspension: None,
        created_at: SystemTime::UNIX_EPOCH,
        registration: [0; 16],
    };
    Kept { file: CapsuleFile::new(&record, Run::default()), stage, begun: None, journal, decided: None }
}

fn offered() -> Option<Entry> {
    Some(Entry::Offered { offer: id(1), generation: generation(5), target: other(), keep_anchored: false })
}

fn arriving() -> Option<Entry> {
    Some(Entry::Arriving { offer: id(1), source: other() })
}

fn facts(kept: &Kept) -> Option<(u64, CapsuleState)> {
    word_for(&me(), kept).map(|word| (word.generation.number(), word.state))
}

#[test]
fn what_runs_stands_or_died_here_is_held() {
    use CapsuleState::{Lost, Running, Stopped};
    for (stage, state) in [
        (Stage::Running, Running),
        (Stage::Starting, Running),
        (Stage::Moving, Running),
        (Stage::Found, Running),
        (Stage::Stopped(Some(0)), Stopped),
        (Stage::Died, Lost),
    ] {
        assert_eq!(facts(&kept(stage, Journal::Quiet)), Some((5, state)));
    }
    // A move or a suspend that may still be undone alone leaves it here.
    let suspending = Journal::Suspending { suspension: id(2), generation: generation(5) };
    for journal in [Journal::Offered { offer: id(1) }, Journal::Undone { offer: id(1) }, suspending] {
        let word = word_for(&me(), &kept(Stage::Moving, journal)).unwrap();
        assert_eq!((word.generation, word.offer), (generation(5), None));
    }
}

#[test]
fn what_left_or_goes_on_elsewhere_is_not() {
    let left = Stage::Left { to: other(), generation: generation(6) };
    for stage in [left, Stage::Removed, Stage::Suspended, Stage::Superseded { by: None }] {
        assert_eq!(facts(&kept(stage, Journal::Quiet)), None);
    }
    for journal in [Journal::Superseded, Journal::Removing, Journal::Arriving] {
        assert_eq!(facts(&kept(Stage::Found, journal)), None);
    }
    // The directory has noted the suspend or the removal, and nothing here shows it yet.
    let gone = Kept { decided: Some(Decided::Gone), ..kept(Stage::Moving, Journal::Quiet) };
    assert_eq!(facts(&gone), None);
}

#[test]
fn a_source_that_sent_the_key_says_to_whom() {
    let journal = Journal::KeySent { offer: id(1), generation: generation(5), key: key() };
    let sent = Kept { begun: offered(), ..kept(Stage::Moving, journal) };
    let offer = word_for(&me(), &sent).unwrap().offer.unwrap();
    assert_eq!((offer.id, offer.target, offer.claim_key_hash), (id(1), other(), key().hash()));
    // It revoked, and the answer is not in its journal yet.
    let revoked = Kept { decided: Some(Decided::Given(generation(6))), ..sent };
    let word = word_for(&me(), &revoked).unwrap();
    assert_eq!((word.generation, word.offer), (generation(6), None));
}

#[test]
fn a_target_with_the_key_holds_it_only_by_an_answer() {
    let journal = Journal::Key { offer: id(1), key: key(), source: other() };
    let keyed = Kept { begun: arriving(), ..kept(Stage::Arriving, journal) };
    let word = word_for(&me(), &keyed).unwrap();
    assert_eq!((word.generation, word.offer.unwrap().target), (generation(5), me()));
    let claimed = Kept { decided: Some(Decided::Given(generation(6))), ..keyed };
    let word = word_for(&me(), &claimed).unwrap();
    assert_eq!((word.generation, word.state, word.offer), (generation(6), CapsuleState::Moving, None));
    assert_eq!(word.given_by, Some(id(1)));
}

#[test]
fn what_arrived_says_by_which_offer() {
    let thawed = |at| Journal::Thawed { generation: generation(at), reported: false };
    let runs = Kept { begun: arriving(), ..kept(Stage::Running, thawed(5)) };
    assert_eq!(word_for(&me(), &runs).unwrap().given_by, Some(id(1)));
    let resumed = Entry::Resuming { suspension: id(2), generation: generation(4) };
    let resumed = Kept { begun: Some(resumed), ..kept(Stage::Running, thawed(5)) };
    assert_eq!(word_for(&me(), &resumed).unwrap().given_by, Some(id(2)));
    // It has changed hands since.
    assert_eq!(word_for(&me(), &Kept { journal: thawed(4), ..runs }).unwrap().given_by, None);
}

#[test]
fn what_could_not_run_here_is_held_until_it_is_given_back() {
    let back = Journal::GivingBack { generation: generation(6), key: key(), source: other() };
    assert_eq!(facts(&kept(Stage::Arriving, back)), Some((6, CapsuleState::Moving)));
    let file = Journal::PuttingBack { suspension: id(2), generation: generation(6), key: key() };
    assert_eq!(facts(&kept(Stage::Arriving, file)), Some((6, CapsuleState::Moving)));
    // From a file and not answered: it lies there still.
    let resuming = Journal::Resuming { suspension: id(2), generation: generation(4), key: key() };
    let coming = kept(Stage::Arriving, resuming);
    assert_eq!(facts(&coming), None);
    let given = Kept { decided: Some(Decided::Given(generation(6))), ..coming };
    assert_eq!(facts(&given), Some((6, CapsuleState::Moving)));
}
