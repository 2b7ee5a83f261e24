//! Connects that can't be held: the queue is full, or the kernel has none. A program sees its connection made first, and
//! reset when the far program does not take it.

use std::time::Duration;

use serde_json::Value;
use testkit::{Host, Mesh, wait_until};
use tests::{
    Ended, Peer, SOON, capsule_file, checked, end, ended, exec, locators, move_to, resume, start, suspend,
    tool, try_resume, wait_logged,
};

/// A mesh with hosts that take connects first.
fn mesh_without_queues(name: &str, with: &[&str], without: &[&str]) -> Mesh {
    let mesh = Mesh::new(name);
    mesh.directory().start();
    without.iter().for_each(|host| mesh.host(host).configure("hold_connects = false"));
    mesh.start(&[with, without].concat());
    mesh
}

#[track_caller]
fn probe(host: &Host, capsule: &str, argv: &[&str]) -> Value {
    exec(host, capsule, &[&[tool("probe").as_str()], argv].concat()).ok().json()
}

/// One figure of a host's metrics.
#[track_caller]
fn metric(host: &Host, name: &str) -> u64 {
    let (_, text) = host.http("/metrics").expect("metrics");
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[track_caller]
fn made_and_reset(host: &Host, capsule: &str, place: &str) {
    let seen = probe(host, capsule, &["outlive", place]);
    assert_eq!(
        (&seen["outcome"], &seen["end"]),
        (&"connected".into(), &"ECONNRESET".into()),
        "{place}: {seen}"
    );
}

/// What works goes on as ever, through moves of both ends; what does not is told by a reset.
#[test]
fn without_queues_connects_are_accepted_first() {
    let mesh = mesh_without_queues("unheld", &["a"], &["b", "c"]);
    let (a, b, c) = (mesh.host("a"), mesh.host("b"), mesh.host("c"));
    let told = b.capsule(["--json", "preflight"]).ok().json().to_string();
    assert!(told.contains("host/connects-not-held"), "{told}");
    let flags = ["--send", "24M", "--receive", "24M", "--rate", "6M"];
    Peer::listen(&a, "sink", &flags);
    start(&b, "shell", &["sleep", "600"]);
    let (v4, v6) = locators(&a, "sink");
    made_and_reset(&b, "shell", &format!("{v4}:7001"));
    made_and_reset(&b, "shell", &format!("[{v6}]:7001"));
    made_and_reset(&b, "shell", "10.88.200.200:7000");
    assert_eq!(metric(&b, "capsule_connects_reset_total"), 3);
    Peer::connect(&b, "source", "sink.capsule.internal:7000", &flags);
    move_to(&a, "source", "c");
    move_to(&a, "sink", "b");
    for name in ["sink", "source"] {
        let summary = checked(&ended(&a, name, Duration::from_secs(60)), 24 << 20, 24 << 20);
        assert_eq!(summary["connections"][0]["same_addresses"], true, "{summary}");
    }
    assert_eq!(metric(&b, "capsule_connects_accepted_first_total"), 4);
    assert_eq!(metric(&c, "capsule_connects_accepted_first_total"), 0);
    end(mesh);
}

/// The far side can't answer yet: the next sidecar asks again, and a capsule that leaves does not take it along.
#[test]
fn what_is_asked_for_outlives_the_sidecar_and_ends_with_a_move() {
    let mesh = mesh_without_queues("unheldask", &["a"], &["b", "c"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let flags = ["--send", "1M", "--receive", "1M"];
    Peer::listen(&a, "sink", &flags);
    let file = capsule_file(&a, "sink");
    suspend(&a, "sink", &file, &[]);
    let place = "sink.capsule.internal:7000";
    // It is told that it is connected, and writes.
    Peer::connect(&b, "source", place, &flags);
    for _ in 0..2 {
        b.kill_sidecar();
        b.start_sidecar();
    }
    start(&b, "leaver", &[&tool("probe"), "outlive", place, "--stay", "4"]);
    wait_logged(&b, "leaver", "connected");
    move_to(&b, "leaver", "c");
    let left = ended(&a, "leaver", SOON);
    assert_eq!(left.json()["end"], "ECONNRESET", "{left:?}");
    // It may have ended by the time that somebody asks for its state.
    try_resume(&a, &file, &[]).ok();
    for name in ["sink", "source"] {
        checked(&ended(&a, name, Duration::from_secs(30)), 1 << 20, 1 << 20);
    }
    assert_eq!(metric(&b, "capsule_connects_reset_total"), 1);
    end(mesh);
}

/// New connects wait while their capsule moves; each comes to be, or its reset is counted.
#[test]
fn connects_go_on_while_their_capsule_moves() {
    let mesh = mesh_without_queues("unheldmove", &["a"], &["b", "c"]);
    let (a, b, c) = (mesh.host("a"), mesh.host("b"), mesh.host("c"));
    let connects = tool("connects");
    start(&a, "server", &[&connects, "--listen", "[::]:9000"]);
    wait_logged(&a, "server", "listening on");
    let to = ["--connect", "server.capsule.internal:9000", "--parallel", "4", "--seconds", "9"];
    start(&b, "clients", &[&[connects.as_str()], &to[..]].concat());
    for to in ["c", "b", "c"] {
        std::thread::sleep(Duration::from_millis(700));
        // Not every connection that it leaves with lasts until it is there.
        b.capsule(["move", "clients", "--to", to]).ok();
    }
    let ended = ended(&a, "clients", Duration::from_secs(60));
    let summary: Value = serde_json::from_str(&ended.stdout).expect("one line of JSON");
    let reset = [&b, &c].map(|host| metric(host, "capsule_connects_reset_total")).iter().sum::<u64>();
    eprintln!("{summary}, {reset} reset");
    assert!(summary["failed"].as_u64() <= Some(reset), "{summary}, {reset} reset");
    assert!(summary["connections"].as_u64() > Some(500), "{summary}");
    end(mesh);
}

/// As many are held as may be, to a capsule that can't answer: one more waits, or is accepted first.
#[test]
fn one_more_than_is_held_waits_or_is_accepted() {
    let mesh = Mesh::new("heldfull");
    mesh.directory().start();
    let (a, b, c) = (mesh.host("a"), mesh.host("b"), mesh.host("c"));
    b.configure("held_connects_max = 2");
    c.configure("held_connects_max = 2\nheld_connects_full = \"accept\"");
    mesh.start(&["a", "b", "c"]);
    let connects = tool("connects");
    start(&a, "server", &[&connects, "--listen", "[::]:9000"]);
    start(&a, "away", &[&connects, "--listen", "[::]:9000"]);
    ["server", "away"].iter().for_each(|name| wait_logged(&a, name, "listening on"));
    let (open, (away, _)) = (locators(&a, "server"), locators(&a, "away"));
    let file = capsule_file(&a, "away");
    suspend(&a, "away", &file, &[]);
    let line = format!("{} crowd {away}:9000 --count 2 --limit 25; exec sleep 600", tool("probe"));
    for host in [&b, &c] {
        let name = format!("shell-{}", host.name());
        start(host, &name, &["sh", "-c", &line]);
        wait_logged(host, &name, "2 under way");
    }
    let (v4, v6) = (format!("{}:9000", open.0), format!("[{}]:9000", open.1));
    for place in [&v4, &v6] {
        let waits = probe(&b, "shell-b", &["connect", place, "--nonblocking", "--limit", "0.5"]);
        assert_eq!(waits["outcome"], "EINPROGRESS", "{waits}");
        let accepted = probe(&c, "shell-c", &["connect", place]);
        assert_eq!(accepted["outcome"], "connected", "{accepted}");
        assert!(accepted["ms"].as_f64() < Some(500.0), "{accepted}");
    }
    made_and_reset(&c, "shell-c", &format!("{}:9001", open.0));
    let echoes = exec(&c, "shell-c", &[&connects, "--connect", &v4, "--seconds", "0.5"]);
    assert_eq!(Ended::from(echoes).json()["failed"], 0);
    assert!(metric(&b, "capsule_connects_dropped_total{capsule=\"shell-b\"}") >= 2);
    assert_eq!(metric(&c, "capsule_connects_dropped_total{capsule=\"shell-c\"}"), 0);
    assert_eq!(metric(&b, "capsule_connects_accepted_first_total"), 0);
    assert!(metric(&c, "capsule_connects_accepted_first_total") > 3);
    assert_eq!(metric(&c, "capsule_connects_reset_total"), 1);
    // Those that are held come to be, and leave room.
    resume(&a, &file, &[]);
    for host in [&b, &c] {
        let name = format!("shell-{}", host.name());
        wait_logged(host, &name, "{\"connected\":2}");
        wait_until(SOON, "a connect that is held again", || {
            let before = metric(host, "capsule_connects_accepted_first_total");
            let seen = probe(host, &name, &["connect", &v4]);
            seen["outcome"] == "connected" && metric(host, "capsule_connects_accepted_first_total") == before
        });
    }
    end(mesh);
}
