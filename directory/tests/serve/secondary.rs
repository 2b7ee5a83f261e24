//! A stock secondary, Knot DNS, that gets the zones, follows their changes, and serves them when the directory is gone.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;

use super::dns::{by_tcp, question, texts, try_udp};
use super::dnssec::{ZONES, delv};
use super::process::Directory;
use super::resolver::free_address;

const SECRET: &str = "MTIzNDU2Nzg5MGFiY2RlZjEyMzQ1Njc4OTBhYmNkZWY=";
/// Knot asks by itself after the SOA's refresh time, 60 s: what it knows before that it was told.
const BEFORE_REFRESH: Duration = Duration::from_secs(30);

struct Knot(Child);

impl Knot {
    fn start(folder: &Path, address: SocketAddr, primary: SocketAddr) -> Self {
        std::fs::create_dir(folder).unwrap();
        let show = |address: SocketAddr| format!("{}@{}", address.ip(), address.port());
        let mut config = format!(
            "server:\n  listen: {}\n  rundir: {folder}\ndatabase:\n  storage: {folder}\nlog:\n  - target: {folder}/log\n    \
             any: info\nkey:\n  - id: capsule-transfer\n    algorithm: hmac-sha256\n    secret: {SECRET}\nremote:\n  - id: \
             directory\n    address: {}\n    key: capsule-transfer\nacl:\n  - id: told\n    key: capsule-transfer\n    \
             action: notify\nzone:\n",
            show(address),
            show(primary),
            folder = folder.display()
        );
        let zone = |zone: &&str| {
            format!(
                "  - domain: {zone}\n    storage: {}\n    master: directory\n    acl: told\n",
                folder.display()
            )
        };
        config.extend(ZONES.iter().map(zone));
        let file = folder.join("knot.conf");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("knotd");
        command.arg("-c").arg(file).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("knotd is there (package knot)"))
    }
}

impl Drop for Knot {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(
    server: SocketAddr,
    folder: &Path,
    message: &Message,
    enough: impl Fn(&Message) -> bool,
) -> Duration {
    let begin = Instant::now();
    while !try_udp(server, message, Duration::from_millis(200)).is_some_and(|answer| enough(&answer)) {
        let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        assert!(begin.elapsed() < BEFORE_REFRESH, "the secondary does not have it: {}", log());
        std::thread::sleep(Duration::from_millis(50));
    }
    begin.elapsed()
}

/// Where a secondary of a test listens, and the settings that name it.
fn settings(secret_file: &Path, secondary: SocketAddr) -> &'static str {
    std::fs::write(secret_file, SECRET).unwrap();
    let text = format!(
        "[[secondaries]]\naddress = '{secondary}'\nkey_name = 'capsule-transfer'\nkey_file = '{}'",
        secret_file.display()
    );
    // A few bytes for the life of a test process.
    text.leak()
}

/// A file that goes with its owner.
pub(super) struct SecretFile(pub(super) PathBuf);

impl Drop for SecretFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn knot_gets_the_zones_follows_and_stands_in() {
    let secondary = free_address();
    let secret = SecretFile(std::env::temp_dir().join(format!("capsule-secret-{}", std::process::id())));
    let mut directory = Directory::start_with(settings(&secret.0, secondary));
    let a = directory.host("a", 1001).await;
    // With proofs and signatures some 100 KiB: many messages.
    for number in 0..100 {
        a.register(&format!("c-{number}")).await;
    }
    let folder = directory.data().join("knot");
    let _knot = Knot::start(&folder, secondary, directory.dns);
    let first = question("c-99.capsule.internal.", RecordType::A);
    wait_for(secondary, &folder, &first, |answer| answer.answers.len() == 1);

    let late = a.register("late").await;
    let asked = question("late.capsule.internal.", RecordType::A);
    wait_for(secondary, &folder, &asked, |answer| texts(answer) == [late.locators.v4.to_string()]);
    a.client.remove(late.id, late.generation).await.unwrap();
    let gone = |answer: &Message| answer.metadata.response_code == ResponseCode::NXDomain;
    wait_for(secondary, &folder, &asked, gone);
    // It asks for what changed, and takes the whole zone for an answer (RFC 1995, section 4).
    let log = std::fs::read_to_string(folder.join("log")).unwrap();
    assert!(log.contains("receiving AXFR-style IXFR"), "{log}");
    let reverse = question("1.0.88.10.in-addr.arpa.", RecordType::PTR);
    wait_for(secondary, &folder, &reverse, |answer| texts(answer) == ["c-0.capsule.internal."]);

    // Whoever has no secret gets nothing.
    let refused = by_tcp(directory.dns, &question("capsule.internal.", RecordType::AXFR));
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused);

    directory.kill();
    for (name, kind, expected) in [
        ("c-50.capsule.internal.", "A", "; fully validated"),
        ("_capsule._udp.c-50.capsule.internal.", "SRV", "; fully validated"),
        ("late.capsule.internal.", "A", "; negative response, fully validated"),
        ("hosts.capsule.internal.", "A", "; negative response, fully validated"),
    ] {
        let said = delv(&directory, secondary, ZONES[0], name, kind);
        assert!(said.contains(expected), "{name} {kind}: {said}");
    }
}
