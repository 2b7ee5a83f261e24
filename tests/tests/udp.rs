//! Datagrams and pings between capsules that stay where they are.

use std::time::Duration;

use serde_json::Value;
use testkit::{Host, Mesh, Weather, wait_until};
use tests::{SOON, end, exec, locators, run, start, tool, wait_logged};

/// Empty, usual, at the edges of what a path takes, and the largest there is.
const SIZES: &str = "0,1,100,1200,1400,1452,1500,6500,9000,65000,65507";

/// Far less than a program waits for an answer.
const AT_ONCE_MS: f64 = 500.0;

#[track_caller]
fn echo(host: &Host, name: &str, flags: &[&str]) -> (String, String) {
    run(host, name, flags, &[&tool("udp"), "echo", "[::]:7000"]);
    wait_logged(host, name, "bound");
    locators(host, name)
}

#[track_caller]
fn idle(host: &Host, name: &str, flags: &[&str]) {
    run(host, name, flags, &["sleep", "600"]);
}

#[track_caller]
fn udp(host: &Host, capsule: &str, argv: &[&str]) -> Value {
    exec(host, capsule, &[&[tool("udp").as_str()], argv].concat()).ok().json()
}

/// What became of one datagram, and that it did not take long unless nothing came.
#[track_caller]
fn once(host: &Host, capsule: &str, place: &str) -> String {
    outcome(&udp(host, capsule, &["once", place]))
}

#[track_caller]
fn ping(host: &Host, capsule: &str, address: &str) -> String {
    outcome(&udp(host, capsule, &["ping", address]))
}

#[track_caller]
fn outcome(answer: &Value) -> String {
    let outcome = answer["outcome"].as_str().unwrap_or_default().to_owned();
    assert!(outcome == "nothing" || answer["ms"].as_f64().unwrap_or(f64::MAX) < AT_ONCE_MS, "late: {answer}");
    outcome
}

/// The UDP flows of a capsule, as `sessions` lists them.
#[track_caller]
fn flows(host: &Host, capsule: &str) -> Vec<Value> {
    let listed = host.capsule(["--json", "sessions", capsule]).ok().json();
    let all = listed["sessions"].as_array().cloned().unwrap_or_default();
    all.into_iter().filter(|session| session["kind"] == "udp").collect()
}

#[track_caller]
fn counts(host: &Host, capsule: &str) -> Value {
    host.capsule(["--json", "inspect", capsule]).ok().json()["datagrams"].clone()
}

