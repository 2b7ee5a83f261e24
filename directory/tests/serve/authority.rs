//! The CA: its root's key under a passphrase, and the issuer that signs.

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use capsule_directory::ca::{self, Pair};
use capsule_directory::sealed::{Passphrase, unseal};
use directory_api::ApiError;
use directory_api::identity::validity;

use super::process::Directory;

#[tokio::test]
async fn the_root_is_locked_away_and_hosts_are_certified_all_the_same() {
    let mut directory = Directory::start_sealed("correct horse battery");
    let kept = directory.data().join("ca.key.age");
    assert!(!directory.data().join("ca.key").exists());
    assert!(fs::read(&kept).unwrap().starts_with(b"age-encryption.org/"));
    let a = directory.host("a", 1).await;
    let chain = a.membership.identity.chain();
    assert_eq!(chain.len(), 2, "its own, and the issuer's");
    assert!(validity(&chain[0]).unwrap().not_after <= validity(&chain[1]).unwrap().not_after);
    a.register("db").await;

    // Another issuer needs the root.
    let without = directory.run(&["renew-issuer"]);
    assert_eq!(without.status.code(), Some(1), "{without:?}");
    let wrong = passphrase(&directory, "wrong", "incorrect horse battery");
    let refused = directory.run(&["renew-issuer", "--ca-passphrase-file", &wrong]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("passphrase"), "{refused:?}");
    let right = passphrase(&directory, "right", "correct horse battery");
    let renewed = directory.run(&["renew-issuer", "--ca-passphrase-file", &right]);
    assert!(renewed.status.success(), "{renewed:?}");
    directory.kill();
    directory.serve();
    // Who was certified by the old issuer is still believed, and gets a certificate of the new one.
    a.client.renew_certificate().await.unwrap();
    let fresh = a.membership.identity.chain();
    assert_ne!(fresh[1], chain[1], "signed by another issuer");
    directory.host("b", 2).await.register("web").await;
}

#[tokio::test]
async fn an_issuer_of_another_root_is_nobody() {
    let (directory, other) = (Directory::start(), Directory::start());
    let stranger = other.host("a", 1).await;
    let client = directory_api::Client::connect(vec![directory.api], stranger.membership.identity.clone());
    let client = client.unwrap().with_call_time(std::time::Duration::from_secs(1));
    let error = client.list().await.unwrap_err();
    assert!(error.refusal().is_none_or(|refusal| matches!(refusal, ApiError::Denied { .. })), "{error}");
}

#[test]
fn a_short_passphrase_keeps_nothing() {
    let directory = Directory::start();
    let short = passphrase(&directory, "short", "secret");
    let elsewhere = directory.data().join("other").display().to_string();
    let line = ["init", "--zone", "other.internal", "--ca-passphrase-file", &short, "--data", &elsewhere];
    let refused = directory.command(&line);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("characters"), "{refused:?}");
    assert!(!directory.data().join("other").exists());
}

#[tokio::test]
async fn a_renewed_issuer_is_taken_up_without_a_restart() {
    let directory = Directory::start();
    let a = directory.host("a", 1).await;
    let before = a.membership.identity.chain();
    let held = a.membership.identity.credentials();
    assert_eq!(a.lease(1).await.credentials, Some(held), "nothing is new");
    let renewed = directory.run(&["renew-issuer"]);
    assert!(renewed.status.success(), "{renewed:?}");
    wait_for("the lease to ask for another certificate", async || a.lease(1).await.credentials != Some(held))
        .await;
    a.client.renew_certificate().await.unwrap();
    assert_ne!(a.membership.identity.chain()[1], before[1], "signed by another issuer");
    assert_eq!(a.lease(1).await.credentials, Some(a.membership.identity.credentials()));
    assert!(a.client.is_connected(), "on the connection there was");
    directory.host("b", 2).await.register("web").await;
}

