use std::time::{SystemTime, UNIX_EPOCH};

use directory_api::{CapsuleRecord, CapsuleState, SuspensionRecord};
use overlay_proto::{CapsuleId, ClaimKeyHash, Generation, Locators, OfferId};

use super::*;
use crate::registry::HostEntry;

fn registry() -> Registry {
    let mut registry = Registry::at(41);
    for (name, address, alive) in
        [("a", Some("192.0.2.1:4433"), true), ("b", Some("[2001:db8::b]:5533"), true), ("new", None, false)]
    {
        registry.put_host(HostEntry {
            name: name.parse().unwrap(),
            operator: true,
            address: address.map(|address| address.parse().unwrap()),
            alive,
            last_seen: SystemTime::UNIX_EPOCH,
        });
    }
    registry.put_capsule(CapsuleRecord {
        id: CapsuleId::from_bytes([1; 16]),
        name: "db".parse().unwrap(),
        owner: "me".parse().unwrap(),
        locators: Locators { v4: "10.88.0.1".parse().unwrap(), v6: "fd88::1".parse().unwrap() },
        host: "a".parse().unwrap(),
        generation: Generation::new(3),
        state: CapsuleState::Running,
        offer: None,
        last_outcome: None,
        created_at: UNIX_EPOCH,
        suspension: None,
        registration: [0; 16],
    });
    registry
}

fn zones() -> Zones {
    let pools = Pools { v4: "10.88.0.0/16".parse().unwrap(), v6: "fd88::/64".parse().unwrap() };
    Zones::new("capsule.internal".parse().unwrap(), &pools, vec!["192.0.2.53".parse().unwrap()])
}

fn ask(registry: &Registry, name: &str, kind: Kind) -> Answer {
    let labels: Vec<_> = name.split('.').filter(|label| !label.is_empty()).map(str::as_bytes).collect();
    View { zones: &zones(), registry, keys: &[ZoneKey([7; 32])] }.answer(&labels, kind)
}

fn data(entries: &[Entry]) -> Vec<(&str, Data)> {
    entries.iter().map(|entry| (entry.name.as_str(), entry.data.clone())).collect()
}

#[test]
fn a_capsule_has_addresses_text_and_a_place() {
    let registry = registry();
    let name = "db.capsule.internal";
    assert_eq!(data(&ask(&registry, name, Kind::A).answers), [(name, Data::A("10.88.0.1".parse().unwrap()))]);
    assert_eq!(
        data(&ask(&registry, name, Kind::Aaaa).answers),
        [(name, Data::Aaaa("fd88::1".parse().unwrap()))]
    );
    let text = Data::Txt(vec!["gen=3".into(), "state=running".into(), "host=a".into()]);
    assert_eq!(data(&ask(&registry, name, Kind::Txt).answers), [(name, text)]);
    assert_eq!(ask(&registry, name, Kind::Any).answers.len(), 3);
    let place = ask(&registry, "_capsule._udp.db.capsule.internal", Kind::Srv);
    let srv = Data::Srv { priority: 0, weight: 0, port: 4433, target: "a.hosts.capsule.internal".into() };
    assert_eq!(data(&place.answers), [("_capsule._udp.db.capsule.internal", srv)]);
    let host = Data::A("192.0.2.1".parse().unwrap());
    assert_eq!(data(&place.additional), [("a.hosts.capsule.internal", host)]);
}

#[test]
fn a_suspended_capsule_has_addresses_and_no_place() {
    let mut registry = registry();
    let name = "db.capsule.internal";
    let mut record = registry.capsule_named(&"db".parse().unwrap()).unwrap().clone();
    record.state = CapsuleState::Suspended;
    record.suspension = Some(SuspensionRecord {
        id: OfferId::from_bytes([1; 16]),
        key_hash: ClaimKeyHash::from_bytes([1; 32]),
        host: record.host.clone(),
        at: UNIX_EPOCH,
    });
    registry.put_capsule(record);
    assert_eq!(data(&ask(&registry, name, Kind::A).answers), [(name, Data::A("10.88.0.1".parse().unwrap()))]);
    let text = Data::Txt(vec!["gen=3".into(), "state=suspended".into()]);
    assert_eq!(data(&ask(&registry, name, Kind::Txt).answers), [(name, text)]);
    for gone in ["_capsule._udp.db.capsule.internal", "_udp.db.capsule.internal"] {
        assert_eq!(ask(&registry, gone, Kind::Srv).outcome, Outcome::NoSuchName);
    }
}

#[test]
fn an_address_of_the_directory_is_shown_once() {
    let pools = Pools { v4: "10.88.0.0/16".parse().unwrap(), v6: "fd88::/64".parse().unwrap() };
    let servers = ["192.0.2.53", "::ffff:192.0.2.53", "192.0.2.53", "fd00::53"];
    let servers = servers.map(|server| server.parse().unwrap()).to_vec();
    let zones = Zones::new("capsule.internal".parse().unwrap(), &pools, servers);
    let registry = registry();
    let labels = ["directory", "capsule", "internal"].map(str::as_bytes);
    let answer = View { zones: &zones, registry: &registry, keys: &[] }.answer(&labels, Kind::Any);
    assert_eq!(answer.answers.len(), 2, "{answer:?}");
}

