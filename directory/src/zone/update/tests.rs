use std::time::UNIX_EPOCH;

use directory_api::{CapsuleRecord, CapsuleState};
use overlay_proto::{Generation, Locators};

use super::*;
use crate::limits::EXTRA_RECORDS_MAX;
use crate::zone::Outcome;

fn id(number: u8) -> CapsuleId {
    CapsuleId::from_bytes([number; 16])
}

fn registry() -> Registry {
    let mut registry = Registry::at(9);
    for (number, name, owner) in [(1, "db", "ann"), (2, "web", "ann"), (3, "mail", "bob")] {
        registry.put_capsule(CapsuleRecord {
            id: id(number),
            name: name.parse().unwrap(),
            owner: owner.parse().unwrap(),
            locators: Locators {
                v4: [10, 88, 0, number].into(),
                v6: [0xfd88, 0, 0, 0, 0, 0, 0, number.into()].into(),
            },
            host: "a".parse().unwrap(),
            generation: Generation::new(3),
            state: CapsuleState::Stopped,
            offer: None,
            last_outcome: None,
            created_at: UNIX_EPOCH,
            suspension: None,
            registration: [0; 16],
        });
    }
    registry
}

fn zones() -> Arc<Zones> {
    let pools =
        crate::locators::Pools { v4: "10.88.0.0/16".parse().unwrap(), v6: "fd88::/64".parse().unwrap() };
    Arc::new(Zones::new("capsule.internal".parse().unwrap(), &pools, vec![]))
}

/// `_tcp.db` as a path: from the zone downwards.
fn path(name: &str) -> Path {
    name.split('.').filter(|label| !label.is_empty()).rev().map(str::to_owned).collect()
}

fn text(text: &str) -> ExtraData {
    ExtraData::Txt(vec![text.into()])
}

fn srv(target: &str) -> ExtraData {
    ExtraData::Srv { priority: 1, weight: 2, port: 3, target: target.into() }
}

fn add(name: &str, data: ExtraData) -> RecordChange {
    RecordChange::Add(path(name), 60, data)
}

fn update(prerequisites: Vec<Prerequisite>, changes: Vec<RecordChange>) -> ZoneUpdate {
    let owner = "ann".parse().unwrap();
    ZoneUpdate { zones: zones(), keys: vec![], origin: Origin::Capsules, owner, prerequisites, changes }
}

/// Carries out changes; gives how many capsules they concern.
fn run(registry: &mut Registry, changes: Vec<RecordChange>) -> Result<usize, UpdateRefusal> {
    let changed = update(vec![], changes).evaluate(registry)?;
    let count = changed.len();
    changed.into_iter().for_each(|(id, records)| registry.put_extras(id, records));
    Ok(count)
}

fn found(registry: &Registry, name: &str, kind: Kind) -> Vec<Data> {
    let name = format!("{name}.capsule.internal");
    let labels: Vec<_> = name.split('.').map(str::as_bytes).collect();
    let answer = View { zones: &zones(), registry, keys: &[] }.answer(&labels, kind);
    answer.answers.into_iter().map(|entry| entry.data).collect()
}

#[test]
fn records_come_beside_those_of_the_directory_and_go() {
    let mut registry = registry();
    let changes = vec![add("db", text("hello")), add("_pg._tcp.db", srv("db.capsule.internal"))];
    assert_eq!(run(&mut registry, changes.clone()), Ok(1));
    assert_eq!(run(&mut registry, changes), Ok(0), "nothing new");
    let own = ["gen=3", "state=lost", "host=a"].map(|text| text.as_bytes().to_vec());
    let own = match found(&registry, "web", Kind::Txt).remove(0) {
        Data::Txt(texts) if texts.len() == own.len() => Data::Txt(texts),
        other => panic!("{other:?}"),
    };
    assert_eq!(found(&registry, "db", Kind::Txt), [own.clone(), Data::Txt(vec![b"hello".to_vec()])]);
    assert_eq!(found(&registry, "_pg._tcp.db", Kind::Srv), [Data::from(&srv("db.capsule.internal"))]);
    assert_eq!(run(&mut registry, vec![RecordChange::RemoveSet(path("db"), Kind::Txt)]), Ok(1));
    assert_eq!(found(&registry, "db", Kind::Txt), [own], "the directory's own stays");
    assert_eq!(run(&mut registry, vec![RecordChange::RemoveName(path("_pg._tcp.db"))]), Ok(1));
    assert!(registry.extras(id(1)).is_empty());
}

#[test]
fn a_set_has_one_ttl_and_no_record_twice() {
    let mut registry = registry();
    let at = |ttl, data| RecordChange::Add(path("x.db"), ttl, data);
    run(&mut registry, vec![at(5, text("a")), at(7, text("b")), at(1_000_000, text("a"))]).unwrap();
    let ttls: Vec<_> = registry.extras(id(1)).iter().map(|record| record.ttl).collect();
    assert_eq!(ttls, [EXTRA_TTL_MAX_S; 2]);
    run(&mut registry, vec![RecordChange::Remove(path("x.db"), text("b"))]).unwrap();
    assert_eq!(registry.extras(id(1)).len(), 1);
}

