//! Several directories of one mesh, on a real etcd.

use std::collections::BTreeSet;
use std::time::Duration;

use directory_api::{ApiError, CapsuleRecord, CapsuleState, Change, Client, ClientError, LookupKey};
use hickory_proto::rr::RecordType;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::backups::Beside;
use super::dns::{by_udp, question};
use super::etcd::EtcdProcess;
use super::process::{Directory, Host};

/// The same host, asking another directory.
pub(super) fn at(host: &Host, directory: &Directory) -> Host {
    let client = Client::connect(vec![directory.api], host.membership.identity.clone()).unwrap();
    Host { name: host.name.clone(), membership: host.membership.clone(), client }
}

pub(super) async fn next(watch: &mut Receiver<Change>) -> Change {
    timeout(Duration::from_secs(30), watch.recv()).await.expect("no change came").expect("the watch ended")
}

#[tokio::test]
async fn what_one_directory_does_all_of_them_know() {
    let etcd = EtcdProcess::start();
    let one = Directory::start_on(&etcd, "");
    let other = one.start_beside(&etcd, "");
    // Each knows at once of a host that joined at the other.
    let (a, b) = (one.host("a", 1).await, other.host("b", 2).await);
    let (a_there, b_there) = (at(&a, &other), at(&b, &one));
    let mut watch = b.client.watch(0);
    assert!(matches!(next(&mut watch).await, Change::Snapshot { .. }));

    let db = a.register("db").await;
    assert_eq!(a_there.client.lookup(LookupKey::Name(db.name.clone())).await.unwrap(), db);
    let change = next(&mut watch).await;
    assert!(matches!(&change, Change::Capsule { record, .. } if **record == db), "{change:?}");
    let named = question("db.capsule.internal.", RecordType::A);
    assert_eq!(by_udp(other.dns, &named).answers.len(), 1);
    let soa = question("capsule.internal.", RecordType::SOA);
    assert_eq!(by_udp(one.dns, &soa).answers, by_udp(other.dns, &soa).answers);

    // The commit of a move, its halves at different directories, again and again without a pause.
    let mut record = db;
    for number in 0..20 {
        let (source, target) = if number % 2 == 0 { (&a, &b) } else { (&b_there, &a_there) };
        let offered = source.offer(&record, number + 1, target).await;
        record = target.claim(&offered, number + 1).await;
        assert_eq!((record.generation.number(), &record.host), (u64::from(number) + 2, &target.name));
    }
    // A watch goes on from its revision at another directory, without a snapshot.
    let from = change.revision();
    let mut there = b_there.client.watch(from);
    for revision in from + 1..=from + 40 {
        let (mine, theirs) = (next(&mut watch).await, next(&mut there).await);
        assert_eq!(mine, theirs);
        assert_eq!(mine.revision(), revision);
    }
    // Hosts are told of both, the one that they asked first.
    let told = a.lease(1).await.directories;
    assert_eq!((told.api, told.dns), (vec![one.api, other.api], vec![one.dns, other.dns]));
    assert_eq!(b.membership.api, [other.api, one.api]);
}

#[tokio::test]
async fn nothing_is_given_out_twice() {
    let etcd = EtcdProcess::start();
    let one = Directory::start_on(&etcd, "");
    let other = one.start_beside(&etcd, "");
    let (a, b) = (one.host("a", 1).await, other.host("b", 2).await);
    let token = one.token("c", &[]);
    let joins = tokio::join!(directory_api::join(one.api, &token), directory_api::join(other.api, &token));
    let refused: Vec<_> = [joins.0, joins.1].into_iter().filter_map(Result::err).collect();
    assert!(
        matches!(refused[..], [ClientError::Refused(ApiError::TokenUsed)]),
        "one token, one host: {refused:?}"
    );

    // Both are asked for the same names at once, and each for names of its own, again and again.
    let mut made: Vec<CapsuleRecord> = Vec::new();
    for round in 0..10 {
        let mut calls = JoinSet::new();
        for number in 0..8 {
            for host in [&a, &b] {
                for name in [format!("n{round}-{number}"), format!("{}{round}-{number}", host.name)] {
                    let client = host.client.clone();
                    calls.spawn(async move {
                        client.register(name.parse().unwrap(), "me".parse().unwrap()).await
                    });
                }
            }
        }
        while let Some(result) = calls.join_next().await {
            match result.unwrap() {
                Ok(record) => made.push(record),
                Err(ClientError::Refused(ApiError::NameTaken { name })) => assert!(name.starts_with('n')),
                Err(error) => panic!("{error}"),
            }
        }
    }
    let names: BTreeSet<_> = made.iter().map(|record| record.name.clone()).collect();
    let addresses: BTreeSet<_> = made.iter().map(|record| record.locators.v4).collect();
    assert_eq!((made.len(), names.len(), addresses.len()), (240, 240, 240));
    made.sort_by(|one, other| one.name.as_str().cmp(other.name.as_str()));
    assert_eq!(a.client.list().await.unwrap(), made);
    assert_eq!(b.client.list().await.unwrap(), made);
}

