//! Watches, and leases as watchers see them.

use std::time::{Duration, Instant};

use directory_api::limits::ATTEMPT_TIME;
use directory_api::{CapsuleState, Change};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use super::process::{Directory, Host};

async fn next(watch: &mut Receiver<Change>) -> Change {
    timeout(Duration::from_secs(30), watch.recv()).await.expect("no change came").expect("the watch ended")
}

#[tokio::test]
async fn changes_come_in_order_after_a_snapshot() {
    let directory = Directory::start();
    let (a, b) = (directory.host("a", 1).await, directory.host("b", 2).await);
    let first = a.register("first").await;
    let mut watch = b.client.watch(0);
    let Change::Snapshot { revision, capsules, hosts, .. } = next(&mut watch).await else {
        panic!("no snapshot")
    };
    assert_eq!((capsules, hosts.len()), (vec![first.clone()], 2));

    let second = a.register("second").await;
    a.offer(&second, 1, &b).await;
    let claimed = b.claim(&second, 1).await;
    a.client.remove(first.id, first.generation).await.unwrap();
    let mut changes = vec![];
    for _ in 0..4 {
        changes.push(next(&mut watch).await);
    }
    let revisions: Vec<_> = changes.iter().map(Change::revision).collect();
    assert_eq!(revisions, (revision + 1..=revision + 4).collect::<Vec<_>>());
    assert!(matches!(&changes[0], Change::Capsule { record, .. } if **record == second));
    assert!(matches!(&changes[2], Change::Capsule { record, .. } if **record == claimed));
    assert!(
        matches!(&changes[3], Change::CapsuleRemoved { id, name, .. } if (*id, name) == (first.id, &first.name))
    );

    // Whoever was there before gets only what it missed.
    let mut late = a.client.watch(revision + 2);
    assert_eq!(next(&mut late).await, changes[2]);
    assert_eq!(next(&mut late).await, changes[3]);
}

#[tokio::test]
async fn a_watch_outlives_the_directory() {
    let mut directory = Directory::start();
    let a = directory.host("a", 1).await;
    let mut watch = a.client.watch(0);
    assert!(matches!(next(&mut watch).await, Change::Snapshot { .. }));
    let kept = a.register("kept").await;
    let before = next(&mut watch).await.revision();
    directory.kill();
    directory.serve();
    // The new process tells at the first packet that it knows nothing of the old connection.
    let begin = Instant::now();
    assert_eq!(a.client.list().await.unwrap(), std::slice::from_ref(&kept));
    assert!(begin.elapsed() < ATTEMPT_TIME, "found back after {:?}", begin.elapsed());
    let Change::Snapshot { revision, capsules, .. } = next(&mut watch).await else { panic!("no snapshot") };
    assert!(revision > before);
    assert_eq!(capsules, [kept]);
    let later = a.register("later").await;
    assert!(matches!(next(&mut watch).await, Change::Capsule { record, .. } if *record == later));
}

#[tokio::test]
async fn a_silent_host_is_seen_to_go_and_to_come_back() {
    let directory = Directory::start_with("lease_seconds = 1");
    let (a, b) = (directory.host("a", 1).await, directory.host("b", 2).await);
    let db = a.register("db").await;
    let db = a.client.set_state(db.id, db.generation, CapsuleState::Running).await.unwrap();
    let mut watch = b.client.watch(0);
    assert!(matches!(next(&mut watch).await, Change::Snapshot { .. }));
    // Neither host renews, so both go; only one has a capsule.
    let lost = shown(&mut watch, CapsuleState::Lost, &a).await;
    assert_eq!((lost.host, lost.generation), (db.host.clone(), db.generation));
    a.lease(7).await;
    let back = shown(&mut watch, CapsuleState::Running, &a).await;
    assert_eq!(back, db);
    assert_eq!(a.client.hosts().await.unwrap()[0].address.port(), 7);
}

/// Reads on until a capsule is shown in a state; checks that its host was shown so before.
async fn shown(
    watch: &mut Receiver<Change>,
    state: CapsuleState,
    host: &Host,
) -> directory_api::CapsuleRecord {
    let mut alive = None;
    loop {
        match next(watch).await {
            Change::Host { record, .. } if record.name == host.name => alive = Some(record.alive),
            Change::Capsule { record, .. } if record.state == state => {
                assert_eq!(alive, Some(state != CapsuleState::Lost));
                return *record;
            }
            _ => {}
        }
    }
}
