use std::sync::Mutex;
use std::time::SystemTime;

use overlay_proto::{Generation, Locators};

use super::*;
use crate::testing::{Ca, host, zone};

fn id(number: u8) -> CapsuleId {
    CapsuleId::from_bytes([number; 16])
}

/// A record of capsule `number`, placed at `at` at this generation.
fn record(number: u8, at: &str, generation: u64) -> CapsuleRecord {
    CapsuleRecord {
        id: id(number),
        name: format!("capsule-{number}").parse().unwrap(),
        owner: "root".parse().unwrap(),
        locators: Locators {
            v4: [10, 88, 0, number].into(),
            v6: [0xfd88, 0, 0, 0, 0, 0, 0, u16::from(number)].into(),
        },
        host: host(at),
        generation: Generation::new(generation),
        state: CapsuleState::Running,
        offer: None,
        last_outcome: None,
        created_at: SystemTime::UNIX_EPOCH,
        suspension: None,
        registration: [number; 16],
    }
}

fn host_record(name: &str) -> HostRecord {
    HostRecord {
        name: host(name),
        address: "192.0.2.1:4433".parse().unwrap(),
        last_seen: SystemTime::UNIX_EPOCH,
        alive: true,
        operator: true,
    }
}

fn changed(record: CapsuleRecord) -> Change {
    Change::Capsule { revision: 0, record: Box::new(record) }
}

fn snapshot(capsules: Vec<CapsuleRecord>, hosts: &[&str]) -> Change {
    let hosts = hosts.iter().map(|name| host_record(name)).collect();
    Change::Snapshot { revision: 0, capsules, hosts, rules: vec![] }
}

/// Places whose directory never answers, and every capsule of which was told that it changed.
fn places() -> (Places, Arc<Mutex<Vec<CapsuleId>>>) {
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let directory = Client::connect(vec![nowhere], Ca::new().identity("a")).unwrap();
    let finder = Finder::new(zone().to_string(), &[nowhere]).unwrap();
    let places = Places::new(directory, finder);
    let told: Arc<Mutex<Vec<CapsuleId>>> = Arc::default();
    let noted = told.clone();
    places.on_change(move |id| noted.lock().unwrap().push(id));
    (places, told)
}

fn taken(told: &Mutex<Vec<CapsuleId>>) -> Vec<CapsuleId> {
    std::mem::take(&mut *told.lock().unwrap())
}

fn place(places: &Places, number: u8) -> Option<(String, u64)> {
    places.capsule(&id(number)).map(|record| (record.host.to_string(), record.generation.number()))
}

#[tokio::test]
async fn an_older_generation_never_replaces_a_newer_one() {
    let (places, told) = places();
    places.apply(changed(record(1, "b", 4)));
    assert_eq!(taken(&told), [id(1)]);
    // A late change of the watch, a late answer, a late snapshot.
    places.apply(changed(record(1, "a", 3)));
    places.take(record(1, "a", 2));
    places.apply(snapshot(vec![record(1, "a", 3)], &[]));
    assert_eq!(place(&places, 1), Some(("b".into(), 4)));
    assert_eq!(taken(&told), []);
    places.take(record(1, "c", 5));
    places.apply(changed(record(1, "b", 4)));
    assert_eq!(place(&places, 1), Some(("c".into(), 5)));
    assert_eq!(taken(&told), [id(1)]);
}

#[tokio::test]
async fn a_change_is_told_once_however_it_is_learnt() {
    let (places, told) = places();
    let offer = directory_api::OfferRecord {
        id: overlay_proto::OfferId::from_bytes([7; 16]),
        generation: Generation::new(1),
        target: host("b"),
        claim_key_hash: overlay_proto::ClaimKey::from_bytes([7; 32]).hash(),
        state_before: CapsuleState::Running,
    };
    let moving = CapsuleRecord { state: CapsuleState::Moving, offer: Some(offer), ..record(1, "a", 1) };
    places.apply(changed(record(1, "a", 1)));
    places.take(record(1, "a", 1));
    assert_eq!(taken(&told), [id(1)]);
    // The same generation in another state is news.
    places.take(moving.clone());
    places.apply(changed(moving));
    assert_eq!(taken(&told), [id(1)]);
    assert_eq!(places.capsule(&id(1)).unwrap().state, CapsuleState::Moving);
}

#[tokio::test]
async fn a_capsule_that_runs_after_its_move_is_not_moving_again_by_a_late_change() {
    let (places, told) = places();
    let claimed = CapsuleRecord { state: CapsuleState::Moving, ..record(1, "b", 2) };
    places.take(record(1, "b", 2));
    assert_eq!(taken(&told), [id(1)]);
    places.apply(changed(claimed));
    assert!(taken(&told).is_empty());
    assert_eq!(places.capsule(&id(1)).unwrap().state, CapsuleState::Running);
}

#[tokio::test]
async fn a_removed_capsule_is_found_no_more_in_any_way() {
    let (places, told) = places();
    let there = record(1, "a", 7);
    places.apply(snapshot(vec![there.clone(), record(2, "a", 1)], &["a"]));
    assert_eq!(taken(&told).len(), 2);
    assert!(!places.was_removed(&id(1)));
    places.apply(Change::CapsuleRemoved { revision: 0, id: id(1), name: there.name.clone() });
    assert_eq!(taken(&told), [id(1)]);
    assert!(places.was_removed(&id(1)) && !places.was_removed(&id(2)));
    assert_eq!((places.capsule(&id(1)), places.named(&there.name)), (None, None));
    assert!(!places.read().by_locator.contains_key(&IpAddr::from(there.locators.v4)));
    assert!(!places.read().by_locator.contains_key(&IpAddr::from(there.locators.v6)));
    assert_eq!(places.capsules().len(), 1);
}

