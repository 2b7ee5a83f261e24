//! Stopping, gently and not.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use directory_api::{ApiError, ClientError, LookupKey};

use super::process::{Directory, key, offer_id};

#[tokio::test]
async fn what_was_acknowledged_outlives_kill_9() {
    let mut directory = Directory::start();
    let (a, b) = (directory.host("a", 1).await, directory.host("b", 2).await);
    let token = directory.token("spent", &[]);
    directory_api::join(directory.api, &token).await.unwrap();
    for round in 0..3u8 {
        let db = a.register(&format!("r{round}")).await;
        a.offer(&db, round + 1, &b).await;
        let claimed = b.claim(&db, round + 1).await;
        // More writes are on their way when the directory dies.
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..20 {
            let client = a.client.with_call_time(Duration::from_millis(300));
            tasks.spawn(async move {
                let name = format!("r{round}-{number}");
                client.register(name.parse().unwrap(), "me".parse().unwrap()).await.ok()
            });
        }
        tokio::time::sleep(Duration::from_millis(u64::from(round) * 7)).await;
        directory.kill();
        let mut acknowledged = vec![claimed.clone()];
        while let Some(result) = tasks.join_next().await {
            acknowledged.extend(result.unwrap());
        }
        directory.serve();
        for record in acknowledged {
            assert_eq!(b.client.lookup(LookupKey::Id(record.id)).await.unwrap(), record);
        }
        assert_eq!(b.client.claim(db.id, offer_id(round + 1), key(round + 1)).await.unwrap(), claimed);
        let revoked = a.client.revoke(db.id, offer_id(round + 1)).await;
        assert!(matches!(revoked, Err(ClientError::Refused(ApiError::OfferEnded { .. }))), "{revoked:?}");
    }
    let again = directory_api::join(directory.api, &token).await;
    assert!(matches!(again, Err(ClientError::Refused(ApiError::TokenUsed))), "{again:?}");
    let all = a.client.list().await.unwrap();
    let mut addresses: Vec<_> = all.iter().map(|record| record.locators.v4).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), all.len(), "no address twice");
}

#[tokio::test]
async fn a_call_waits_for_a_directory_that_comes_back_and_names_one_that_does_not() {
    let mut directory = Directory::start();
    let a = directory.host("a", 1).await;
    assert_eq!(directory.stop(), Some(0));
    let quick = a.client.with_call_time(Duration::from_millis(500));
    let error = quick.list().await.unwrap_err();
    assert!(matches!(error, ClientError::Away { .. }), "{error}");
    assert!(error.to_string().contains(&directory.api.to_string()), "{error}");
    let waiting = tokio::spawn({
        let client = a.client.clone();
        async move { client.register("db".parse().unwrap(), "me".parse().unwrap()).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    directory.serve();
    assert_eq!(waiting.await.unwrap().unwrap().name.as_str(), "db");
}

#[test]
fn init_is_done_once_and_data_has_one_process() {
    let directory = Directory::start();
    let again = directory.run(&["init", "--zone", "other.internal"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("initialised already"), "{again:?}");
    let second =
        directory.run(&["serve", "--api", "127.0.0.1:0", "--dns", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use"), "{second:?}");
    use std::os::unix::fs::PermissionsExt as _;
    for name in ["ca.key", "token.key"] {
        let mode = std::fs::metadata(directory.data().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn settings_are_checked() {
    let directory = Directory::start();
    let file = directory.data().join("bad.toml");
    std::fs::write(&file, "leese_seconds = 3\n").unwrap();
    let file = file.to_str().unwrap();
    let bad = directory.run(&["serve", "--config", file, "--check-config"]);
    let said = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert_eq!(bad.status.code(), Some(1), "{said}");
    assert!(said.contains("leese_seconds") && said.contains("bad.toml"), "{said}");
    // Beside the one that serves, which it does not disturb.
    let good = directory.run(&["serve", "--check-config"]);
    assert!(good.status.success(), "{good:?}");
    std::fs::write(
        file,
        "api = 'nowhere'\nlease_seconds = 0\n\n[[secondaries]]\naddress = '192.0.2.1:53'\n\
        key_name = 'k'\nkey_file = '/no/such/key'\n",
    )
    .unwrap();
    let key = directory.data().join("token.key");
    let kept = std::fs::read(&key).unwrap();
    std::fs::write(&key, "short").unwrap();
    std::fs::remove_file(directory.data().join("issuer.key")).unwrap();
    let all = directory.run(&["serve", "--config", file, "--check-config"]);
    let said = String::from_utf8_lossy(&all.stderr).into_owned();
    assert_eq!(all.status.code(), Some(1), "{said}");
    for fault in [
        "bad.toml:1: api: ",
        "bad.toml:2: lease_seconds: ",
        "bad.toml:4: secondaries: cannot read /no/such/key",
        "token.key",
        "issuer.key",
    ] {
        assert!(said.lines().any(|line| line.contains(fault)), "{fault} in {said}");
    }
    std::fs::write(&key, kept).unwrap();
    let missing = directory.command(&["serve", "--data", "/no/such/data", "--check-config"]);
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    assert!(String::from_utf8_lossy(&missing.stderr).contains("not initialised"), "{missing:?}");
    let usage = directory.run(&["token"]);
    assert_eq!(usage.status.code(), Some(2));
}

#[tokio::test]
async fn health_and_metrics_are_served() {
    let directory = Directory::start();
    let a = directory.host("a", 1).await;
    a.register("db").await;
    assert!(get(directory.http, "/healthz").starts_with("HTTP/1.1 200"));
    assert!(get(directory.http, "/readyz").starts_with("HTTP/1.1 200"));
    assert!(get(directory.http, "/other").starts_with("HTTP/1.1 404"));
    let metrics = get(directory.http, "/metrics");
    assert!(metrics.contains("capsule_directory_capsules{state=\"stopped\"} 1"), "{metrics}");
    assert!(metrics.contains("capsule_directory_hosts{alive=\"true\"} 1"), "{metrics}");
}

pub(super) fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
