//! Datagrams while capsules move and sidecars die.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::{Host, Mesh, wait_until};
use tests::{
    SOON, capsule_file, end, ended, exec, locators, move_to, place, resume, start, suspend, tool, wait_logged,
};

#[track_caller]
fn echo(host: &Host, name: &str) {
    start(host, name, &[&tool("udp"), "echo", "[::]:7000"]);
    wait_logged(host, name, "bound");
}

/// Starts a player that says something to the game sixty times a second.
#[track_caller]
fn play(host: &Host, seconds: u64) {
    let argv = [&tool("udp"), "flow", "game.capsule.internal:7000", "--seconds", &seconds.to_string()];
    start(host, "player", &argv);
    wait_logged(host, "player", "sending_to");
}

/// What the player saw: the last line that it printed.
#[track_caller]
fn played(host: &Host) -> Value {
    let seen = ended(host, "player", Duration::from_secs(60));
    assert_eq!(seen.code, 0, "{seen:?}");
    let last = seen.stdout.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error} in {seen:?}"))
}

/// What a host says of datagrams, by the names of the metrics.
#[track_caller]
fn metrics(host: &Host) -> BTreeMap<String, u64> {
    let (_, text) = host.http("/metrics").expect("metrics");
    let lines = text.lines().filter_map(|line| line.strip_prefix("capsule_datagram"));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, count)| (name.into(), count.parse().expect("a count")))
        .collect()
}

fn number(of: &Value, name: &str) -> u64 {
    of[name].as_u64().unwrap_or_else(|| panic!("no {name} in {of}"))
}

