use std::time::SystemTime;

use super::*;
use crate::engine::Update;
use crate::registry::HostEntry;

fn step(revision: u64) -> Batch {
    let entry = HostEntry {
        name: format!("h{revision}").parse().unwrap(),
        operator: true,
        address: "192.0.2.1:1".parse().ok(),
        alive: true,
        last_seen: SystemTime::UNIX_EPOCH,
    };
    let record = entry.shown().unwrap();
    Batch {
        writes: vec![],
        changes: vec![Change::Host { revision, record }],
        updates: vec![Update::Host(entry), Update::Revision(revision)],
    }
}

fn revisions(told: &[Arc<Told>]) -> Vec<u64> {
    told.iter().map(|told| told.change.revision()).collect()
}

#[test]
fn a_watcher_goes_on_where_it_was_or_begins_anew() {
    let published = Published::new(Registry::at(10));
    assert!(published.since(10).is_empty());
    for revision in 11..=13 {
        published.publish(step(revision));
    }
    assert_eq!(revisions(&published.since(10)), [11, 12, 13]);
    assert_eq!(revisions(&published.since(12)), [13]);
    assert!(published.since(13).is_empty());
    for anew in [0, 9, 14] {
        let changes = published.since(anew);
        assert!(
            matches!(&changes[0].change, Change::Snapshot { revision: 13, hosts, .. } if hosts.len() == 3),
            "{anew}"
        );
    }
}

#[test]
fn history_is_bounded() {
    let published = Published::new(Registry::at(0));
    let last = u64::try_from(HISTORY_CHANGES).unwrap() + 5;
    for revision in 1..=last {
        published.publish(step(revision));
    }
    assert_eq!(revisions(&published.since(4)), [last], "a snapshot");
    let batch = published.since(5);
    assert_eq!((batch.len(), batch[0].change.revision()), (WATCH_BATCH, 6));
}

#[test]
fn what_changes_nothing_wakes_nobody() {
    let published = Published::new(Registry::at(10));
    let mut revisions = published.revisions();
    published.publish(step(11));
    assert!(revisions.has_changed().unwrap());
    revisions.mark_unchanged();
    published.publish(Batch::default());
    let seen = Update::Seen("h11".parse().unwrap(), SystemTime::now());
    published.publish(Batch { updates: vec![seen], ..Batch::default() });
    assert!(!revisions.has_changed().unwrap());
}

#[test]
fn what_watchers_are_told_is_made_once() {
    let published = Published::new(Registry::at(10));
    published.publish(step(11));
    let (one, other) = (published.since(10), published.since(10));
    assert!(Arc::ptr_eq(&one[0], &other[0]));
    assert_eq!(one[0].frames().unwrap().as_ptr(), other[0].frames().unwrap().as_ptr());
    let snapshot = published.since(0);
    published.publish(step(12));
    let later = published.since(0);
    assert!(Arc::ptr_eq(&snapshot[0], &later[0]), "while it is on its way");
    assert_eq!(revisions(&published.since(snapshot[0].change.revision())), [12]);
    drop((snapshot, later));
    assert_eq!(revisions(&published.since(0)), [12]);
}

#[test]
fn a_snapshot_that_history_does_not_follow_is_not_shared() {
    let published = Published::new(Registry::at(0));
    let old = published.since(0);
    let last = u64::try_from(HISTORY_CHANGES).unwrap() + 5;
    for revision in 1..=last {
        published.publish(step(revision));
    }
    assert_eq!(revisions(&published.since(0)), [last]);
    drop(old);
}

#[test]
fn an_answer_is_good_until_its_names_change() {
    let published = Published::new(Registry::at(10));
    let (one, other) = (Depends::on("h11"), Depends::on_both("other", "h12"));
    for revision in [11, 12] {
        assert!(published.is_current(&one, 10) == (revision == 11) && published.is_current(&other, 10));
        assert!(published.is_current(&Depends::Revision, revision - 1));
        published.publish(step(revision));
        assert!(!published.is_current(&Depends::Revision, revision - 1));
        assert!(!published.is_current(&one, 10) && published.is_current(&one, 11));
    }
    assert!(!published.is_current(&other, 11) && published.is_current(&other, 12));
    assert!(published.is_current(&Depends::Nothing, 0));
}