#[test]
fn only_text_and_services_of_ones_own_capsules_change() {
    let mut registry = registry();
    for change in [
        add("mail", text("x")),
        add("x.mail", text("x")),
        add("none", text("x")),
        add("directory", text("x")),
        add("a.hosts", text("x")),
        add("", text("x")),
        add("_capsule._udp.db", srv("evil.example")),
        add("x._capsule._udp.db", text("x")),
        RecordChange::RemoveName(path("_capsule._udp.db")),
        RecordChange::RemoveSet(path("_capsule._udp.db"), Kind::Srv),
        add("db", text("state=running")),
        RecordChange::Remove(path("db"), text("gen=3")),
        RecordChange::RemoveName(path("db")),
        RecordChange::Forbidden(path("db")),
        add("*.db", text("x")),
        add("a.b.c.d.e.db", text("x")),
        add("_x._tcp.db", srv("not a name")),
    ] {
        let before = registry.clone();
        let result = run(&mut registry, vec![add("db", text("first")), change.clone()]);
        assert!(matches!(result, Err(UpdateRefusal::Denied { .. })), "{change:?}: {result:?}");
        assert_eq!(before.extras(id(1)), registry.extras(id(1)), "all or nothing");
    }
    let many = (0..=EXTRA_RECORDS_MAX).map(|number| add("db", text(&number.to_string()))).collect();
    assert!(matches!(run(&mut registry, many), Err(UpdateRefusal::Denied { .. })));
}

#[test]
fn prerequisites_are_honoured() {
    use Prerequisite::*;
    let mut registry = registry();
    run(&mut registry, vec![add("x.db", text("a")), add("x.db", text("b"))]).unwrap();
    let txt = |text: &str| Some(Data::Txt(vec![text.into()]));
    let v4 = |last| Some(Data::A([10, 88, 0, last].into()));
    let check = |prerequisite: Prerequisite| {
        update(vec![prerequisite], vec![add("db", text("c"))])
            .evaluate(&registry)
            .map(|changed| changed.len())
    };
    for good in [
        NameInUse(path("db")),
        NameInUse(path("x.db")),
        NameInUse(path("")),
        NameNotInUse(path("y.db")),
        // It only has something below it.
        NameNotInUse(path("_udp.db")),
        SetExists(path("db"), Kind::A),
        SetAbsent(path("db"), Kind::Srv),
        SetEquals(path("db"), Kind::A, vec![v4(1)]),
        SetEquals(path("x.db"), Kind::Txt, vec![txt("b"), txt("a")]),
    ] {
        assert_eq!(check(good.clone()), Ok(1), "{good:?}");
    }
    for (bad, expected) in [
        (NameInUse(path("y.db")), UpdateRefusal::NameAbsent("y.db.capsule.internal".into())),
        (NameNotInUse(path("x.db")), UpdateRefusal::NameInUse("x.db.capsule.internal".into())),
        (SetExists(path("db"), Kind::Srv), UpdateRefusal::SetAbsent("db.capsule.internal".into())),
        (SetAbsent(path("db"), Kind::Txt), UpdateRefusal::SetExists("db.capsule.internal".into())),
        (
            SetEquals(path("x.db"), Kind::Txt, vec![txt("a")]),
            UpdateRefusal::SetAbsent("x.db.capsule.internal".into()),
        ),
        (
            SetEquals(path("db"), Kind::A, vec![v4(1), v4(2)]),
            UpdateRefusal::SetAbsent("db.capsule.internal".into()),
        ),
        (
            SetEquals(path("x.db"), Kind::Txt, vec![txt("a"), txt("b"), None]),
            UpdateRefusal::SetAbsent("x.db.capsule.internal".into()),
        ),
    ] {
        assert_eq!(check(bad.clone()), Err(expected), "{bad:?}");
    }
}

/// Walks the chain of NSEC records: each name with records once, in order, and back to the zone's own.
#[test]
fn added_names_stand_in_the_chain() {
    let mut registry = registry();
    let names = ["_pg._tcp.db", "_tcp.db", "0.web", "-a.web", "z.y.web"];
    run(&mut registry, names.iter().map(|name| add(name, text("x"))).collect()).unwrap();
    let (zones, mut at, mut walked) = (zones(), vec![], vec![]);
    let view = View { zones: &zones, registry: &registry, keys: &[] };
    while let Some(next) = view.after(Origin::Capsules, &at) {
        assert!(next > at, "{next:?} behind {at:?}");
        assert_eq!(view.tree(Origin::Capsules).at_or_before(&next), next);
        walked.push(next.clone());
        at = next;
    }
    for name in names {
        assert!(walked.contains(&path(name)), "{name}: {walked:?}");
    }
    assert_eq!(walked.len(), names.len() + 3, "and the capsules: {walked:?}");
    let labels: Vec<_> = "y.web.capsule.internal".split('.').map(str::as_bytes).collect();
    let between = view.answer(&labels, Kind::A);
    assert_eq!(between.outcome, Outcome::Found, "a name with something below it");
    let Data::Nsec { next, .. } = &between.denial[0].data else { panic!("{between:?}") };
    assert_eq!(
        (between.denial[0].name.as_str(), next.as_str()),
        ("0.web.capsule.internal", "z.y.web.capsule.internal")
    );
}