#[tokio::test]
async fn an_issuer_that_nears_its_end_is_renewed_where_the_root_can_be_opened() {
    for sealed in [false, true] {
        let passphrase = "correct horse battery";
        let words = std::env::temp_dir().join(format!("capsule-words-{}", std::process::id()));
        fs::write(&words, passphrase).unwrap();
        let config: &'static str = match sealed {
            true => format!("ca_passphrase_file = {words:?}").leak(),
            false => "",
        };
        let mut directory = Directory::made(config, sealed.then_some(passphrase));
        let read = |name: &str| fs::read(directory.data().join(name)).unwrap();
        let key = match sealed {
            true => unseal(&read("ca.key.age"), &Passphrase::read(&words).unwrap()).unwrap(),
            false => String::from_utf8(read("ca.key")).unwrap(),
        };
        let certificate = String::from_utf8(read("ca.pem")).unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(600 * 24 * 3600);
        let zone = "capsule.internal".parse().unwrap();
        let old = ca::create_issuer(&zone, &Pair { key, certificate }, long_ago).unwrap();
        fs::write(directory.data().join("issuer.key"), &old.key).unwrap();
        fs::write(directory.data().join("issuer.pem"), &old.certificate).unwrap();
        directory.serve();
        let a = directory.host("a", 1).await;
        wait_for("another issuer", async || {
            fs::read_to_string(directory.data().join("issuer.pem")).unwrap() != old.certificate
        })
        .await;
        wait_for("a certificate of it", async || {
            a.client.renew_certificate().await.unwrap();
            let until = validity(&a.membership.identity.chain()[1]).unwrap().not_after;
            until > SystemTime::now() + Duration::from_secs(700 * 24 * 3600)
        })
        .await;
        let audit = directory.run(&["audit"]);
        let audit = String::from_utf8(audit.stdout).unwrap();
        assert!(audit.contains("directory  renew issuer  mesh capsule.internal: made"), "{audit}");
        fs::remove_file(&words).unwrap();
    }
}

#[tokio::test]
async fn a_root_is_replaced_while_hosts_go_on_and_not_before_all_are_ready() {
    let directory = Directory::start();
    let (a, b) = (directory.host("a", 1).await, directory.host("b", 2).await);
    let (old, began) = (a.membership.identity.ca(), a.membership.identity.chain());
    let rotate = |flags: &[&str]| {
        let output = directory.run(&[&["rotate-root"], flags].concat());
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let token_before = directory.token("late", &[]);
    assert!(rotate(&["--status"]).1.contains("not being replaced"));
    assert_eq!(rotate(&[]).0, Some(0), "the next root is made");

    take_up(&a).await;
    assert_eq!(a.membership.identity.anchors().len(), 2);
    assert_eq!(a.membership.identity.chain()[1], began[1], "still certified by the old one");
    // One is silent: nothing goes on without it.
    wait_for("the directory to know who is ready", async || rotate(&["--status"]).1.contains("not ready: b"))
        .await;
    let (code, said) = rotate(&[]);
    assert!(code == Some(1) && said.contains("gives out: b."), "{said}");
    take_up(&b).await;
    wait_for("the new root to sign", async || rotate(&[]).0 == Some(0)).await;

    // Who is certified under the new root and who is under the old one: both are heard.
    take_up(&a).await;
    assert_ne!(a.membership.identity.ca(), old);
    a.register("db").await;
    b.register("web").await;
    assert!(directory_api::join(directory.api, &token_before).await.is_err(), "it names the old root");
    let c = directory.host("c", 3).await;
    assert_eq!(
        (c.membership.identity.anchors().len(), c.membership.identity.ca()),
        (2, a.membership.identity.ca())
    );
    wait_for("the directory to know who is ready", async || rotate(&["--status"]).1.contains("not ready: b"))
        .await;
    assert_eq!(rotate(&[]).0, Some(1), "b has a certificate under the old root");
    // A host that never comes back is removed instead.
    a.client.remove_host(b.name.clone(), true).await.unwrap();
    wait_for("the old root to go", async || rotate(&[]).0 == Some(0)).await;

    take_up(&a).await;
    assert_eq!(a.membership.identity.anchors().len(), 1);
    assert!(a.client.is_connected(), "on the connection there was all the time");
    let fresh = directory_api::Client::connect(vec![directory.api], a.membership.identity.clone()).unwrap();
    assert_eq!(fresh.list().await.unwrap().len(), 2);
    let late = directory_api::Client::connect(vec![directory.api], b.membership.identity.clone()).unwrap();
    let error = late.with_call_time(Duration::from_secs(1)).list().await.unwrap_err();
    assert!(error.refusal().is_none(), "not even a handshake: {error}");
    assert!(!directory.data().join("last-ca.pem").exists());
}

/// Has a host hold what the directory gives out, as a sidecar does, and say so.
pub(super) async fn take_up(host: &super::process::Host) {
    wait_for("other credentials", async || {
        let wanted = host.lease(1).await.credentials.unwrap();
        if wanted != host.membership.identity.credentials() {
            host.client.renew_certificate().await.unwrap();
            assert_eq!(host.membership.identity.credentials(), wanted);
            host.lease(1).await;
            return true;
        }
        false
    })
    .await;
}

pub(super) async fn wait_for(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !done().await {
        assert!(begin.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn passphrase(directory: &Directory, name: &str, text: &str) -> String {
    let path = directory.data().join(name);
    fs::write(&path, format!("{text}\n")).unwrap();
    path.display().to_string()
}
