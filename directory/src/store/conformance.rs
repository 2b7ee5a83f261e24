//! What every store must do, run against each.

use std::time::{Duration, UNIX_EPOCH};

use directory_api::policy::{Effect, Terms};
use directory_api::{CapsuleRecord, CapsuleState, RestoreId};
use overlay_proto::{CapsuleId, Generation, Locators};

use super::*;
use crate::extras::ExtraData;

fn capsule(number: u8) -> CapsuleRecord {
    CapsuleRecord {
        id: CapsuleId::from_bytes([number; 16]),
        name: format!("c{number}").parse().unwrap(),
        owner: "me".parse().unwrap(),
        locators: Locators {
            v4: [10, 88, 0, number].into(),
            v6: [0xfd88, 0, 0, 0, 0, 0, 0, number.into()].into(),
        },
        host: "a".parse().unwrap(),
        generation: Generation::new(1),
        state: CapsuleState::Stopped,
        offer: None,
        last_outcome: None,
        created_at: UNIX_EPOCH + Duration::from_secs(7),
        suspension: None,
        registration: [number; 16],
    }
}

fn host(name: &str, address: Option<&str>) -> StoredHost {
    StoredHost {
        name: name.parse().unwrap(),
        operator: true,
        address: address.map(|address| address.parse().unwrap()),
        alive: address.is_some(),
    }
}

fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

fn owner(text: &str) -> Owner {
    text.parse().unwrap()
}

fn token(number: u8) -> SpentToken {
    SpentToken {
        nonce: [number; 16],
        expires_at: UNIX_EPOCH + Duration::from_secs(9),
        key_hash: [number; 32],
    }
}

fn rule(number: u64) -> Rule {
    Rule {
        id: RuleId::new(number),
        terms: Terms {
            effect: Effect::Allow,
            from: "*/web-*".parse().unwrap(),
            to: "me/db".parse().unwrap(),
            ports: "5432".parse().unwrap(),
        },
        set_at: UNIX_EPOCH + Duration::from_secs(8),
        set_by: "a".parse().unwrap(),
    }
}

fn extra(label: &str) -> ExtraRecord {
    ExtraRecord { below: vec![label.into()], ttl: 60, data: ExtraData::Txt(vec![b"text".to_vec()]) }
}

fn restored(number: u8) -> Restored {
    Restored {
        id: RestoreId::from_bytes([number; 16]),
        revision: 5,
        taken_at: UNIX_EPOCH + Duration::from_secs(9),
        awaited: vec![name("a"), name("b")],
    }
}

/// `reopen` gives the store as another process would find it.
fn conforms<S: Store>(mut store: S, reopen: impl Fn(S) -> S) {
    assert_eq!(store.load().unwrap(), Contents::default());
    let writes = [
        Write::Revision(7),
        Write::LocatorNext(3),
        Write::Capsule(Box::new(capsule(2))),
        Write::Capsule(Box::new(capsule(1))),
        Write::Host(host("b", Some("[fd00::1]:4433"))),
        Write::Host(host("a", None)),
        Write::HostOwners(name("b"), vec![owner("ann"), owner("bob")]),
        Write::HostOwners(name("a"), vec![owner("ann")]),
        Write::TokenSpent(token(2)),
        Write::TokenSpent(token(1)),
        Write::Rule(rule(6)),
        Write::Rule(rule(5)),
        Write::Extras(capsule(2).id, vec![extra("x")]),
        Write::Extras(capsule(1).id, vec![extra("y"), extra("z")]),
        Write::Restored(Some(Box::new(restored(1)))),
        Write::Restored(Some(Box::new(restored(2)))),
    ];
    store.commit(&writes).unwrap();
    let expected = Contents {
        revision: 7,
        locator_next: 3,
        capsules: vec![capsule(1), capsule(2)],
        hosts: vec![host("a", None), host("b", Some("[fd00::1]:4433"))],
        spent: vec![token(1), token(2)],
        host_owners: vec![(name("a"), vec![owner("ann")]), (name("b"), vec![owner("ann"), owner("bob")])],
        rules: vec![rule(5), rule(6)],
        extras: vec![(capsule(1).id, vec![extra("y"), extra("z")]), (capsule(2).id, vec![extra("x")])],
        restored: Some(restored(2)),
    };
    assert_eq!(store.load().unwrap(), expected);
    let mut store = reopen(store);
    assert_eq!(store.load().unwrap(), expected);

    let moved = CapsuleRecord { generation: Generation::new(2), ..capsule(1) };
    let writes = [
        Write::Capsule(Box::new(capsule(1))),
        Write::Capsule(Box::new(moved.clone())),
        Write::CapsuleRemoved(capsule(2).id),
        Write::CapsuleRemoved(capsule(3).id),
        Write::Host(host("a", Some("192.0.2.1:1"))),
        Write::HostRemoved(name("b")),
        Write::HostOwners(name("a"), vec![]),
        Write::TokenForgotten([2; 16]),
        Write::RuleRemoved(RuleId::new(5)),
        Write::RuleRemoved(RuleId::new(4)),
        Write::Extras(capsule(2).id, vec![]),
        Write::Extras(capsule(3).id, vec![]),
        Write::Extras(capsule(1).id, vec![extra("z")]),
        Write::Restored(None),
        Write::Revision(8),
    ];
    store.commit(&writes).unwrap();
    store.commit(&[]).unwrap();
    let expected = Contents {
        revision: 8,
        locator_next: 3,
        capsules: vec![moved],
        hosts: vec![host("a", Some("192.0.2.1:1"))],
        spent: vec![token(1)],
        host_owners: vec![],
        rules: vec![rule(6)],
        extras: vec![(capsule(1).id, vec![extra("z")])],
        restored: None,
    };
    let mut store = reopen(store);
    assert_eq!(store.load().unwrap(), expected);

    let silent = StoredHost { alive: false, ..host("a", Some("192.0.2.1:1")) };
    store.commit(&[Write::Host(silent.clone()), Write::Revision(9)]).unwrap();
    // More than any store takes in one step.
    let many: Vec<_> = (0..=255).map(|number| Write::TokenSpent(token(number))).collect();
    store.commit(&many).unwrap();
    let contents = reopen(store).load().unwrap();
    assert_eq!((contents.revision, contents.hosts, contents.spent.len()), (9, vec![silent], 256));
}

#[test]
fn memory_conforms() {
    conforms(Memory::default(), |store| store);
}

#[test]
fn etcd_conforms() {
    let process = etcd::process::EtcdProcess::start();
    let open = || {
        Etcd::open(
            &EtcdAddress::at(process.endpoint()),
            etcd_client::ConnectOptions::new(),
            "capsule.internal",
        )
        .unwrap()
    };
    conforms(open(), |store| {
        drop(store);
        let mut store = open();
        store.load().unwrap();
        store
    });
}

#[test]
fn embedded_conforms_and_is_held_by_one() {
    let directory = crate::testing::Scratch::new("store");
    let path = directory.path().join("store.redb");
    conforms(Embedded::open(&path).unwrap(), |store| {
        drop(store);
        Embedded::open(&path).unwrap()
    });
    let _held = Embedded::open(&path).unwrap();
    assert!(matches!(Embedded::open(&path), Err(StoreError::InUse(_))));
}
