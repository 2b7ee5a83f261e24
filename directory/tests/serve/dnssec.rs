//! DNSSEC, judged by validators that others wrote: `delv` of BIND, and unbound.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

use super::dns::{by_udp, edns, question, serial};
use super::process::Directory;
use super::resolver::Unbound;

const ZONE: &str = "capsule.internal.";
const V4: &str = "88.10.in-addr.arpa.";
const V6: &str = "0.0.0.0.0.0.0.0.0.0.0.0.8.8.d.f.ip6.arpa.";
pub(super) const ZONES: [&str; 3] = [ZONE, V4, V6];

/// The lines that `capsule-directory ds` prints.
fn delegations(directory: &Directory) -> Vec<String> {
    let output = directory.run(&["ds"]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// What `delv` says, knowing only the zone's DS.
pub(super) fn delv(directory: &Directory, server: SocketAddr, zone: &str, name: &str, kind: &str) -> String {
    let anchors: String = delegations(directory)
        .iter()
        .filter(|line| line.starts_with(&format!("{zone} ")))
        .map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            let [tag, algorithm, digest_type, digest] = words[3..] else { panic!("{line}") };
            format!("\"{zone}\" static-ds {tag} {algorithm} {digest_type} \"{digest}\";")
        })
        .collect();
    let file = directory.data().join("anchors");
    std::fs::write(&file, format!("trust-anchors {{ {anchors} }};")).unwrap();
    let output = Command::new("delv")
        .args([format!("@{}", server.ip()), "-p".into(), server.port().to_string(), "-a".into()])
        .arg(&file)
        .args([&format!("+root={zone}"), "-q", name, kind])
        .output()
        .expect("delv is there (package bind9-dnsutils)");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn v4(number: u8) -> String {
    format!("{number}.0.{V4}")
}

#[tokio::test]
async fn delv_validates_what_is_and_what_is_not() {
    let directory = Directory::start();
    let a = directory.host("a", 1001).await;
    for name in ["db", "web", "0", "zz-9"] {
        a.register(name).await;
    }
    let v6 = Name::from(std::net::IpAddr::from(a.register("six").await.locators.v6)).to_string();
    for (zone, name, kind, expected) in [
        (ZONE, "db.capsule.internal.", "A", "; fully validated"),
        (ZONE, "db.capsule.internal.", "TXT", "; fully validated"),
        (ZONE, "_capsule._udp.web.capsule.internal.", "SRV", "; fully validated"),
        (ZONE, "a.hosts.capsule.internal.", "A", "; fully validated"),
        (ZONE, ZONE, "SOA", "; fully validated"),
        (ZONE, ZONE, "NS", "; fully validated"),
        (ZONE, ZONE, "DNSKEY", "; fully validated"),
        (ZONE, "db.capsule.internal.", "NSEC", "; fully validated"),
        (ZONE, "none.capsule.internal.", "A", "ncache nxdomain"),
        (ZONE, "-.capsule.internal.", "A", "ncache nxdomain"),
        (ZONE, "zzz.capsule.internal.", "A", "ncache nxdomain"),
        (ZONE, "x.y.db.capsule.internal.", "A", "ncache nxdomain"),
        (ZONE, "none.hosts.capsule.internal.", "A", "ncache nxdomain"),
        (ZONE, "db.capsule.internal.", "MX", "ncache nxrrset"),
        (ZONE, "hosts.capsule.internal.", "A", "ncache nxrrset"),
        (ZONE, "_udp.db.capsule.internal.", "A", "ncache nxrrset"),
        (ZONE, ZONE, "A", "ncache nxrrset"),
        (V4, &v4(1), "PTR", "; fully validated"),
        (V4, &v4(77), "PTR", "ncache nxdomain"),
        (V4, &v4(1), "A", "ncache nxrrset"),
        (V6, &v6, "PTR", "; fully validated"),
        (V6, &format!("f.{V6}"), "PTR", "ncache nxdomain"),
        (V6, &format!("0.{V6}"), "PTR", "ncache nxrrset"),
    ] {
        let said = delv(&directory, directory.dns, zone, name, kind);
        let validated = match expected {
            "; fully validated" => said.contains("; fully validated"),
            negative => said.contains(negative) && said.contains("; negative response, fully validated"),
        };
        assert!(validated, "{name} {kind}: {said}");
    }
}

#[tokio::test]
async fn unbound_validates_and_follows_a_rollover() {
    let directory = Directory::start();
    let a = directory.host("a", 1001).await;
    a.register("db").await;
    let old = delegations(&directory);
    assert_eq!(old.len(), 3);
    let unbound = Unbound::start(&directory, &ZONES, &old);
    let signed = |unbound: &Unbound, name: &str, kind| -> Message {
        let mut message = question(name, kind);
        let mut edns = edns(0);
        edns.set_dnssec_ok(true);
        message.edns = Some(edns);
        message.metadata.recursion_desired = true;
        by_udp(unbound.address, &message)
    };
    let code = |unbound: &Unbound, name: &str, kind| {
        let answer = signed(unbound, name, kind);
        (answer.metadata.response_code, answer.metadata.authentic_data)
    };
    for (name, kind, expected) in [
        ("db.capsule.internal.", RecordType::A, ResponseCode::NoError),
        ("_capsule._udp.db.capsule.internal.", RecordType::SRV, ResponseCode::NoError),
        ("none.capsule.internal.", RecordType::A, ResponseCode::NXDomain),
        ("x.none.capsule.internal.", RecordType::A, ResponseCode::NXDomain),
        ("db.capsule.internal.", RecordType::MX, ResponseCode::NoError),
        ("hosts.capsule.internal.", RecordType::A, ResponseCode::NoError),
        (&v4(1), RecordType::PTR, ResponseCode::NoError),
        (&v4(99), RecordType::PTR, ResponseCode::NXDomain),
    ] {
        assert_eq!(code(&unbound, name, kind), (expected, true), "{name} {kind}");
    }

    // A new key beside the old one: whoever has either DS validates, and secondaries learn it by the serial.
    let before = serial(&directory);
    assert!(directory.run(&["rollover"]).status.success());
    let both = delegations(&directory);
    assert_eq!(both.len(), 6);
    directory.wait_for_keys(2);
    let begin = Instant::now();
    while serial(&directory) == before {
        assert!(begin.elapsed() < Duration::from_secs(20), "the serial does not rise");
    }
    let new: Vec<_> = both.iter().filter(|line| !old.contains(line)).cloned().collect();
    for anchors in [&old, &new] {
        let unbound = Unbound::start(&directory, &ZONES, anchors);
        assert_eq!(code(&unbound, "db.capsule.internal.", RecordType::A), (ResponseCode::NoError, true));
    }
    // Too early for the new one to sign; then without waiting.
    let early = directory.run(&["rollover"]);
    assert!(
        !early.status.success() && String::from_utf8_lossy(&early.stderr).contains("Again in"),
        "{early:?}"
    );
    assert!(directory.run(&["rollover", "--at-once"]).status.success());
    directory.wait_for_keys(1);
    assert_eq!(delegations(&directory), new);
    let after = Unbound::start(&directory, &ZONES, &new);
    assert_eq!(code(&after, "db.capsule.internal.", RecordType::A), (ResponseCode::NoError, true));
    let without = Unbound::start(&directory, &ZONES, &old);
    assert_eq!(code(&without, "db.capsule.internal.", RecordType::A).0, ResponseCode::ServFail);
}

#[tokio::test]
async fn a_directory_from_before_gets_a_key() {
    use std::os::unix::fs::MetadataExt as _;
    let mut directory = Directory::start();
    directory.stop();
    let file = directory.data().join("dnssec.json");
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let before = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    directory.serve();
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    assert_ne!(std::fs::read(&file).unwrap(), before);
    assert!(delv(&directory, directory.dns, ZONE, ZONE, "SOA").contains("; fully validated"));
}
