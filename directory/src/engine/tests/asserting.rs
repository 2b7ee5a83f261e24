//! What a restored directory does until every host was heard.

use directory_api::stored::Restored;
use directory_api::{AssertedCapsule, Assertion, RestoreId, Restoring};

use super::*;
use crate::limits::RESTORED_REVISIONS_AHEAD;

const RESTORE: RestoreId = RestoreId::from_bytes([9; 16]);

/// A directory that goes on from what this one holds, as from a backup.
fn restored(desk: &mut Desk) {
    let mut contents = desk.store.load().unwrap();
    let awaited = contents.hosts.iter().map(|host| host.name.clone()).collect();
    let (revision, taken_at) = (contents.revision, desk.now.wall);
    contents.restored = Some(Restored { id: RESTORE, revision, taken_at, awaited });
    desk.store.commit(&contents.writes()).unwrap();
    restart(desk);
}

fn restart(desk: &mut Desk) {
    let contents = desk.store.load().unwrap();
    desk.engine = Engine::new(desk.engine.rules.clone(), contents, LEASE, desk.now);
    desk.store.commit(&desk.engine.take_batch().writes).unwrap();
}

fn asserted(caller: &str, revision: u64, capsules: Vec<AssertedCapsule>) -> Command {
    let assertion = Assertion { restore: RESTORE, revision, hosts: vec![], capsules };
    Command::Assert { caller: name(caller), assertion }
}

fn held(record: &CapsuleRecord) -> AssertedCapsule {
    AssertedCapsule {
        id: record.id,
        name: record.name.clone(),
        owner: record.owner.clone(),
        locators: record.locators,
        generation: record.generation,
        state: CapsuleState::Running,
        offer: None,
        given_by: None,
    }
}

fn missing(desk: &mut Desk, host: &str) -> Restoring {
    desk.lease(host, &[]).restoring.expect("a restore is under way")
}

#[test]
fn nothing_changes_hands_until_every_host_was_heard() {
    let mut desk = Desk::with_hosts();
    let db = desk.register("a", "db", 1).unwrap();
    restored(&mut desk);
    let waits =
        |hosts: &[&str]| ApiError::Asserting { missing: hosts.iter().map(|host| name(host)).collect() };
    assert_eq!(desk.register("a", "new", 2), Err(waits(&["a", "b"])));
    let state = CapsuleState::Running;
    let (capsule, generation) = (db.id, db.generation);
    let told = desk.run(Command::SetState { caller: name("a"), capsule, generation, state });
    assert_eq!(told, Err(waits(&["a", "b"])));
    assert_eq!(desk.run(take_over("b", &db, 1, true)), Err(waits(&["a", "b"])));
    assert_eq!(desk.run(Command::Remove { caller: name("a"), capsule, generation }), Err(waits(&["a", "b"])));
    assert!(missing(&mut desk, "a").asks);
    desk.run(asserted("a", 0, vec![held(&db)])).unwrap();
    let restoring = missing(&mut desk, "a");
    assert_eq!((restoring.asks, restoring.missing), (false, vec![name("b")]));
    assert_eq!(desk.register("a", "new", 2), Err(waits(&["b"])));
    // A host that renews its lease is not told that it is wrong before it is certain.
    let unknown = HeldCapsule { id: CapsuleId::from_bytes([7; 16]), generation, state };
    assert!(desk.lease("b", &[unknown]).stale.is_empty());
    desk.run(asserted("b", 0, vec![])).unwrap();
    assert_eq!(desk.lease("b", &[unknown]).stale.len(), 1);
    assert_eq!(desk.store.load().unwrap().restored, None);
    desk.register("a", "new", 2).unwrap();
    // A repetition that comes late does no harm.
    desk.run(asserted("b", 0, vec![])).unwrap();
}

#[test]
fn what_happened_since_the_backup_is_put_together() {
    let mut desk = Desk::with_hosts();
    let db = desk.register("a", "db", 1).unwrap();
    let gone = desk.register("a", "gone", 2).unwrap();
    let before = desk.store.load().unwrap();
    restored(&mut desk);
    let moved = AssertedCapsule { generation: Generation::new(4), ..held(&db) };
    let mut new = CapsuleRecord { id: CapsuleId::from_bytes([77; 16]), ..db.clone() };
    new.name = "new".parse().unwrap();
    (new.locators.v4, new.locators.v6) = ("10.88.0.5".parse().unwrap(), "fd88::5".parse().unwrap());
    desk.run(asserted("a", 5_000, vec![held(&new)])).unwrap();
    assert!(desk.engine.registry().is_unsure(&db) && !desk.engine.registry().is_unsure(&new));
    desk.run(asserted("b", 6_000, vec![moved])).unwrap();
    let registry = desk.engine.registry();
    let db = registry.capsule(db.id).unwrap();
    assert_eq!((&db.host, db.generation, db.state), (&name("b"), Generation::new(4), CapsuleState::Running));
    assert_eq!(
        (&registry.capsule(new.id).unwrap().host, registry.revision),
        (&name("a"), 6_000 + RESTORED_REVISIONS_AHEAD)
    );
    let lost = registry.capsule(gone.id).unwrap();
    assert_eq!((lost.state, &lost.host), (CapsuleState::Lost, &name("a")));
    assert!(
        lost.generation.number() > gone.generation.number() + 6_000 - before.revision,
        "nobody was given it"
    );
    // Of the five that may have been given out since in this small pool none is the next.
    assert_eq!(desk.register("b", "next", 3).unwrap().generation, Generation::new(1));
    let (capsule, generation) =
        (lost_id(&desk, "gone"), desk.engine.registry().capsule(gone.id).unwrap().generation);
    desk.run(Command::Remove { caller: name("a"), capsule, generation }).unwrap();
}

