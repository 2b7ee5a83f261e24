//! The CA: its root's key under a passphrase, and the issuer that signs.

use std::fs;

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

fn passphrase(directory: &Directory, name: &str, text: &str) -> String {
    let path = directory.data().join(name);
    fs::write(&path, format!("{text}\n")).unwrap();
    path.display().to_string()
}