#[test]
fn datagrams_of_any_size_go_both_ways_with_their_addresses() {
    let mesh = Mesh::running("udp", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let (v4, v6) = echo(&a, "echo", &[]);
    let places = [format!("{v4}:7000"), format!("[{v6}]:7000"), "echo.capsule.internal:7000".to_owned()];
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    for (host, name) in [(&b, "far"), (&a, "near")] {
        idle(host, name, &[]);
        let (own4, own6) = locators(host, name);
        let all = [&["sizes"], &places[..], &["--sizes", SIZES]].concat();
        assert_eq!(udp(host, name, &all)["exchanged"], 33);
        // From the very port that is listened on at the other side, as peers of a game do.
        let same_port = [&["sizes"], &places[..2], &["--sizes", "7,1200,65507", "--from", "7000"]].concat();
        assert_eq!(udp(host, name, &same_port)["exchanged"], 6);
        assert_eq!(udp(host, name, &["many", places[0], "--sockets", "150"])["exchanged"], 150);
        // The server saw the client's own addresses and ports, and nobody else's.
        let log = a.capsule(["logs", "echo"]).ok().stdout;
        for own in [format!("[::ffff:{own4}]:7000"), format!("[{own6}]:7000")] {
            assert!(log.contains(&own), "{own} is not in {log}");
        }
        let listed = flows(&b, name);
        let own = format!("{own4}:7000");
        let of_port: Vec<_> = listed.iter().filter(|flow| flow["local"] == own.as_str()).collect();
        assert_eq!(of_port.len(), 1, "{listed:?}");
        let flow = of_port[0];
        assert_eq!(flow["remote"], places[0], "{flow}");
        assert_eq!((&flow["direction"], &flow["peer_capsule"]), (&"out".into(), &"echo".into()), "{flow}");
        let counted = ["datagrams_in", "datagrams_out", "bytes_in", "bytes_out"].map(|of| flow[of].as_u64());
        assert_eq!(counted, [Some(3), Some(3), Some(66_714), Some(66_714)], "{flow}");
        // The other side has the same flow, seen from there.
        let there = flows(&a, "echo");
        let same =
            there.iter().find(|other| other["id"] == flow["id"]).unwrap_or_else(|| panic!("{there:?}"));
        assert_eq!((&same["remote"], &same["direction"]), (&flow["local"], &"in".into()), "{same}");
        let counted = counts(host, name);
        for lost in ["lost_no_room", "lost_too_late", "lost_nowhere", "lost_denied", "lost_misplaced"] {
            assert_eq!(counted[lost], 0, "{counted}");
        }
    }
    let (_, metrics) = b.http("/metrics").expect("metrics");
    // By three and two sockets, and by 150 more.
    let (flows, sent) = ("capsule_datagram_flows 155", "capsule_datagrams_total{direction=\"out\"} 189");
    for line in [flows, sent, "capsule_datagrams_lost_total{reason=\"no_room\"} 0"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    end(mesh);
}

#[test]
fn nobody_at_a_port_and_nobody_at_an_address_are_told() {
    let mesh = Mesh::running("udp-dead", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let (v4, v6) = echo(&a, "echo", &[]);
    for (host, name) in [(&b, "far"), (&a, "near")] {
        idle(host, name, &[]);
        for place in [v4.clone(), format!("[{v6}]")] {
            assert_eq!(once(host, name, &format!("{place}:7000")), "answered", "{name} {place}");
            assert_eq!(once(host, name, &format!("{place}:7001")), "ECONNREFUSED", "{name} {place}");
        }
        for address in [&v4, &v6] {
            assert_eq!(ping(host, name, address), "answered", "{name} {address}");
            let large = udp(host, name, &["ping", address, "--size", "8000"]);
            assert_eq!(outcome(&large), "answered", "{name} {address}");
        }
        for nobody in ["10.88.200.200", "fd88::dead:beef", "198.51.100.7"] {
            let place = if nobody.contains(':') { format!("[{nobody}]:53") } else { format!("{nobody}:53") };
            assert_eq!(once(host, name, &place), "EHOSTUNREACH", "{name} {nobody}");
            assert_eq!(ping(host, name, nobody), "EHOSTUNREACH", "{name} {nobody}");
        }
        // Its own addresses, which never leave it.
        let (own4, own6) = locators(host, name);
        for own in ["127.0.0.1", "::1", &own4, &own6] {
            assert_eq!(ping(host, name, own), "answered", "{name} {own}");
        }
    }
    // A ping is answered where the capsule is, and nowhere when it is nowhere.
    a.capsule(["rm", "--force", "echo"]).ok();
    for (host, name) in [(&b, "far"), (&a, "near")] {
        for (address, place) in [(&v4, format!("{v4}:7000")), (&v6, format!("[{v6}]:7000"))] {
            assert_eq!(ping(host, name, address), "EHOSTUNREACH", "{name} {address}");
            assert_eq!(once(host, name, &place), "EHOSTUNREACH", "{name} {place}");
        }
        assert!(counts(host, name)["lost_nowhere"].as_u64() >= Some(8), "{}", counts(host, name));
    }
    end(mesh);
}

#[test]
fn the_policy_holds_for_datagrams_and_lets_answers_back() {
    let mesh = Mesh::running("udp-policy", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let (v4, _) = echo(&a, "server", &["--owner", "ann"]);
    idle(&b, "client", &["--owner", "bob"]);
    let (client4, _) = echo(&b, "bobs", &["--owner", "bob"]);
    let place = format!("{v4}:7000");
    assert_eq!(once(&b, "client", &place), "EHOSTUNREACH");
    assert_eq!(ping(&b, "client", &v4), "EHOSTUNREACH");
    assert_eq!(counts(&a, "server")["lost_denied"], 2);
    let policy = a.capsule(["--json", "inspect", "server"]).ok().json()["policy"].clone();
    assert_eq!((&policy["denied_in"], &policy["last_denied"]["from"]), (&2.into(), &"client".into()));

    // By port; the answer needs no rule, also after the asker's host has forgotten everything.
    a.capsule(["policy", "allow", "bob/*", "ann/server", "7000"]).ok();
    assert_eq!(once(&b, "client", &place), "answered");
    assert_eq!(once(&b, "client", &format!("{v4}:7001")), "EHOSTUNREACH");
    assert_eq!(ping(&b, "client", &v4), "EHOSTUNREACH");
    b.kill_sidecar();
    b.start_sidecar();
    assert_eq!(once(&b, "client", &place), "answered");
    // What may be asked may not ask.
    assert_eq!(once(&a, "server", &format!("{client4}:7000")), "EHOSTUNREACH");
    // Every port, and with it a ping.
    a.capsule(["policy", "allow", "bob/client", "ann/server"]).ok();
    wait_until(SOON, "the rule to be known", || ping(&b, "client", &v4) == "answered");
    end(mesh);
}

/// On a path that takes no more than 1,452 bytes and loses some of them, large datagrams arrive whole and at once: they go
/// on streams, which repeat what is lost.
#[test]
fn a_lossy_path_takes_no_large_datagram() {
    let mesh = Mesh::new("udp-loss");
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    mesh.relay().carry(&a);
    mesh.relay().carry(&b);
    mesh.start(&["a", "b"]);
    let (v4, v6) = echo(&a, "echo", &[]);
    idle(&b, "far", &[]);
    start(&a, "other", &["sleep", "600"]);
    mesh.relay().set_weather(Weather {
        loss_percent: 2.0,
        delay: Duration::from_millis(5),
        ..Weather::default()
    });
    let sizes = vec!["65507"; 20].join(",");
    for place in [format!("{v4}:7000"), format!("[{v6}]:7000")] {
        assert_eq!(udp(&b, "far", &["sizes", &place, "--sizes", &sizes])["exchanged"], 20);
    }
    end(mesh);
}
