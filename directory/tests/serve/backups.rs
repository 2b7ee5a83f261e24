//! Backups, and what a directory does that was restored from one.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use directory_api::{
    ApiError, AssertedCapsule, Assertion, CapsuleRecord, CapsuleState, Change, ClientError, LookupKey, join,
};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};
use tokio::time::timeout;

use super::authority::{take_up, wait_for};
use super::dns::{by_udp, question};
use super::process::{Directory, Host};
use super::restarting::get;

/// A path beside the data directory that goes with its owner.
pub(super) struct Beside(pub(super) PathBuf);

impl Beside {
    pub(super) fn new(directory: &Directory, name: &str) -> Self {
        Self(directory.data().with_extension(name))
    }

    pub(super) fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn held(record: &CapsuleRecord, state: CapsuleState) -> AssertedCapsule {
    AssertedCapsule {
        id: record.id,
        name: record.name.clone(),
        owner: record.owner.clone(),
        locators: record.locators,
        generation: record.generation,
        state,
        offer: None,
        given_by: None,
    }
}

/// Renews the lease, and asserts if that is asked for; gives who is missing then.
async fn assert_held(host: &Host, revision: u64, capsules: Vec<AssertedCapsule>) -> Option<Vec<String>> {
    let restoring = host.lease(1).await.restoring?;
    assert!(restoring.asks);
    let assertion = Assertion { restore: restoring.id, revision, hosts: vec![], capsules };
    host.client.assert(assertion).await.unwrap();
    let after = host.lease(1).await.restoring?;
    Some(after.missing.iter().map(ToString::to_string).collect())
}

fn missing(refused: Result<CapsuleRecord, ClientError>) -> Vec<String> {
    match refused {
        Err(ClientError::Refused(ApiError::Asserting { missing })) => {
            missing.iter().map(ToString::to_string).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn serial(dns: SocketAddr) -> u32 {
    let answer = by_udp(dns, &question("capsule.internal.", RecordType::SOA));
    match &answer.answers[0].data {
        RData::SOA(soa) => soa.serial,
        other => panic!("{other:?}"),
    }
}

fn code(dns: SocketAddr, name: &str) -> ResponseCode {
    by_udp(dns, &question(name, RecordType::A)).metadata.response_code
}

#[tokio::test]
async fn a_restored_directory_learns_from_the_hosts_what_happened_since() {
    let mut directory = Directory::start();
    let (a, b) = (directory.host("a", 1).await, directory.host("b", 2).await);
    let (db, gone) = (a.register("db").await, a.register("gone").await);
    let unused = directory.token("x", &[]);
    let file = Beside::new(&directory, "backup");
    let made = directory.run(&["backup", "--to", file.text()]);
    assert!(made.status.success(), "{made:?}");
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(said.contains("2 capsules and 2 hosts") && said.contains("not encrypted"), "{said}");
    assert_eq!(std::fs::metadata(&file.0).unwrap().permissions().mode() & 0o777, 0o600);

    // What the backup does not know: a move, a new capsule, one that is gone, a new host.
    a.offer(&db, 1, &b).await;
    let moved = b.claim(&db, 1).await;
    let new = b.register("new").await;
    a.client.remove(gone.id, gone.generation).await.unwrap();
    let c = directory.host("c", 3).await;
    let mut watch = c.client.watch(0);
    let Some(Change::Snapshot { revision, .. }) = watch.recv().await else { panic!("no snapshot") };
    let serial_before = serial(directory.dns);

    directory.lose(&file.0);
    directory.serve();
    assert_eq!(missing(a.client.register("more".parse().unwrap(), "me".parse().unwrap()).await), ["a", "b"]);
    let ready = get(directory.http, "/readyz");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("a, b"), "{ready}");
    assert_eq!(code(directory.dns, "db.capsule.internal."), ResponseCode::NoError);
    assert_eq!(code(directory.dns, "new.capsule.internal."), ResponseCode::ServFail, "it may be there");
    let by_id = a.client.lookup(LookupKey::Id(db.id)).await;
    assert_eq!(missing(by_id), ["a", "b"], "nobody decides by what a backup says");
    // A host that the backup does not know is let in by its certificate, and waited for.
    assert_eq!(assert_held(&c, revision, vec![]).await.unwrap(), ["a", "b"]);
    assert_eq!(
        assert_held(&b, 0, vec![held(&moved, CapsuleState::Running), held(&new, CapsuleState::Running)])
            .await
            .unwrap(),
        ["a"]
    );
    let found = c.client.lookup(LookupKey::Name("db".parse().unwrap())).await.unwrap();
    assert_eq!((&found.host, found.generation), (&b.name, moved.generation), "b has said so");

    // That it waits outlives the process; what hosts said they say again.
    directory.kill();
    directory.serve();
    let waits = missing(b.client.lookup(LookupKey::Name("db".parse().unwrap())).await);
    assert_eq!(waits, ["a", "b", "c"]);
    assert!(timeout(Duration::from_millis(300), watch.recv()).await.is_err(), "watchers hear nothing yet");
    for host in [&a, &c] {
        assert_held(host, revision, vec![]).await.unwrap();
    }
    assert_eq!(
        assert_held(&b, 0, vec![held(&moved, CapsuleState::Running), held(&new, CapsuleState::Running)])
            .await,
        None
    );

    let Some(Change::Snapshot { revision: after, capsules, .. }) = watch.recv().await else {
        panic!("no snapshot")
    };
    assert!(after > revision && serial(directory.dns).wrapping_sub(serial_before) < 1 << 31);
    let places: Vec<_> = capsules
        .iter()
        .map(|record| (record.name.as_str(), record.host.as_str(), record.state.as_str()))
        .collect();
    assert_eq!(places, [("db", "b", "running"), ("gone", "a", "lost"), ("new", "b", "running")]);
    assert!(get(directory.http, "/readyz").starts_with("HTTP/1.1 200"));
    // Things change hands again, and nothing is given out twice.
    let next = a.register("more").await;
    assert!([&db, &gone, &new].iter().all(|record| record.locators != next.locators));
    b.offer(&moved, 2, &a).await;
    assert_eq!(a.claim(&moved, 2).await.generation, moved.generation.next());
    // A token of before the restore is of no use, however new.
    let refused = join(directory.api, &unused).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused(ApiError::TokenUnknown)), "{refused}");
    directory.host("x", 4).await;
}

#[tokio::test]
async fn a_directory_that_was_lost_while_its_root_was_replaced_goes_on_with_that() {
    let mut directory = Directory::start_sealed("correct horse battery");
    let a = directory.host("a", 1).await;
    let db = a.register("db").await;
    let old = a.membership.identity.ca();
    let (words, file) = (Beside::new(&directory, "words"), Beside::new(&directory, "backup"));
    std::fs::write(&words.0, "correct horse battery\n").unwrap();
    let rotate = |directory: &Directory| {
        let output = directory.run(&["rotate-root", "--ca-passphrase-file", words.text()]);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    // Each step but the last is in a backup, and the next one is made by the directory that was restored from it.
    for step in 0..3 {
        wait_for("the next step", async || {
            a.lease(1).await;
            rotate(&directory).0 == Some(0)
        })
        .await;
        take_up(&a).await;
        if step == 2 {
            break;
        }
        assert!(directory.run(&["backup", "--to", file.text()]).status.success());
        directory.lose(&file.0);
        directory.serve();
        assert_eq!(assert_held(&a, 0, vec![held(&db, CapsuleState::Running)]).await, None);
    }
    assert_ne!(a.membership.identity.ca(), old);
    assert_eq!(*a.membership.identity.anchors(), [a.membership.identity.ca()]);
    assert_eq!(a.client.list().await.unwrap().len(), 1);
    directory.host("b", 2).await.register("web").await;
}

#[test]
fn what_is_no_good_backup_restores_nothing() {
    let mut directory = Directory::start();
    let file = Beside::new(&directory, "backup");
    let (bad, target) = (Beside::new(&directory, "bad"), Beside::new(&directory, "restored"));
    assert_eq!(directory.stop(), Some(0));
    // Nobody serves: it is read from the store itself.
    assert!(directory.run(&["backup", "--to", file.text()]).status.success());
    let whole = std::fs::read(&file.0).unwrap();
    let restore =
        |from: &Beside, to: &str| directory.command(&["restore", "--from", from.text(), "--data", to]);
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    let mut newer = whole.clone();
    newer[19] = 9;
    for (bytes, why) in [
        (&whole[..whole.len() - 1], "cut off"),
        (&damaged, "damaged"),
        (&newer, "newer"),
        (b"something else".as_slice(), "no backup"),
    ] {
        std::fs::write(&bad.0, bytes).unwrap();
        let refused = restore(&bad, target.text());
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains(why) && said.contains(bad.text()) && !target.0.exists(), "{said}");
    }
    let refused = restore(&file, directory.data().to_str().unwrap());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not empty"), "{refused:?}");
    let done = restore(&file, target.text());
    assert!(done.status.success(), "{done:?}");
    assert!(target.0.join("mesh.json").exists());
    assert_ne!(
        std::fs::read(target.0.join("token.key")).unwrap(),
        std::fs::read(directory.data().join("token.key")).unwrap()
    );
}

#[test]
fn a_backup_under_a_passphrase_needs_it() {
    let directory = Directory::start();
    let (file, phrase) = (Beside::new(&directory, "backup"), Beside::new(&directory, "phrase"));
    let target = Beside::new(&directory, "restored");
    std::fs::write(&phrase.0, "a long enough passphrase\n").unwrap();
    let made = directory.run(&["backup", "--to", file.text(), "--passphrase-file", phrase.text()]);
    assert!(made.status.success(), "{made:?}");
    let key = std::fs::read_to_string(directory.data().join("issuer.key")).unwrap();
    let bytes = std::fs::read(&file.0).unwrap();
    assert!(!bytes.windows(40).any(|window| key.as_bytes()[30..].starts_with(window)), "keys are encrypted");
    let without = directory.command(&["restore", "--from", file.text(), "--data", target.text()]);
    assert!(String::from_utf8_lossy(&without.stderr).contains("--passphrase-file"), "{without:?}");
    let flags =
        ["restore", "--from", file.text(), "--data", target.text(), "--passphrase-file", phrase.text()];
    assert!(directory.command(&flags).status.success());
    assert_eq!(std::fs::read_to_string(target.0.join("issuer.key")).unwrap(), key);
}