fn lost_id(desk: &Desk, capsule: &str) -> CapsuleId {
    desk.engine.registry().capsule_named(&capsule.parse().unwrap()).unwrap().id
}

#[test]
fn a_host_that_was_declared_gone_is_not_waited_for() {
    let mut desk = Desk::with_hosts();
    let db = desk.register("b", "db", 1).unwrap();
    restored(&mut desk);
    desk.run(asserted("a", 0, vec![])).unwrap();
    desk.run(remove("a", "b", true)).unwrap();
    assert_eq!(desk.store.load().unwrap().restored, None);
    assert_eq!(desk.shown(db.id), CapsuleState::Lost);
    assert_eq!(desk.register("b", "new", 2), Err(ApiError::NotAMember { host: name("b") }));
    let lost = desk.engine.registry().capsule(db.id).unwrap().clone();
    let taken = desk.capsule(take_over("a", &lost, 1, false)).unwrap();
    assert_eq!(taken.host, name("a"));
}

#[test]
fn a_host_that_the_backup_does_not_know_is_heard_too() {
    let mut desk = Desk::with_hosts();
    assert!(desk.run(Command::Readmit { caller: name("late") }).is_err(), "only after a restore");
    restored(&mut desk);
    let heard_of =
        Assertion { restore: RESTORE, revision: 0, hosts: vec![name("a"), name("late")], capsules: vec![] };
    desk.run(Command::Assert { caller: name("a"), assertion: heard_of }).unwrap();
    desk.run(asserted("b", 0, vec![])).unwrap();
    assert_eq!(missing(&mut desk, "a").missing, [name("late")], "a has heard of it");
    restart(&mut desk);
    assert_eq!(missing(&mut desk, "a").missing, [name("a"), name("b"), name("late")], "all are asked again");
    desk.run(Command::Readmit { caller: name("late") }).unwrap();
    desk.lease("late", &[]);
    for host in ["a", "b", "late"] {
        desk.run(asserted(host, 0, vec![])).unwrap();
    }
    assert_eq!(desk.store.load().unwrap().restored, None);
    assert!(!desk.engine.registry().host(&name("late")).unwrap().operator);
    assert!(matches!(desk.register("late", "x", 3), Err(ApiError::Denied { .. })), "its rights are lost");
    // One that nobody can find is given up.
    restored(&mut desk);
    let heard_of = Assertion { restore: RESTORE, revision: 0, hosts: vec![name("ghost")], capsules: vec![] };
    desk.run(Command::Assert { caller: name("a"), assertion: heard_of }).unwrap();
    for host in ["b", "late"] {
        desk.run(asserted(host, 0, vec![])).unwrap();
    }
    desk.run(remove("a", "ghost", false)).unwrap();
    assert_eq!(desk.store.load().unwrap().restored, None);
}

#[test]
fn what_no_directory_gave_and_other_restores_are_refused() {
    let mut desk = Desk::with_hosts();
    let db = desk.register("a", "db", 1).unwrap();
    restored(&mut desk);
    let mut foreign = held(&db);
    foreign.locators.v4 = "192.0.2.1".parse().unwrap();
    let endless = AssertedCapsule { generation: Generation::new(u64::MAX), ..held(&db) };
    for bad in
        [asserted("b", 0, vec![foreign]), asserted("b", 0, vec![endless]), asserted("b", u64::MAX, vec![])]
    {
        assert!(matches!(desk.run(bad), Err(ApiError::Malformed { .. })));
    }
    let other =
        Assertion { restore: RestoreId::from_bytes([1; 16]), revision: 0, hosts: vec![], capsules: vec![] };
    let other = desk.run(Command::Assert { caller: name("b"), assertion: other });
    assert!(matches!(other, Err(ApiError::Denied { .. })), "{other:?}");
    assert!(matches!(desk.run(asserted("stranger", 0, vec![])), Err(ApiError::NotAMember { .. })));
    assert_eq!(missing(&mut desk, "b").missing, [name("a"), name("b")]);
}

#[test]
fn a_commit_that_fails_forgets_no_restore() {
    let mut desk = Desk::with_hosts();
    restored(&mut desk);
    desk.run(asserted("a", 0, vec![])).unwrap();
    let published = desk.engine.registry().clone();
    desk.engine.handle(asserted("b", 0, vec![]), desk.now).unwrap();
    desk.engine.take_batch();
    let contents = desk.store.load().unwrap();
    desk.engine.recover(contents, &published, desk.now);
    assert!(matches!(desk.register("a", "new", 2), Err(ApiError::Asserting { .. })));
    for host in ["a", "b"] {
        desk.run(asserted(host, 0, vec![])).unwrap();
    }
    desk.register("a", "new", 2).unwrap();
}
