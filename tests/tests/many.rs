//! Many connections at once, and those that come and go while a capsule moves.

use std::time::Duration;

use testkit::{Host, Mesh, wait_until};
use tests::{
    end, ended, exec, locators, move_to, places, redis_clients, start, start_redis, tool, wait_logged,
};

/// One server with several connections to each of several hosts, its own among them.
#[test]
fn a_server_with_peers_everywhere() {
    let mesh = Mesh::running("peers", &["a", "b", "c"]);
    let hosts = ["a", "b", "c"].map(|name| mesh.host(name));
    start_redis(&hosts[0], "redis");
    let mut clients = Vec::new();
    for host in &hosts {
        for number in 0..3 {
            let (capsule, key) =
                (format!("client-{}{number}", host.name()), format!("k{}{number}", host.name()));
            let argv = [
                tool("db-client"),
                "--redis".into(),
                "redis:6379".into(),
                "--name".into(),
                key,
                "--rate".into(),
                "100".into(),
                "--seconds".into(),
                "18".into(),
                "--json".into(),
            ];
            start(host, &capsule, &argv.each_ref().map(String::as_str));
            clients.push(capsule);
        }
    }
    wait_until(Duration::from_secs(10), "nine connections", || {
        redis_clients(&hosts[0], "redis").len() == clients.len()
    });
    let before = redis_clients(&hosts[0], "redis");
    for to in ["b", "c", "a"] {
        let moved = move_to(&hosts[0], "redis", to);
        assert_eq!(moved["sessions"], 9, "{moved}");
        assert_eq!(redis_clients(&hosts[0], "redis"), before, "on {to}");
    }
    // One of them meets its server, another leaves it.
    move_to(&hosts[0], "client-b0", "a");
    move_to(&hosts[0], "client-a0", "c");
    for place in places(&hosts[0]) {
        assert_eq!(place.state, "running", "the moves took longer than the load: {place:?}");
    }
    for client in clients {
        let summary = ended(&hosts[0], &client, Duration::from_secs(30)).json();
        assert_eq!((&summary["ok"], &summary["wrong"]), (&true.into(), &0.into()), "{client}: {summary}");
    }
    end(mesh);
}

/// A program that opens connections, uses each once and closes it, until it is told that it is enough.
#[track_caller]
fn connects(host: &Host, place: &str) {
    let line = ["--connect", place, "--parallel", "3", "--seconds", "240", "--until", "/tmp/enough"];
    start(host, "caller", &[&[tool("connects").as_str()], &line[..]].concat());
}

#[track_caller]
fn none_failed(host: &Host) {
    exec(host, "caller", &["touch", "/tmp/enough"]).ok();
    let seen = ended(host, "caller", Duration::from_secs(60)).json();
    eprintln!("{seen}");
    assert_eq!(seen["failed"], 0, "{seen}");
    assert!(seen["connections"].as_u64() > Some(500), "{seen}");
}

/// Connections that are opened while their server moves take until the move is over, and none fails.
#[test]
fn connects_to_a_server_that_moves() {
    let mesh = Mesh::running("called", &["a", "b", "c"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    start(&a, "server", &[&tool("connects"), "--listen", "[::]:7000"]);
    wait_logged(&a, "server", "listening");
    connects(&b, "server.capsule.internal:7000");
    for to in ["c", "b", "a"].repeat(6) {
        a.capsule(["--json", "move", "server", "--to", to]).ok();
    }
    none_failed(&a);
    end(mesh);
}

/// And those that a program opens while it moves itself.
#[test]
fn connects_of_a_client_that_moves() {
    let mesh = Mesh::running("caller", &["a", "b", "c"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    start(&a, "server", &[&tool("connects"), "--listen", "[::]:7000"]);
    wait_logged(&a, "server", "listening");
    let (v4, _) = locators(&b, "server");
    connects(&b, &format!("{v4}:7000"));
    for to in ["c", "a", "b"].repeat(6) {
        a.capsule(["--json", "move", "caller", "--to", to]).ok();
    }
    none_failed(&a);
    end(mesh);
}

/// A program that talks to its own locator: both ends of the connection are inside, and move.
#[test]
fn a_capsule_that_talks_to_itself() {
    let mesh = Mesh::running("itself", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let line = format!(
        "redis-server --save '' --protected-mode no & \
         while ! redis-cli ping; do sleep 0.1; done >/dev/null 2>&1; \
         {} --redis own.capsule.internal:6379 --seconds 8 --json >/tmp/summary; sleep 600",
        tool("db-client")
    );
    start(&a, "own", &["sh", "-c", &line]);
    wait_until(Duration::from_secs(10), "its connection", || !redis_clients(&a, "own").is_empty());
    for to in ["b", "a", "b"] {
        move_to(&a, "own", to);
    }
    let summary = exec(
        &b,
        "own",
        &["sh", "-c", "while ! grep -q ok /tmp/summary; do sleep 0.1; done; cat /tmp/summary"],
    );
    let summary = summary.ok().json();
    assert_eq!((&summary["ok"], &summary["wrong"]), (&true.into(), &0.into()), "{summary}");
    assert!(summary["operations"].as_u64() > Some(1000), "{summary}");
    end(mesh);
}
