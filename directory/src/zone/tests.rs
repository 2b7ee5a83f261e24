use std::time::{SystemTime, UNIX_EPOCH};

use directory_api::{CapsuleState, SuspensionRecord};
use overlay_proto::{CapsuleId, ClaimKeyHash, Generation, Locators, OfferId};

use super::*;

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

fn ask(registry: &Registry, name: &str, kind: Kind) -> Answer {
    let zone = "capsule.internal".parse().unwrap();
    let servers = ["192.0.2.53".parse().unwrap()];
    let labels: Vec<_> = name.split('.').filter(|label| !label.is_empty()).collect();
    View { zone: &zone, registry, servers: &servers }.answer(&labels, kind)
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
    let srv = Data::Srv { port: 4433, target: "a.hosts.capsule.internal".into() };
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
    assert!(ask(&registry, "_capsule._udp.db.capsule.internal", Kind::Srv).answers.is_empty());
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
    for name in ["", "internal", "example.com", "xcapsule.internal", "capsule.internal.com"] {
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
    assert_eq!((nowhere.outcome, nowhere.answers.len()), (Outcome::Found, 0));
}