#[tokio::test]
async fn a_lease_renewed_at_one_directory_counts_at_all() {
    let etcd = EtcdProcess::start();
    let one = Directory::start_on(&etcd, "lease_seconds = 3");
    let other = one.start_beside(&etcd, "lease_seconds = 3");
    let (a, b) = (one.host("a", 1).await, other.host("b", 2).await);
    let db = a.register("db").await;
    a.client.set_state(db.id, db.generation, CapsuleState::Running).await.unwrap();
    let mut watch = b.client.watch(0);
    assert!(matches!(next(&mut watch).await, Change::Snapshot { .. }));
    // Three leases long the other directory hears of host a only by the first.
    for _ in 0..9 {
        a.lease(1).await;
        b.lease(2).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // What was changed before the watch began may reach the other directory after that.
    while let Ok(change) = watch.try_recv() {
        let silence = match &change {
            Change::Host { record, .. } => !record.alive,
            Change::Capsule { record, .. } => record.state == CapsuleState::Lost,
            _ => false,
        };
        assert!(!silence, "nobody was silent: {change:?}");
    }
    // Then it is silent, which is told once.
    let (mut silent, mut lost) = (0, 0);
    while lost == 0 {
        match next(&mut watch).await {
            Change::Host { record, .. } if record.name == a.name && !record.alive => silent += 1,
            Change::Capsule { record, .. } if record.state == CapsuleState::Lost => lost += 1,
            _ => {}
        }
        b.lease(2).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    while let Ok(change) = watch.try_recv() {
        assert!(!matches!(change, Change::Host { record, .. } if record.name == a.name), "told twice");
    }
    assert_eq!(silent, 1);
    for host in [&a, &at(&a, &other)] {
        let state = host.client.lookup(LookupKey::Id(db.id)).await.unwrap().state;
        assert_eq!(state, CapsuleState::Lost);
    }
}

#[tokio::test]
async fn an_embedded_store_moves_to_etcd_and_back() {
    let etcd = EtcdProcess::start();
    let mut directory = Directory::start();
    let a = directory.host("a", 1).await;
    let db = a.register("db").await;
    let revision = {
        let mut watch = a.client.watch(0);
        next(&mut watch).await.revision()
    };
    let copy = |directory: &Directory| directory.run(&["copy-store", "--to", &etcd.address()]);
    let busy = copy(&directory);
    assert!(!busy.status.success() && String::from_utf8_lossy(&busy.stderr).contains("in use"), "{busy:?}");
    assert_eq!(directory.stop(), Some(0));
    let early =
        directory.run(&["serve", "--store", &etcd.address(), "--api", "127.0.0.1:0", "--dns", "127.0.0.1:0"]);
    let said = String::from_utf8_lossy(&early.stderr);
    assert!(said.contains("copy-store --to") && said.contains(&etcd.endpoint()), "{early:?}");
    let copied = copy(&directory);
    assert!(copied.status.success(), "{copied:?}");
    let again = copy(&directory);
    assert!(String::from_utf8_lossy(&again.stderr).contains("were moved to"), "{again:?}");
    let old = directory.run(&["serve", "--api", "127.0.0.1:0", "--dns", "127.0.0.1:0"]);
    assert!(String::from_utf8_lossy(&old.stderr).contains("were moved to"), "{old:?}");

    directory.move_to(&etcd);
    directory.serve();
    assert_eq!(a.client.list().await.unwrap(), std::slice::from_ref(&db));
    let more = a.register("more").await;
    assert_ne!(more.locators, db.locators);
    let mut watch = a.client.watch(revision);
    assert!(next(&mut watch).await.revision() > revision);
    assert_eq!(directory.stop(), Some(0));
    let back = directory.run(&["copy-store", "--from", &etcd.address(), "--to", "embedded"]);
    assert!(back.status.success(), "{back:?}");
    directory.set_config("");
    directory.serve();
    assert_eq!(a.client.list().await.unwrap(), [db, more]);
    // Nobody else serves what was left there, and other facts may take its place.
    let beside = directory.beside("");
    let left =
        beside.run(&["serve", "--store", &etcd.address(), "--api", "127.0.0.1:0", "--dns", "127.0.0.1:0"]);
    assert!(String::from_utf8_lossy(&left.stderr).contains("copied elsewhere"), "{left:?}");
    assert_eq!(directory.stop(), Some(0));
    let copied = copy(&directory);
    assert!(copied.status.success(), "{copied:?}");
}

#[tokio::test]
async fn a_backup_is_made_of_etcd_and_what_only_one_directory_can_do_is_refused() {
    let etcd = EtcdProcess::start();
    let mut one = Directory::start_on(&etcd, "");
    one.host("a", 1).await.register("db").await;
    let told = |directory: &Directory, arguments: &[&str]| {
        String::from_utf8_lossy(&directory.run(arguments).stderr).into_owned()
    };
    let rotated = told(&one, &["rotate-root"]);
    assert!(rotated.contains("none of those knows whether all hosts are ready"), "{rotated}");

    // Whether anybody serves or not.
    let file = Beside::new(&one, "backup");
    let served = told(&one, &["backup", "--to", file.text()]);
    assert!(served.contains("1 capsules and 1 hosts"), "{served}");
    assert_eq!(one.stop(), Some(0));
    let stopped = told(&one, &["backup", "--to", file.text()]);
    assert!(stopped.contains("1 capsules and 1 hosts"), "{stopped}");

    one.serve();
    one.lose(&file.0);
    let address = etcd.address();
    let serve = ["serve", "--store", &address, "--api", "127.0.0.1:0", "--dns", "127.0.0.1:0"];
    for arguments in [&serve[..], &["copy-store", "--to", &address]] {
        let refused = told(&one, arguments);
        assert!(refused.contains("not every host has asserted"), "{refused}");
    }
}

#[tokio::test]
async fn a_directory_that_is_gone_for_good_leaves_the_list_and_one_that_serves_does_not() {
    let etcd = EtcdProcess::start();
    let one = Directory::start_on(&etcd, "");
    let mut other = one.start_beside(&etcd, "");
    let a = one.host("a", 1).await;
    other.kill();
    let listed = |arguments: &[&str]| {
        let output = one.run(&[&["directories"], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let id = |directory: &Directory| {
        let id = std::fs::read_to_string(directory.data().join("directory.id")).unwrap();
        id.trim().to_owned()
    };
    let before = listed(&[]);
    assert!(before.lines().count() == 2 && before.contains(&other.api.to_string()), "{before}");
    let after = listed(&["--remove", &id(&other)]);
    assert!(!after.contains(&other.api.to_string()) && after.contains(&one.api.to_string()), "{after}");
    let again = one.run(&["directories", "--remove", &id(&other)]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("there is no directory"), "{again:?}");
    let told = async || a.lease(1).await.directories.api;
    let begin = std::time::Instant::now();
    while told().await != [one.api] {
        assert!(begin.elapsed() < Duration::from_secs(10), "hosts are told of a directory that is gone");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // Taken off by mistake.
    listed(&["--remove", &id(&one)]);
    let begin = std::time::Instant::now();
    while !listed(&[]).contains(&one.api.to_string()) {
        assert!(begin.elapsed() < Duration::from_secs(10), "it did not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
