//! Directories that share an etcd, when one of them is killed, and when etcd is away.

use std::time::{Duration, Instant};

use directory_api::{
    ApiError, CapsuleRecord, CapsuleState, Change, Client, ClientError, LookupKey, join_any,
};
use hickory_proto::rr::RecordType;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::dns::{by_udp, question};
use super::etcd::EtcdProcess;
use super::process::Directory;
use super::several::{at, next};

/// A client whose directory was killed may take this long to be answered by another one. That is under half a second;
/// the rest is for a busy machine.
const NOTICED: Duration = Duration::from_secs(5);
/// Between two writes of one of eight: a watcher that notices the loss of its directory seconds later, by its silence, is
/// then fewer changes behind than a directory keeps.
const WRITER_PAUSE: Duration = Duration::from_millis(4);

#[tokio::test]
async fn nobody_notices_that_a_directory_is_killed() {
    let etcd = EtcdProcess::start();
    let mut one = Directory::start_on(&etcd, "owner_capsules_max = 100000");
    let other = one.start_beside(&etcd, "owner_capsules_max = 100000");
    let a = one.host("a", 1).await;
    let known = vec![one.api, other.api];
    let client = Client::connect(known.clone(), a.membership.identity.clone()).unwrap();
    let watcher = Client::connect(known, a.membership.identity.clone()).unwrap();
    let mut watch = watcher.watch(0);
    let Change::Snapshot { mut revision, .. } = next(&mut watch).await else { panic!("no snapshot") };
    // Taken as they come: whoever is more changes behind than a directory keeps gets everything anew.
    let (taken, mut changes) = tokio::sync::mpsc::channel(1 << 20);
    tokio::spawn(async move {
        while let Some(change) = watch.recv().await
            && taken.send(change).await.is_ok()
        {}
    });

    let end = Instant::now() + Duration::from_secs(4);
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let client = client.clone();
        writers.spawn(async move {
            let (mut made, mut longest) = (Vec::<CapsuleRecord>::new(), Duration::ZERO);
            while Instant::now() < end {
                let name = format!("w{writer}-{}", made.len());
                let begin = Instant::now();
                made.push(client.register(name.parse().unwrap(), "me".parse().unwrap()).await.unwrap());
                longest = longest.max(begin.elapsed());
                sleep(WRITER_PAUSE).await;
            }
            (made, longest)
        });
    }
    sleep(Duration::from_secs(2)).await;
    one.kill();
    let mut made = Vec::new();
    while let Some(writer) = writers.join_next().await {
        let (records, longest) = writer.unwrap();
        assert!(longest < NOTICED, "a call took {longest:?}");
        made.extend(records);
    }
    made.sort_by(|one, other| one.name.as_str().cmp(other.name.as_str()));
    let kept = at(&a, &other).client.list().await.unwrap();
    assert_eq!(kept, made, "each call made one capsule, and all that were acknowledged are there");
    // The watch went on at the other one, from where it was: every change once, in order.
    let mut seen = Vec::new();
    while seen.len() < made.len() {
        let change = next(&mut changes).await;
        assert_eq!(change.revision(), revision + 1, "after {revision}");
        revision += 1;
        if let Change::Capsule { record, .. } = change {
            seen.push(*record);
        }
    }
    seen.sort_by(|one, other| one.name.as_str().cmp(other.name.as_str()));
    assert_eq!(seen, made);

    // It comes back, and knows what happened without it.
    one.serve();
    assert_eq!(at(&a, &one).client.list().await.unwrap(), made);
}

#[tokio::test]
async fn without_etcd_what_is_known_is_served_and_nothing_is_changed() {
    let mut etcd = EtcdProcess::start();
    let one = Directory::start_on(&etcd, "lease_seconds = 2");
    let other = one.start_beside(&etcd, "lease_seconds = 2");
    let a = one.host("a", 1).await;
    let db = a.register("db").await;
    let db = a.client.set_state(db.id, db.generation, CapsuleState::Running).await.unwrap();
    let there = at(&a, &other);
    assert_eq!(there.client.lookup(LookupKey::Id(db.id)).await.unwrap(), db);

    etcd.kill();
    let hurried = a.client.with_call_time(Duration::from_secs(3));
    let refused = hurried.register("no".parse().unwrap(), "me".parse().unwrap()).await.unwrap_err();
    assert!(matches!(refused, ClientError::Away { .. }), "not known to have been refused: {refused}");
    assert!(refused.to_string().contains(&etcd.endpoint()), "{refused}");
    // Longer than a lease: nobody is taken for silent while nobody can be heard.
    sleep(Duration::from_secs(3)).await;
    for directory in [&one, &other] {
        let here = at(&a, directory).client;
        assert_eq!(here.lookup(LookupKey::Id(db.id)).await.unwrap(), db);
        // That there is no such capsule could only be said by who knows the newest.
        let unknown = LookupKey::Name("elsewhere".parse().unwrap());
        let refused = here.with_call_time(Duration::from_secs(1)).lookup(unknown).await.unwrap_err();
        assert!(matches!(refused, ClientError::Away { .. }), "{refused}");
        let named = question("db.capsule.internal.", RecordType::A);
        assert_eq!(by_udp(directory.dns, &named).answers.len(), 1);
        let unready = directory.page("/readyz");
        assert!(unready.contains("503") && unready.contains("cannot be reached"), "{unready}");
        assert!(directory.page("/healthz").contains("200 OK"), "it has no reason to be ended");
    }
    etcd.run();
    let begin = Instant::now();
    while a
        .client
        .with_call_time(Duration::from_secs(1))
        .register("yes".parse().unwrap(), "me".parse().unwrap())
        .await
        .is_err()
    {
        assert!(begin.elapsed() < Duration::from_secs(20), "the directory did not find back");
    }
    a.lease(1).await;
    for directory in [&one, &other] {
        // Each finds back by itself; until then it serves what it knew.
        let here = at(&a, directory).client;
        let names = async || -> Vec<String> {
            here.list().await.unwrap().iter().map(|record| record.name.to_string()).collect()
        };
        while names().await != ["db", "yes"] {
            assert!(begin.elapsed() < Duration::from_secs(20), "a directory did not find back");
            sleep(Duration::from_millis(20)).await;
            // As its sidecar does: what is waited for may take longer than a lease.
            a.lease(1).await;
        }
        assert_eq!(here.lookup(LookupKey::Id(db.id)).await.unwrap(), db);
        while !directory.page("/readyz").contains("200 OK") {
            assert!(begin.elapsed() < Duration::from_secs(20), "a directory does not say that it is ready");
            sleep(Duration::from_millis(20)).await;
            a.lease(1).await;
        }
    }
}

#[tokio::test]
async fn a_host_joins_by_whichever_directory_can_let_it_in() {
    let mut etcd = EtcdProcess::start();
    let able = Directory::start();
    let unable = able.start_beside(&etcd, "");
    let mut dead = able.start_beside(&etcd, "");
    dead.kill();
    etcd.kill();
    let token = able.token("a", &[]);
    let membership = join_any(&[dead.api, unable.api, able.api], &token).await.unwrap();
    assert_eq!(membership.api, [able.api]);
    // A refusal for good is not taken to the next one, which knows nothing of it.
    let used = join_any(&[able.api, unable.api], &token).await.unwrap_err();
    assert_eq!(used.refusal(), Some(&ApiError::TokenUsed));
    let unable_alone = join_any(&[dead.api, unable.api], &able.token("b", &[])).await.unwrap_err();
    assert!(unable_alone.to_string().contains(&etcd.endpoint()), "{unable_alone}");
}