#[test]
fn hosts_and_the_zone_itself_have_names() {
    let registry = registry();
    let host = ask(&registry, "b.hosts.capsule.internal", Kind::Aaaa);
    assert_eq!(
        data(&host.answers),
        [("b.hosts.capsule.internal", Data::Aaaa("2001:db8::b".parse().unwrap()))]
    );
    let servers = ask(&registry, "capsule.internal", Kind::Ns);
    assert_eq!(data(&servers.answers), [("capsule.internal", Data::Ns("directory.capsule.internal".into()))]);
    let server = ("directory.capsule.internal", Data::A("192.0.2.53".parse().unwrap()));
    assert_eq!(data(&servers.additional), std::slice::from_ref(&server));
    assert_eq!(data(&ask(&registry, "directory.capsule.internal", Kind::A).answers), [server]);
    let soa = ask(&registry, "capsule.internal", Kind::Soa);
    assert!(matches!(&soa.answers[..], [Entry { data: Data::Soa { serial: 41, .. }, ttl: TTL_ZONE_S, .. }]));
}

#[test]
fn negative_answers_are_of_the_right_kind() {
    let registry = registry();
    let cases = [
        ("db.capsule.internal", Kind::Srv, Outcome::Found),
        ("db.capsule.internal", Kind::Other, Outcome::Found),
        ("capsule.internal", Kind::A, Outcome::Found),
        ("hosts.capsule.internal", Kind::A, Outcome::Found),
        ("_udp.db.capsule.internal", Kind::Any, Outcome::Found),
        ("0.88.10.in-addr.arpa", Kind::Ptr, Outcome::Found),
        ("1.0.88.10.in-addr.arpa", Kind::A, Outcome::Found),
        ("2.0.88.10.in-addr.arpa", Kind::Ptr, Outcome::NoSuchName),
        ("x.1.0.88.10.in-addr.arpa", Kind::Ptr, Outcome::NoSuchName),
        ("01.0.88.10.in-addr.arpa", Kind::Ptr, Outcome::NoSuchName),
        ("256.0.88.10.in-addr.arpa", Kind::Ptr, Outcome::NoSuchName),
        ("*.capsule.internal", Kind::A, Outcome::NoSuchName),
        ("_capsule._udp.db.capsule.internal", Kind::A, Outcome::Found),
        ("a.hosts.capsule.internal", Kind::Aaaa, Outcome::Found),
        ("none.capsule.internal", Kind::A, Outcome::NoSuchName),
        ("_udp.none.capsule.internal", Kind::A, Outcome::NoSuchName),
        ("_capsule._udp.none.capsule.internal", Kind::Srv, Outcome::NoSuchName),
        ("_tcp.db.capsule.internal", Kind::Srv, Outcome::NoSuchName),
        ("x.db.capsule.internal", Kind::A, Outcome::NoSuchName),
        ("new.hosts.capsule.internal", Kind::A, Outcome::NoSuchName),
        ("x.a.hosts.capsule.internal", Kind::A, Outcome::NoSuchName),
        ("x.directory.capsule.internal", Kind::A, Outcome::NoSuchName),
    ];
    for (name, kind, outcome) in cases {
        let answer = ask(&registry, name, kind);
        assert_eq!((answer.outcome, answer.answers.len()), (outcome, 0), "{name} {kind:?}");
        let soa =
            matches!(&answer.authority[..], [Entry { data: Data::Soa { .. }, ttl: TTL_NEGATIVE_S, .. }]);
        assert!(soa, "{name} {kind:?}");
    }
}

#[test]
fn other_zones_are_refused() {
    let registry = registry();
    for name in
        ["", "internal", "example.com", "xcapsule.internal", "capsule.internal.com", "89.10.in-addr.arpa"]
    {
        let answer = ask(&registry, name, Kind::A);
        assert_eq!((answer.outcome, answer.authority.len()), (Outcome::Refused, 0), "{name}");
    }
}

#[test]
fn the_place_follows_the_capsule() {
    let mut registry = registry();
    let moved = registry.capsule_named(&"db".parse().unwrap()).unwrap().clone();
    registry.put_capsule(CapsuleRecord { host: "b".parse().unwrap(), ..moved });
    let place = ask(&registry, "_capsule._udp.db.capsule.internal", Kind::Srv);
    assert!(matches!(&place.answers[..], [Entry { data: Data::Srv { port: 5533, .. }, .. }]));
    registry.remove_host(&"b".parse().unwrap());
    let nowhere = ask(&registry, "_capsule._udp.db.capsule.internal", Kind::Srv);
    assert_eq!((nowhere.outcome, nowhere.answers.len()), (Outcome::NoSuchName, 0));
}

