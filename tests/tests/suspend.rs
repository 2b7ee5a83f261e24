//! Capsules that lie in a file for a while, and go on elsewhere with their connections open.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::{Host, Mesh, wait_until};
use tests::{
    Peer, SOON, Talk, capsule_file, capsule_id, checked, end, ended, exec, move_to, nothing_left_of, place,
    refused, resume, start, suspend, tool, wait_logged,
};

const TO_SINK: &str = "sink.capsule.internal:7000";

/// A value of `TcpExt` in the network of a capsule.
#[track_caller]
fn tcp_counter(host: &Host, capsule: &str, name: &str) -> u64 {
    let text = exec(host, capsule, &["cat", "/proc/net/netstat"]).ok().stdout;
    let lines: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("TcpExt: ")).collect();
    let at = lines[0].split(' ').position(|known| known == name).expect("the kernel counts it");
    lines[1].split(' ').nth(at).expect("as many values as names").parse().expect("a number")
}

#[test]
fn redis_and_its_client_talk_on_after_suspends_of_both() {
    let mesh = Mesh::running("suspend", &["a", "b", "c"]);
    let (a, b, c) = (mesh.host("a"), mesh.host("b"), mesh.host("c"));
    let mut talk = Talk::start(&a, &b);
    let (file, id) = (capsule_file(&a, "redis"), capsule_id(&a, "redis"));
    let generation = place(&a, "redis").generation;
    let answer = suspend(&a, "redis", &file, &[]);
    assert_eq!((answer["from"].as_str(), answer["sessions"].as_u64()), (Some("a"), Some(1)), "{answer}");
    assert_eq!(answer["generation"], generation + 1);
    assert_eq!(fs::metadata(&file).expect("just written").permissions().mode() & 0o777, 0o600);
    nothing_left_of(&a, &id);
    // Its peer holds, and says for whom.
    let sessions = b.capsule(["--json", "sessions", "counter"]).ok().json();
    let held = &sessions["sessions"][0];
    assert_eq!((&held["state"], &held["peer_state"]), (&Value::from("held"), &Value::from("suspended")));
    let said = b.capsule(["stop", "redis"]).exits(1);
    assert!(said.stderr.contains("[capsule/suspended]"), "{said:?}");
    sleep(Duration::from_secs(2));
    let answer = resume(&c, &file, &[]);
    assert_eq!((answer["from"].as_str(), answer["generation"].as_u64()), (Some("a"), Some(generation + 2)));
    assert!(answer["suspended_s"].as_u64() >= Some(2), "{answer}");
    talk.goes_on();
    // Timestamps of the restored connections go on where they were: nothing was taken for old.
    assert_eq!(tcp_counter(&c, "redis", "PAWSEstab"), 0);
    refused(&b, "redis", &file, &[], "resume/already");
    talk.goes_on();
    // Its client too, with the capsule moved, the directory and the other sidecar started anew meanwhile.
    let counter = capsule_file(&b, "counter");
    suspend(&b, "counter", &counter, &[]);
    move_to(&c, "redis", "a");
    mesh.directory().kill();
    mesh.directory().start();
    a.kill_sidecar();
    a.start_sidecar();
    wait_until(SOON, "redis after its sidecar's death", || place(&a, "redis").state == "running");
    let answer = a.capsule(["--json", "resume", &counter.display().to_string(), "--to", "c"]).ok().json();
    assert_eq!((&answer["capsule"], &answer["to"]), (&Value::from("counter"), &Value::from("c")), "{answer}");
    talk.goes_on();
    assert_eq!(tcp_counter(&c, "counter", "PAWSEstab"), 0);
    end(mesh);
}