#[tokio::test]
async fn a_snapshot_removes_what_is_not_in_it() {
    let (places, told) = places();
    places.apply(snapshot(vec![record(1, "a", 1), record(2, "b", 1)], &["a", "b"]));
    taken(&told);
    places.apply(snapshot(vec![record(2, "b", 1), record(3, "b", 1)], &["b"]));
    let mut news = taken(&told);
    news.sort();
    assert_eq!(news, [id(1), id(3)], "the second is as it was");
    assert!(places.was_removed(&id(1)));
    assert!(places.host(&host("a")).is_none() && places.host(&host("b")).is_some());
    assert_eq!(places.hosts().len(), 1);
}

#[tokio::test]
async fn a_name_used_again_belongs_to_the_new_capsule() {
    let (places, _) = places();
    let first = record(1, "a", 1);
    let second = CapsuleRecord { name: first.name.clone(), ..record(2, "b", 1) };
    // The removal of the first may be learnt after the second is there.
    places.apply(changed(first.clone()));
    places.take(second);
    places.apply(Change::CapsuleRemoved { revision: 0, id: id(1), name: first.name.clone() });
    assert_eq!(places.named(&first.name).unwrap().id, id(2));
    // And so may a locator be used again.
    let third = CapsuleRecord { locators: record(2, "b", 1).locators, ..record(3, "c", 1) };
    places.apply(changed(third.clone()));
    places.apply(Change::CapsuleRemoved { revision: 0, id: id(2), name: first.name.clone() });
    assert_eq!(places.named(&first.name), None);
    assert_eq!(places.by_locator(third.locators.v4.into()).await.unwrap().id, id(3));
}

#[tokio::test]
async fn capsules_are_found_by_both_locators() {
    let (places, _) = places();
    let there = record(1, "a", 1);
    places.take(there.clone());
    for locator in [IpAddr::from(there.locators.v4), there.locators.v6.into()] {
        assert_eq!(places.by_locator(locator).await, Some(there.clone()));
    }
}

#[tokio::test]
async fn memory_of_removed_capsules_is_bounded() {
    let (places, _) = places();
    let numbered = |number: usize| {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
        CapsuleId::from_bytes(bytes)
    };
    let name = record(1, "a", 1).name;
    for number in 0..=TOMBSTONES {
        let removed = Change::CapsuleRemoved { revision: 0, id: numbered(number), name: name.clone() };
        places.apply(removed.clone());
        places.apply(removed);
    }
    assert!(!places.was_removed(&numbered(0)), "the oldest is forgotten");
    assert!(places.was_removed(&numbered(1)) && places.was_removed(&numbered(TOMBSTONES)));
    assert_eq!(places.read().removed.len(), TOMBSTONES);
}

#[tokio::test]
async fn waiting_ends_with_the_change() {
    let (places, _) = places();
    let waiting = {
        let places = places.clone();
        tokio::spawn(async move {
            places.wait_until(&id(1), |record| record.is_some_and(|record| record.host == host("b"))).await;
        })
    };
    for at in ["a", "b"] {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waiting.is_finished());
        let generation = if at == "a" { 1 } else { 2 };
        places.apply(changed(record(1, at, generation)));
    }
    tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("it is at b").unwrap();
    // Without a change it ends in its time.
    let began = std::time::Instant::now();
    places.changed_or(Duration::from_millis(50)).await;
    assert!(began.elapsed() >= Duration::from_millis(50));
}

#[tokio::test]
async fn hosts_come_change_and_go() {
    let (places, told) = places();
    places.apply(Change::Host { revision: 0, record: host_record("a") });
    let address = "192.0.2.9:4433".parse().unwrap();
    places.apply(Change::Host { revision: 0, record: HostRecord { address, ..host_record("a") } });
    assert_eq!(places.address_of(&host("a"), None).await.unwrap(), address);
    places.apply(Change::HostRemoved { revision: 0, name: host("a") });
    assert!(places.address_of(&host("a"), None).await.is_err());
    assert_eq!(taken(&told), []);
}

#[test]
fn only_a_stopped_capsule_can_never_answer() {
    use CapsuleState::{Lost, Moving, Running, Stopped, Suspended};
    for (state, never) in
        [(Running, false), (Moving, false), (Suspended, false), (Lost, false), (Stopped, true)]
    {
        assert_eq!(can_never_answer(&CapsuleRecord { state, ..record(1, "a", 1) }), never, "{state}");
    }
}

#[tokio::test]
async fn an_answer_that_a_removal_overtook_brings_no_host_back() {
    let (places, _) = places();
    let asked = places.host_removals();
    places.take_host(host_record("b"), asked);
    assert!(places.host(&host("b")).is_some());
    // The directory answers, removes the host, and the watch is here first: with the host known here or not.
    for name in ["b", "c"] {
        let asked = places.host_removals();
        places.apply(Change::HostRemoved { revision: 1, name: host(name) });
        places.take_host(host_record(name), asked);
        assert!(places.host(&host(name)).is_none(), "{name}");
        let asked = places.host_removals();
        places.apply(snapshot(vec![], &["a"]));
        places.take_host(host_record(name), asked);
        assert!(places.host(&host(name)).is_none(), "{name}");
    }
    // Asked anew, the answer counts.
    places.take_host(host_record("b"), places.host_removals());
    assert!(places.host(&host("b")).is_some());
}