#[test]
fn a_game_goes_on_through_moves_of_both_sides() {
    const SECONDS: u64 = 20;
    let mesh = Mesh::running("game", &["a", "b", "c"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    echo(&a, "game");
    play(&b, SECONDS);
    let began = Instant::now();
    for (who, to) in
        [("game", "c"), ("player", "a"), ("game", "b"), ("player", "c"), ("game", "a"), ("player", "b")]
    {
        move_to(&a, who, to);
    }
    assert!(began.elapsed() < Duration::from_secs(SECONDS), "the moves took longer than the game");
    let seen = played(&a);
    eprintln!("three moves of each side: {seen}");
    let mut unread_bytes = 0;
    for host in [&a, &b, &mesh.host("c")] {
        let metrics = metrics(host);
        eprintln!("{}: {metrics:?}", host.name());
        unread_bytes += metrics["s_unread_bytes_total"];
    }
    assert_eq!(
        (number(&seen, "damaged"), number(&seen, "repeated"), number(&seen, "refused")),
        (0, 0, 0),
        "{seen}"
    );
    assert!(number(&seen, "sent") > SECONDS * 45, "{seen}");
    // What may be lost: datagrams in a socket that its program, which got no CPU in time, had not read when it was frozen:
    // CRIU captures no queue of a UDP socket. Each is counted with its 120 bytes or more.
    let lost = number(&seen, "lost");
    assert!(lost <= 6, "more than one a move was lost: {seen}");
    assert!(lost * 120 <= unread_bytes, "lost, and not counted as unread ({unread_bytes} bytes): {seen}");
    end(mesh);
}

/// The flow table is made again from what is sent; what programs send meanwhile waits in sockets that the shims hold.
#[test]
fn a_game_goes_on_when_sidecars_are_killed() {
    const SECONDS: u64 = 12;
    let mesh = Mesh::running("game-kill", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    echo(&a, "game");
    play(&b, SECONDS);
    for host in [&a, &b, &a, &b] {
        std::thread::sleep(Duration::from_millis(300));
        host.kill_sidecar();
        std::thread::sleep(Duration::from_millis(300));
        host.start_sidecar();
    }
    assert_eq!(place(&a, "player").state, "running", "the kills took longer than the game");
    // It is known again from what is sent.
    wait_until(SOON, "the flow to be listed", || {
        let listed = b.capsule(["--json", "sessions", "player"]).ok().json();
        listed["sessions"][0]["kind"] == "udp" && number(&listed["sessions"][0], "datagrams_in") > 0
    });
    let seen = played(&a);
    eprintln!("each sidecar killed twice: {seen}");
    assert_eq!((number(&seen, "damaged"), number(&seen, "refused")), (0, 0), "{seen}");
    // While its sidecar is dead, what is on the way to a host is lost.
    assert!(number(&seen, "answered") * 10 >= number(&seen, "sent") * 6, "{seen}");
    end(mesh);
}

#[test]
fn a_quic_connection_goes_on_through_moves_of_both_sides() {
    const SECONDS: u64 = 15;
    let mesh = Mesh::running("quic", &["a", "b", "c"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    start(&a, "server", &[&tool("quic"), "serve", "4433"]);
    wait_logged(&a, "server", "bound");
    let seconds = SECONDS.to_string();
    start(&b, "client", &[&tool("quic"), "ask", "server.capsule.internal:4433", "--seconds", &seconds]);
    wait_logged(&b, "client", "connected_to");
    for (who, to) in [("server", "c"), ("client", "a"), ("server", "b"), ("client", "c")] {
        move_to(&a, who, to);
    }
    assert_eq!(place(&a, "client").state, "running", "the moves took longer than the talk");
    let seen = ended(&a, "client", Duration::from_secs(60));
    assert_eq!(seen.code, 0, "{seen:?}");
    let summary: Value =
        serde_json::from_str(seen.stdout.lines().last().unwrap_or_default()).expect("a summary");
    eprintln!("two moves of each side: {summary}");
    assert!(number(&summary, "asked") > 200, "{summary}");
    end(mesh);
}

#[test]
fn every_query_of_a_dns_server_is_answered_while_it_moves() {
    const QUERIES: usize = 120;
    let mesh = Mesh::running("dns", &["a", "b", "c"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let settings = r#"server:
  interface: 0.0.0.0
  interface: ::0
  access-control: 0.0.0.0/0 allow
  access-control: ::0/0 allow
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  local-zone: "test." static
  local-data: "www.test. A 192.0.2.80"
"#;
    let line = format!(
        "cat > /etc/unbound-test.conf <<'END'\n{settings}END\nexec unbound -d -c /etc/unbound-test.conf"
    );
    start(&a, "dns", &["sh", "-c", &line]);
    wait_logged(&a, "dns", "start of service");
    // A query every tenth of a second, each tried once.
    let dig = "dig +tries=1 +time=5 +short @dns.capsule.internal www.test A";
    let line = format!("for n in $(seq {QUERIES}); do echo $n $({dig}); sleep 0.1; done");
    start(&b, "asker", &["sh", "-c", &line]);
    wait_logged(&b, "asker", "1 192.0.2.80");
    for to in ["c", "b", "a"] {
        move_to(&a, "dns", to);
    }
    assert_eq!(place(&a, "asker").state, "running", "the moves took longer than the queries");
    let seen = ended(&b, "asker", Duration::from_secs(60));
    let wanted: Vec<String> = (1..=QUERIES).map(|number| format!("{number} 192.0.2.80")).collect();
    assert_eq!(seen.stdout.lines().collect::<Vec<_>>(), wanted, "{}", seen.stderr);
    end(mesh);
}

/// What no image has is counted; what waits for a capsule that is away has a bound, and what is over it is counted.
#[test]
fn what_is_not_read_and_what_has_no_room_is_counted() {
    const SENT: u64 = 200;
    let mesh = Mesh::running("udp-bounds", &["a", "b", "c"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    start(&a, "deaf", &[&tool("udp"), "deaf", "[::]:7000"]);
    wait_logged(&a, "deaf", "bound");
    start(&b, "shell", &["sleep", "600"]);
    let send = |place: &str, count: &str, size: &str| {
        exec(&b, "shell", &[&tool("udp"), "send", place, "--count", count, "--size", size]).ok();
    };
    send("deaf.capsule.internal:7000", "10", "1000");
    wait_until(SOON, "the datagrams to arrive", || metrics(&a)["s_total{direction=\"in\"}"] == 10);
    move_to(&a, "deaf", "c");
    let unread = metrics(&a)["s_unread_bytes_total"];
    assert!((10_000..100_000).contains(&unread), "{unread} bytes unread of 10,000");

    // Nobody is there, and somebody will be.
    let place = format!("[{}]:7000", locators(&a, "deaf").1);
    let file = capsule_file(&a, "deaf");
    suspend(&a, "deaf", &file, &[]);
    send(&place, &SENT.to_string(), "60000");
    let waiting = metrics(&b);
    let lost = waiting["s_lost_total{reason=\"no_room\"}"];
    let kept = waiting["_waiting_bytes"];
    assert!(kept <= 4 << 20 && lost > 0, "{waiting:?}");
    // Each counts with 256 bytes more.
    assert_eq!(kept, (SENT - lost) * 60_256, "{waiting:?}");
    resume(&a, &file, &["--to", "c"]);
    wait_until(SOON, "what waited to be delivered", || {
        let listed = a.capsule(["--json", "sessions", "deaf"]).ok().json();
        let flows = listed["sessions"].as_array().cloned().unwrap_or_default();
        flows.iter().any(|flow| number(flow, "datagrams_in") == SENT - lost)
    });
    assert_eq!(metrics(&b)["_waiting_bytes"], 0);
    end(mesh);
}

/// Where datagrams are not to wait, those for a capsule in a file are dropped; the first one of all, for which the link has
/// to come up, is not, and a move goes by as ever.
#[test]
fn what_is_for_one_that_is_away_is_dropped_if_so_set() {
    let mesh = Mesh::new("udp-drop");
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    [&a, &b].iter().for_each(|host| host.configure("datagram_wait_ms = 0"));
    mesh.start(&["a", "b"]);
    echo(&a, "game");
    start(&b, "shell", &["sleep", "600"]);
    let place = format!("{}:7000", locators(&a, "game").0);
    let once = || exec(&b, "shell", &[&tool("udp"), "once", &place]).ok().json()["outcome"].clone();
    assert_eq!(once(), "answered");
    let file = capsule_file(&a, "game");
    suspend(&a, "game", &file, &[]);
    exec(&b, "shell", &[&tool("udp"), "send", &place, "--count", "20", "--size", "1000"]).ok();
    wait_until(SOON, "all to be dropped", || metrics(&b)["s_lost_total{reason=\"too_late\"}"] == 20);
    assert_eq!(metrics(&b)["_waiting_bytes"], 0);
    resume(&a, &file, &[]);
    assert_eq!(once(), "answered");
    assert_eq!(metrics(&b)["s_lost_total{reason=\"too_late\"}"], 20);
    move_to(&a, "game", "b");
    assert_eq!(once(), "answered");
    end(mesh);
}