/// Whichever is resumed first, and wherever.
#[test]
fn with_both_ends_suspended_no_byte_is_lost() {
    let mesh = Mesh::running("both", &["a", "b", "c"]);
    let (a, b, c) = (mesh.host("a"), mesh.host("b"), mesh.host("c"));
    let flags = ["--send", "64M", "--receive", "64M", "--rate", "8M"];
    Peer::listen(&a, "sink", &flags);
    Peer::connect(&b, "source", TO_SINK, &flags);
    let (sink, source) = (capsule_file(&a, "sink"), capsule_file(&b, "source"));
    suspend(&a, "sink", &sink, &[]);
    suspend(&b, "source", &source, &[]);
    // The opener first, its peer on the host that it left.
    let answer = resume(&c, &source, &[]);
    assert!(answer["duration_ms"].as_f64() < Some(2500.0), "nobody waits for a suspended peer: {answer}");
    resume(&b, &sink, &[]);
    fs::remove_file(&sink).expect("it is there");
    fs::remove_file(&source).expect("it is there");
    sleep(Duration::from_secs(1));
    suspend(&c, "source", &source, &[]);
    suspend(&b, "sink", &sink, &[]);
    // The acceptor first, both on one host.
    resume(&a, &sink, &[]);
    resume(&a, &source, &[]);
    for name in ["sink", "source"] {
        checked(&ended(&a, name, Duration::from_secs(60)), 64 << 20, 64 << 20);
    }
    end(mesh);
}

