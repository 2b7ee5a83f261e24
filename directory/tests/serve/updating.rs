//! Updates by DNS, made with `nsupdate` of BIND, and by hand where that would not do wrong.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::TSIG;
use hickory_proto::rr::rdata::tsig::{TsigAlgorithm, TsigError, make_tsig_record, message_tbs};
use hickory_proto::rr::{Name, RecordType, TSigner};

use super::dns::{by_tcp, by_udp, question, serial, texts, try_udp};
use super::dnssec::{ZONES, delv};
use super::process::{Directory, Host};

/// A folder of keys beside the directory's data, since those are in the settings that it starts with.
struct Keys(PathBuf);

impl Keys {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("capsule-keys-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let keys = Self(folder);
        for (file, key) in [("ann", "ann"), ("bob", "bob"), ("stranger", "stranger"), ("forged", "ann")] {
            let made = Command::new(env!("CARGO_BIN_EXE_capsule-directory"))
                .args(["key", "--name", key])
                .output()
                .unwrap();
            assert!(made.status.success(), "{made:?}");
            std::fs::write(keys.file(file), made.stdout).unwrap();
        }
        keys
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The directory knows the keys of two owners.
    fn settings(&self) -> &'static str {
        let part = |owner: &str| {
            let file = self.file(owner).display().to_string();
            format!("[[updaters]]\nowner = '{owner}'\nkey_name = '{owner}'\nkey_file = '{file}'\n")
        };
        // A few bytes for the life of a test process.
        [part("ann"), part("bob")].concat().leak()
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What `nsupdate` says; nothing when the update was made.
fn nsupdate(directory: &Directory, key: Option<&Path>, flags: &[&str], lines: &[&str]) -> String {
    let mut command = Command::new("nsupdate");
    command.args(["-t", "10", "-u", "3", "-r", "2"]).args(flags);
    if let Some(key) = key {
        command.arg("-k").arg(key);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nsupdate is there (package bind9-dnsutils)");
    let (ip, port) = (directory.dns.ip(), directory.dns.port());
    let script = format!("server {ip} {port}\nzone capsule.internal\n{}\nsend\n", lines.join("\n"));
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.success(), said.is_empty(), "{said}");
    said
}

async fn owned(host: &Host, name: &str, owner: &str) -> directory_api::CapsuleRecord {
    host.client.register(name.parse().unwrap(), owner.parse().unwrap()).await.unwrap()
}

fn asked(directory: &Directory, name: &str, kind: RecordType) -> Vec<String> {
    texts(&by_udp(directory.dns, &question(&format!("{name}.capsule.internal."), kind)))
}

#[tokio::test]
async fn an_owner_adds_records_which_stay_with_the_capsule() {
    let keys = Keys::new("adds");
    let mut directory = Directory::start_with(keys.settings());
    let (a, b) = (directory.host("a", 1001).await, directory.host("b", 1002).await);
    let db = owned(&a, "db", "ann").await;
    let (ann, before) = (keys.file("ann"), serial(&directory));
    let lines = [
        "update add db.capsule.internal 60 TXT \"contact=ann\" \"two\"",
        "update add _postgres._tcp.DB.capsule.internal 60 SRV 1 2 5432 db.capsule.internal.",
        "update add _postgres._tcp.db.capsule.internal 60 SRV 2 0 5433 db.capsule.internal.",
        "update add _acme-challenge.db.capsule.internal 60 TXT token",
    ];
    assert_eq!(nsupdate(&directory, Some(&ann), &[], &lines), "");
    assert_eq!(serial(&directory), before + 1, "one change");
    assert_eq!(nsupdate(&directory, Some(&ann), &["-v"], &lines), "", "by TCP, and nothing new");
    assert_eq!(serial(&directory), before + 1);
    let mut shown = a.client.added_records(db.id).await.unwrap();
    shown.sort_by(|one, other| (&one.below, &one.data).cmp(&(&other.below, &other.data)));
    let shown: Vec<_> = shown
        .iter()
        .map(|added| format!("{} {} {} {}", added.below, added.ttl_seconds, added.kind, added.data))
        .collect();
    let expected = [
        " 60 TXT \"contact=ann\" \"two\"",
        "_acme-challenge 60 TXT \"token\"",
        "_postgres._tcp 60 SRV 1 2 5432 db.capsule.internal.",
        "_postgres._tcp 60 SRV 2 0 5433 db.capsule.internal.",
    ];
    assert_eq!(shown, expected);
    let txt = asked(&directory, "db", RecordType::TXT);
    assert_eq!(txt.len(), 2, "{txt:?}");
    assert!(txt.iter().any(|text| text.contains("gen=1")), "{txt:?}");
    let services = by_udp(directory.dns, &question("_postgres._tcp.db.capsule.internal.", RecordType::SRV));
    assert_eq!(services.answers.len(), 2);
    assert!(services.additionals.iter().any(|record| record.data.to_string() == db.locators.v4.to_string()));
    for (name, kind, expected) in [
        ("db.capsule.internal.", "TXT", "; fully validated"),
        ("_postgres._tcp.db.capsule.internal.", "SRV", "; fully validated"),
        ("_acme-challenge.db.capsule.internal.", "TXT", "; fully validated"),
        ("_acme-challenge.db.capsule.internal.", "SRV", "ncache nxrrset"),
        ("_tcp.db.capsule.internal.", "SRV", "ncache nxrrset"),
        ("_x._tcp.db.capsule.internal.", "SRV", "ncache nxdomain"),
    ] {
        let said = delv(&directory, directory.dns, ZONES[0], name, kind);
        assert!(said.contains(expected) && said.contains("fully validated"), "{name} {kind}: {said}");
    }

    // Through a move and a crash.
    a.offer(&db, 1, &b).await;
    let db = b.claim(&db, 1).await;
    directory.kill();
    directory.serve();
    assert_eq!(asked(&directory, "_acme-challenge.db", RecordType::TXT), ["token"]);
    assert_eq!(asked(&directory, "_postgres._tcp.db", RecordType::SRV).len(), 2);

    let lines = [
        "update delete _postgres._tcp.db.capsule.internal SRV 2 0 5433 db.capsule.internal.",
        "update delete db.capsule.internal TXT",
        "update delete _acme-challenge.db.capsule.internal",
    ];
    assert_eq!(nsupdate(&directory, Some(&ann), &[], &lines), "");
    assert_eq!(asked(&directory, "_postgres._tcp.db", RecordType::SRV), ["1 2 5432 db.capsule.internal."]);
    assert!(asked(&directory, "db", RecordType::TXT).concat().contains("gen=2"), "the directory's own stays");
    assert!(asked(&directory, "_acme-challenge.db", RecordType::TXT).is_empty());

    // They go with the capsule: whoever gets its name begins without.
    b.client.remove(db.id, db.generation).await.unwrap();
    owned(&a, "db", "ann").await;
    assert!(asked(&directory, "_postgres._tcp.db", RecordType::SRV).is_empty());
    let gone = a.client.added_records(db.id).await.unwrap_err();
    assert!(matches!(gone.refusal(), Some(directory_api::ApiError::UnknownCapsule { .. })), "{gone}");
    let told = directory.run(&["audit"]);
    let told = String::from_utf8(told.stdout).unwrap();
    let line =
        "key ann of ann  update zone  capsule db: records of its owner's: @ 60 TXT \"contact=ann\" \"two\"; ";
    assert!(told.contains(line), "{told}");
}

#[tokio::test]
async fn what_may_not_be_changed_is_refused() {
    let keys = Keys::new("refuses");
    let directory = Directory::start_with(keys.settings());
    let a = directory.host("a", 1001).await;
    owned(&a, "db", "ann").await;
    owned(&a, "mail", "bob").await;
    let (ann, before) = (keys.file("ann"), serial(&directory));
    let good = "update add db.capsule.internal 60 TXT x";
    for (key, line, expected) in [
        (None, good, "REFUSED"),
        (Some("stranger"), good, "BADKEY"),
        (Some("forged"), good, "BADSIG"),
        (Some("bob"), good, "REFUSED"),
        (Some("ann"), "update add mail.capsule.internal 60 TXT x", "REFUSED"),
        (Some("ann"), "update add none.capsule.internal 60 TXT x", "REFUSED"),
        (Some("ann"), "update add capsule.internal 60 TXT x", "REFUSED"),
        (Some("ann"), "update add a.hosts.capsule.internal 60 TXT x", "REFUSED"),
        (Some("ann"), "update add db.capsule.internal 60 A 192.0.2.1", "REFUSED"),
        (Some("ann"), "update add x.db.capsule.internal 60 CNAME example.com.", "REFUSED"),
        (Some("ann"), "update add db.capsule.internal 60 TXT state=running", "REFUSED"),
        (Some("ann"), "update delete db.capsule.internal A", "REFUSED"),
        (Some("ann"), "update delete db.capsule.internal", "REFUSED"),
        (Some("ann"), "update delete _capsule._udp.db.capsule.internal SRV", "REFUSED"),
        (Some("ann"), "update add _capsule._udp.db.capsule.internal 1 SRV 0 0 1 evil.example.", "REFUSED"),
        (Some("ann"), "update add db.example.com 60 TXT x", "NOTZONE"),
    ] {
        for flags in [&[][..], &["-v"]] {
            let key = key.map(|key| keys.file(key));
            let said = nsupdate(&directory, key.as_deref(), flags, &[good, line]);
            assert!(said.contains(expected), "{key:?} {line}: {said}");
        }
    }
    for (line, expected) in [
        ("prereq nxdomain db.capsule.internal", "YXDOMAIN"),
        ("prereq yxdomain x.db.capsule.internal", "NXDOMAIN"),
        ("prereq nxrrset db.capsule.internal A", "YXRRSET"),
        ("prereq yxrrset db.capsule.internal SRV", "NXRRSET"),
        ("prereq yxrrset db.capsule.internal A 192.0.2.1", "NXRRSET"),
        ("prereq yxdomain example.com", "NOTZONE"),
    ] {
        let said = nsupdate(&directory, Some(&ann), &[], &[line, good]);
        assert!(said.contains(expected), "{line}: {said}");
    }
    assert_eq!(serial(&directory), before, "nothing was changed");
    let lines = ["prereq yxrrset db.capsule.internal A", "prereq nxdomain x.db.capsule.internal", good];
    assert_eq!(nsupdate(&directory, Some(&ann), &[], &lines), "");
    assert_eq!(serial(&directory), before + 1);
    // A key for updates opens nothing else.
    let transfer = Command::new("dig")
        .args([&format!("@{}", directory.dns.ip()), "-p", &directory.dns.port().to_string(), "-k"])
        .arg(&ann)
        .args(["capsule.internal", "AXFR"])
        .output()
        .expect("dig is there (package bind9-dnsutils)");
    let said = String::from_utf8_lossy(&transfer.stdout);
    assert!(said.contains("Transfer failed"), "{said}");
}

/// An update without changes, signed at a time.
fn signed(keys: &Keys, at: SystemTime, change: impl FnOnce(&mut Message)) -> Message {
    let text = std::fs::read_to_string(keys.file("ann")).unwrap();
    let secret = text.split('"').nth(3).unwrap();
    let secret = data_encoding::BASE64.decode(secret.as_bytes()).unwrap();
    let name = Name::from_ascii("ann.").unwrap();
    let signer = TSigner::new(secret, TsigAlgorithm::HmacSha256, name.clone(), 300).unwrap();
    let mut message = Message::new(4711, MessageType::Query, OpCode::Update);
    message.add_query(Query::query(Name::from_ascii("capsule.internal.").unwrap(), RecordType::SOA));
    change(&mut message);
    let seconds = at.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let unsigned = TSIG::new(TsigAlgorithm::HmacSha256, seconds, 300, vec![], 4711, None, vec![]);
    let tbs = message_tbs(&message, &unsigned, &name).unwrap();
    let mac = signer.sign(&tbs).unwrap();
    message.signature = Some(Box::new(make_tsig_record(name, unsigned.set_mac(mac))));
    message
}

#[tokio::test]
async fn signatures_of_another_time_and_odd_updates_are_refused_in_form() {
    let keys = Keys::new("time");
    let directory = Directory::start_with(keys.settings());
    let now = SystemTime::now();
    let good = by_tcp(directory.dns, &signed(&keys, now, |_| {}));
    assert_eq!(good.metadata.response_code, ResponseCode::NoError);
    assert!(good.signature.is_some(), "{good:?}");
    for at in [now - Duration::from_secs(400), now + Duration::from_secs(400)] {
        let late = by_tcp(directory.dns, &signed(&keys, at, |_| {}));
        assert_eq!(late.metadata.response_code, ResponseCode::NotAuth);
        let tsig = late.signature.unwrap().data;
        assert_eq!(tsig.error, Some(TsigError::BadTime));
        assert!(!tsig.mac.is_empty() && tsig.other.len() == 6, "{tsig:?}");
    }
    let other = |name: &str, kind| {
        let query = Query::query(Name::from_ascii(name).unwrap(), kind);
        let message = signed(&keys, now, |message| message.queries[0] = query);
        by_udp(directory.dns, &message).metadata.response_code
    };
    assert_eq!(other("capsule.internal.", RecordType::A), ResponseCode::FormErr);
    assert_eq!(other("example.com.", RecordType::SOA), ResponseCode::NotAuth);
    assert_eq!(other("db.capsule.internal.", RecordType::SOA), ResponseCode::NotAuth);
    assert_eq!(other("88.10.in-addr.arpa.", RecordType::SOA), ResponseCode::NoError, "nothing is to change");
    let none = signed(&keys, now, |message| message.queries.clear());
    assert_eq!(by_udp(directory.dns, &none).metadata.response_code, ResponseCode::FormErr);
    let mut answer = signed(&keys, now, |_| {});
    answer.metadata.message_type = MessageType::Response;
    assert!(try_udp(directory.dns, &answer, Duration::from_millis(300)).is_none(), "an answer gets none");
}