#[test]
fn locators_have_names() {
    let registry = registry();
    let long = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.8.d.f.ip6.arpa";
    for name in ["1.0.88.10.in-addr.arpa", long] {
        let answer = ask(&registry, name, Kind::Ptr);
        assert_eq!(data(&answer.answers), [(name, Data::Ptr("db.capsule.internal".into()))]);
        assert_eq!(answer.depends, Depends::on("db"));
    }
    for name in ["88.10.in-addr.arpa", "0.0.0.0.0.0.0.0.0.0.0.0.8.8.d.f.ip6.arpa"] {
        let soa = ask(&registry, name, Kind::Soa);
        assert!(matches!(&soa.answers[..], [Entry { data: Data::Soa { serial: 41, .. }, .. }]), "{name}");
        let servers = ask(&registry, name, Kind::Ns);
        assert_eq!(data(&servers.additional)[0].0, "directory.capsule.internal");
        assert_eq!(ask(&registry, name, Kind::Dnskey).answers.len(), 1);
    }
}

#[test]
fn an_odd_pool_is_served_from_the_next_whole_label() {
    let pools = Pools { v4: "10.88.16.0/20".parse().unwrap(), v6: "fd88:1::/34".parse().unwrap() };
    let zones = Zones::new("z".parse().unwrap(), &pools, vec![]);
    assert_eq!(
        (zones.name(Origin::V4), zones.name(Origin::V6)),
        ("88.10.in-addr.arpa", "1.0.0.0.8.8.d.f.ip6.arpa")
    );
}

#[test]
fn labels_that_are_no_text_compare_as_they_should() {
    for (label, expected) in [(&b"abc"[..], "abc"), (b"ab\xffc", "ab\x7f"), ("ä".as_bytes(), "\x7f")] {
        assert_eq!(text(label), expected);
    }
}

/// All names of a zone with their records, as a transfer goes.
fn walk(view: &View<'_>, origin: Origin) -> Vec<Vec<Entry>> {
    std::iter::successors(Some(Path::new()), |path| view.after(origin, path))
        .map(|path| view.owner(origin, &path))
        .collect()
}

/// A registry of many names, some alike.
fn crowd() -> Registry {
    let mut registry = registry();
    let template = registry.capsule_named(&"db".parse().unwrap()).unwrap().clone();
    for (number, name) in
        ["a", "a-1", "a1", "dir", "direct", "host", "hosts-x", "zz", "0", "9"].iter().enumerate()
    {
        let low = 3 + u8::try_from(number).unwrap() * 25;
        registry.put_capsule(CapsuleRecord {
            id: CapsuleId::from_bytes([100 + u8::try_from(number).unwrap(); 16]),
            name: name.parse().unwrap(),
            locators: Locators {
                v4: [10, 88, low, low].into(),
                v6: format!("fd88::{low:x}:{low:x}").parse().unwrap(),
            },
            host: if number % 2 == 0 { "a" } else { "new" }.parse().unwrap(),
            ..template.clone()
        });
    }
    registry
}

#[test]
fn the_chain_goes_once_round_in_canonical_order() {
    let (zones, registry) = (zones(), crowd());
    let view = View { zones: &zones, registry: &registry, keys: &[] };
    for origin in Zones::ORIGINS {
        let names: Vec<_> = walk(&view, origin).iter().map(|entries| entries[0].name.clone()).collect();
        let key = |name: &String| name.split('.').rev().map(str::to_owned).collect::<Vec<_>>();
        let mut sorted = names.clone();
        sorted.sort_by_key(key);
        sorted.dedup();
        assert_eq!(names, sorted, "{origin:?}");
        assert!(names.len() >= 12, "{origin:?}: {names:?}");
        let next = |entries: Vec<Entry>| match &entries.last().unwrap().data {
            Data::Nsec { next, .. } => next.clone(),
            other => panic!("{other:?}"),
        };
        let nexts: Vec<_> = walk(&view, origin).into_iter().map(next).collect();
        assert_eq!(nexts, [&names[1..], &names[..1]].concat(), "{origin:?}");
    }
}

proptest::proptest! {
    /// Against the definition: the owner is the last that is not behind the name, and names exist exactly when they have
    /// records or something with records below them.
    #[test]
    fn any_name_is_denied_by_its_neighbours(
        origin in 0..3usize,
        labels in proptest::collection::vec("[a-z0-9_*-]{1,3}|25[0-9]|db|hosts|direct|directory|_udp|_capsule|[0-9a-f]", 0..5),
    ) {
        let (zones, registry, origin) = (zones(), crowd(), Zones::ORIGINS[origin]);
        let view = View { zones: &zones, registry: &registry, keys: &[] };
        let tree = view.tree(origin);
        let owners: Vec<Path> =
            std::iter::successors(Some(Path::new()), |path| tree.after(path)).collect();
        let expected = owners.iter().rfind(|owner| **owner <= labels).unwrap();
        proptest::prop_assert_eq!(&tree.at_or_before(&labels), expected);
        let expected = owners.iter().find(|owner| **owner > labels);
        let after = tree.after(&labels);
        proptest::prop_assert_eq!(after.as_ref(), expected);
        let exists = owners.iter().any(|owner| owner.starts_with(&labels));
        let found = labels.is_empty() || tree.entries(&labels).is_some();
        proptest::prop_assert_eq!(found, exists);
    }
}