#[test]
fn monotonic_clocks_do_not_jump() {
    let mesh = Mesh::running("clocks", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    start(&a, "clocks", &[&tool("probe"), "clocks"]);
    wait_logged(&a, "clocks", "monotonic");
    let last = |host: &Host| -> Value {
        let log = host.capsule(["logs", "clocks"]).ok().stdout;
        serde_json::from_str(log.lines().last().expect("it wrote")).expect("whole lines of JSON")
    };
    let file = capsule_file(&a, "clocks");
    suspend(&a, "clocks", &file, &[]);
    sleep(Duration::from_secs(5));
    resume(&b, &file, &[]);
    wait_until(SOON, "the clocks after the suspend", || last(&b)["realtime"].as_f64() > Some(5000.0));
    let seen = last(&b);
    eprintln!("longest steps: {seen}");
    for clock in ["monotonic", "boottime"] {
        assert!(seen[clock].as_f64() < Some(1000.0), "{clock} jumped: {seen}");
    }
    end(mesh);
}

/// Overwrites a byte.
fn damage(file: &Path, at: usize) {
    let mut bytes = fs::read(file).expect("the mesh's folder is ours");
    bytes[at] ^= 1;
    fs::write(file, bytes).expect("the mesh's folder is ours");
}

#[test]
fn no_other_file_is_taken() {
    let mesh = Mesh::running("files", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut talk = Talk::start(&a, &b);
    let (file, bad, id) = (capsule_file(&a, "redis"), capsule_file(&a, "bad"), capsule_id(&a, "redis"));
    suspend(&a, "redis", &file, &[]);
    let length = fs::metadata(&file).expect("just written").len() as usize;
    for at in [0, 20, 100, length / 2, length - 1] {
        fs::copy(&file, &bad).expect("the mesh's folder is ours");
        damage(&bad, at);
        let code = if at == 0 { "resume/foreign" } else { "resume/damaged" };
        refused(&b, "redis", &bad, &[], code);
    }
    let whole = fs::read(&file).expect("the mesh's folder is ours");
    fs::write(&bad, &whole[..length - 100]).expect("the mesh's folder is ours");
    refused(&b, "redis", &bad, &[], "resume/truncated");
    refused(&b, "redis", Path::new("/etc/hostname"), &[], "resume/foreign");
    refused(&b, "redis", Path::new("/nowhere"), &[], "resume/file");
    let passphrase = a.dir().join("passphrase");
    fs::write(&passphrase, "swordfish\n").expect("the mesh's folder is ours");
    let with = ["--passphrase-file", &passphrase.display().to_string()];
    refused(&b, "redis", &file, &with, "resume/key");
    nothing_left_of(&b, &id);
    // A file that is there is not replaced, and the capsule is not stopped for it.
    resume(&b, &file, &[]);
    let to = file.display().to_string();
    let said = b.capsule(["suspend", "redis", "--to", &to]).exits(1);
    assert!(said.stderr.contains("[suspend/file-exists]"), "{said:?}");
    talk.goes_on();
    assert_eq!(fs::read(&file).expect("it is there"), whole);
    // Encrypted: only with the passphrase.
    let locked = capsule_file(&a, "locked");
    suspend(&b, "redis", &locked, &with);
    refused(&b, "redis", &locked, &[], "resume/key");
    fs::write(&passphrase, "sword\n").expect("the mesh's folder is ours");
    refused(&b, "redis", &locked, &with, "resume/key");
    fs::write(&passphrase, "swordfish\n").expect("the mesh's folder is ours");
    // The file of the suspend before is of no use any more.
    let said = refused(&b, "redis", &file, &[], "resume/already");
    assert!(said.stdout.contains("suspended again"), "{said:?}");
    resume(&a, &locked, &with);
    talk.goes_on();
    // Of one that was removed there is nothing left to resume.
    fs::remove_file(&locked).expect("it is there");
    suspend(&a, "redis", &locked, &[]);
    b.capsule(["rm", "redis"]).ok();
    let said = b.capsule(["resume", &locked.display().to_string()]).exits(1);
    assert!(said.stderr.contains("[resume/removed]"), "{said:?}");
    end(mesh);
}

#[test]
fn one_of_many_wins() {
    let mesh = Mesh::running("many-resumes", &["a", "b", "c"]);
    let (a, b, c) = (mesh.host("a"), mesh.host("b"), mesh.host("c"));
    let mut talk = Talk::start(&a, &b);
    for _ in 0..2 {
        let file = capsule_file(&a, "redis");
        suspend(&b, "redis", &file, &[]);
        let to = file.display().to_string();
        let mut tries: Vec<_> =
            [&a, &b, &c].map(|host| host.spawn_capsule(["--json", "resume", &to])).into_iter().collect();
        let outcomes: Vec<_> = tries.iter_mut().map(|one| one.wait(SOON)).collect();
        let won = outcomes.iter().filter(|outcome| outcome.code == 0).count();
        assert_eq!(won, 1, "{outcomes:?}");
        for lost in outcomes.iter().filter(|outcome| outcome.code != 0) {
            assert_eq!(lost.json()["error"]["code"], "resume/already", "{lost:?}");
        }
        talk.goes_on();
        fs::remove_file(&file).expect("it is there");
    }
    end(mesh);
}

#[test]
fn connects_to_a_suspended_capsule_wait_or_fail() {
    let mesh = Mesh::new("connects");
    mesh.directory().start();
    let (a, b, c) = (mesh.host("a"), mesh.host("b"), mesh.host("c"));
    c.configure("suspended_connects = \"refuse\"\nhold_max_s = 2");
    mesh.start(&["a", "b", "c"]);
    // It lives on for a while when all has come, so that it can be seen to run.
    let flags = ["--receive", "64K", "--send", "64K", "--connections", "2", "--linger", "3"];
    Peer::listen(&a, "sink", &flags);
    Peer::connect(&b, "patient", TO_SINK, &["--send", "64K", "--receive", "64K", "--rate", "16K"]);
    let file = capsule_file(&a, "sink");
    suspend(&a, "sink", &file, &[]);
    start(&c, "hasty", &[&tool("probe"), "connect", TO_SINK]);
    let hasty: Value = serde_json::from_str(&ended(&c, "hasty", SOON).stdout).expect("one line of JSON");
    assert_eq!(hasty["outcome"], "EHOSTUNREACH", "{hasty}");
    assert!(hasty["ms"].as_f64() < Some(1000.0), "{hasty}");
    start(&b, "waits", &[&tool("probe"), "connect", TO_SINK]);
    sleep(Duration::from_secs(2));
    assert_eq!(place(&b, "waits").state, "running");
    let resumed = Instant::now();
    resume(&a, &file, &[]);
    let waited: Value = serde_json::from_str(&ended(&b, "waits", SOON).stdout).expect("one line of JSON");
    assert_eq!(waited["outcome"], "connected", "{waited}");
    assert!(waited["ms"].as_f64() > Some(2000.0), "{waited}");
    assert!(resumed.elapsed() < Duration::from_secs(5), "it heard of the resume at once: {waited}");
    // A hold may have a limit: on c, 2 s.
    Peer::listen(&a, "other", &["--receive", "1M"]);
    let to = "other.capsule.internal:7000";
    Peer::connect(&c, "bounded", to, &["--send", "1M", "--rate", "16K"]);
    let file = capsule_file(&a, "other");
    let began = Instant::now();
    suspend(&a, "other", &file, &[]);
    let bounded = ended(&c, "bounded", SOON);
    assert_ne!(bounded.code, 0, "{bounded:?}");
    assert!(began.elapsed() >= Duration::from_secs(2), "{bounded:?}");
    // Whoever comes back finds that its peer is gone.
    b.capsule(["resume", &file.display().to_string()]).ok();
    assert_ne!(ended(&b, "other", SOON).code, 0);
    end(mesh);
}
