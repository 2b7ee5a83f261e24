//! What `connect` tells in cases that are harder than a port that is open or shut.

use std::time::Duration;

use serde_json::Value;
use testkit::{Host, Mesh, wait_until};
use tests::{
    FaultySidecar, SOON, capsule_file, end, exec, locators, redis_clients, resume, start, start_redis,
    suspend, tool, wait_logged,
};

#[track_caller]
fn probe(host: &Host, capsule: &str, argv: &[&str]) -> Value {
    exec(host, capsule, &[&[tool("probe").as_str()], argv].concat()).ok().json()
}

#[track_caller]
fn ms(answer: &Value) -> f64 {
    answer["ms"].as_f64().unwrap_or_else(|| panic!("no time in {answer}"))
}

/// Thousands of connects of one process that does not block: each has its own outcome, and all the right one.
#[test]
fn thousands_at_once_are_all_told_the_truth() {
    const COUNT: &str = "5000";
    let mesh = Mesh::running("crowd", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let line = format!("ulimit -n 8000; exec {} --listen [::]:7000 --hold 1", tool("connects"));
    start(&a, "server", &["sh", "-c", &line]);
    wait_logged(&a, "server", "listening on");
    start(&b, "shell", &["sleep", "600"]);
    let (v4, v6) = locators(&a, "server");
    for (place, outcome) in [
        (format!("{v4}:7000"), "connected"),
        (format!("[{v6}]:7001"), "ECONNREFUSED"),
        ("10.88.200.200:7000".to_owned(), "EHOSTUNREACH"),
    ] {
        let line = format!("ulimit -n 8000; exec {} crowd {place} --count {COUNT}", tool("probe"));
        let seen = exec(&b, "shell", &["sh", "-c", &line]).ok().json();
        eprintln!("{place}: {seen}");
        assert_eq!(seen["outcomes"], serde_json::json!({ outcome: 5000 }), "{place}: {seen}");
    }
    end(mesh);
}

/// A server that does not accept: its kernel takes what its backlog holds and lets the others wait.
#[test]
fn a_full_backlog_lets_others_wait() {
    let mesh = Mesh::running("full", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    start(&a, "server", &[&tool("probe"), "backlog", "[::]:7000", "--accept-after", "4"]);
    wait_logged(&a, "server", "listening");
    start(&b, "shell", &["sleep", "600"]);
    let (v4, _) = locators(&a, "server");
    let seen = probe(&b, "shell", &["crowd", &format!("{v4}:7000"), "--count", "6", "--limit", "1.5"]);
    let connected = seen["outcomes"]["connected"].as_u64().unwrap_or(0);
    assert!((1..6).contains(&connected), "{seen}");
    assert_eq!(seen["undecided"], 6 - connected, "{seen}");
    let seen = probe(&b, "shell", &["crowd", &format!("{v4}:7000"), "--count", "6"]);
    assert_eq!(seen["outcomes"], serde_json::json!({ "connected": 6 }), "{seen}");
    end(mesh);
}

/// What a program asked of its socket holds while nobody answers; and what it has given up does not happen later.
#[test]
fn time_limits_and_ports_of_programs_hold() {
    let mesh = Mesh::running("limits", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    start_redis(&a, "redis");
    start(&b, "shell", &["sleep", "600"]);
    let (v4, v6) = locators(&a, "redis");
    let own = locators(&b, "shell");
    let places = [(format!("{v4}:6379"), own.0), (format!("[{v6}]:6379"), format!("[{}]", own.1))];
    for (place, own) in &places {
        // Also from the port that is open at the other side.
        for port in ["7123", "6379"] {
            let seen = probe(&b, "shell", &["connect", place, "--from", port]);
            assert_eq!(seen["outcome"], "connected", "{seen}");
            assert_eq!(seen["local"], format!("{own}:{port}"), "{seen}");
        }
    }
    let connections = || -> u64 {
        let said = exec(&a, "redis", &["redis-cli", "info", "stats"]).ok().stdout;
        let count = said.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or_else(|| panic!("{said}"))
    };
    let before = connections();
    let file = capsule_file(&a, "redis");
    suspend(&a, "redis", &file, &[]);
    for (place, _) in &places {
        let timed_out = probe(&b, "shell", &["connect", place, "--user-timeout", "2000"]);
        assert_eq!(timed_out["outcome"], "ETIMEDOUT", "{timed_out}");
        assert!((1500.0..5000.0).contains(&ms(&timed_out)), "{timed_out}");
        // As connect(2) has it when SO_SNDTIMEO is over.
        let late = probe(&b, "shell", &["connect", place, "--send-timeout", "500"]);
        assert_eq!(late["outcome"], "EINPROGRESS", "{late}");
        assert!((400.0..2000.0).contains(&ms(&late)), "{late}");
        let left = probe(&b, "shell", &["connect", place, "--nonblocking", "--limit", "0.5"]);
        assert_eq!(left["outcome"], "EINPROGRESS", "{left}");
    }
    resume(&a, &file, &[]);
    wait_until(SOON, "the server to be reached again", || {
        probe(&b, "shell", &["connect", &places[0].0])["outcome"] == "connected"
    });
    std::thread::sleep(Duration::from_secs(1));
    // The one just now, and the one that asks.
    assert_eq!(connections(), before + 2, "the server saw connections that had been given up");
    end(mesh);
}

/// A sidecar that is killed when it has dialled a program, before that is on record: what the program has of it breaks,
/// and the connect, which was not answered, is made by the next sidecar.
#[test]
fn a_sidecar_is_killed_when_it_has_dialled() {
    let mesh = Mesh::new("dialled");
    mesh.start(&["a"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut sidecar = FaultySidecar::start(&b, mesh.directory());
    start_redis(&b, "redis");
    // It does not see what breaks, and closes nothing.
    let line = format!("{} --listen [::]:7000 --hold 1 & echo $! >/tmp/pid; wait", tool("connects"));
    start(&b, "idle", &["sh", "-c", &line]);
    wait_logged(&b, "idle", "listening on");
    exec(&b, "idle", &["sh", "-c", "kill -STOP $(cat /tmp/pid)"]).ok();
    start(&a, "shell", &["sleep", "600"]);
    let (redis, idle) = (locators(&b, "redis").0, format!("{}:7000", locators(&b, "idle").0));
    let probe = tool("probe");
    for connect in [&["redis-cli", "-h", &redis, "ping"][..], &[&probe, "crowd", &idle, "--count", "1"]] {
        sidecar.die_at("dialled");
        let answer = std::thread::scope(|scope| {
            let connecting = scope.spawn(|| exec(&a, "shell", connect));
            sidecar.died();
            sidecar.restart();
            connecting.join().expect("it does not panic")
        });
        let said = answer.ok().stdout;
        assert!(said.trim() == "PONG" || said.contains("\"connected\":1"), "{said}");
    }
    drop(sidecar);
    end(mesh);
}

/// A program that closes its socket while its connect is being decided leaves nothing at the server, also when that moves at
/// once, and makes no move wait.
#[test]
fn what_a_program_gives_up_is_gone_at_the_server() {
    let mesh = Mesh::running("abandon", &["a", "b", "c"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    start_redis(&a, "redis");
    start(&b, "shell", &["sleep", "600"]);
    let (v4, v6) = locators(&a, "redis");
    let places = [format!("{v4}:6379"), format!("[{v6}]:6379")];
    for to in ["c", "a"] {
        for (at, place) in places.iter().enumerate() {
            assert_eq!(probe(&b, "shell", &["abandon", place, "--count", "200"])["abandoned"], 200);
            // Of the first ones it moves away at once.
            if at == 0 {
                a.capsule(["move", "redis", "--to", to]).ok();
            }
            // Ten seconds would be too long: a server with a limit of connections turns others away meanwhile.
            let none = || redis_clients(&a, "redis").is_empty();
            wait_until(Duration::from_secs(5), "nothing is left of them", none);
        }
    }
    end(mesh);
}
