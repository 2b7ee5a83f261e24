//! Links under what networks do: hosts change their addresses, a NAT forgets, packets are lost, late, doubled and out of
//! order, the network parts, a host sleeps, the directory is away.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::{Host, Mesh, Weather, wait_for, wait_until};
use tests::{Peer, Talk, checked, end, ended, exec, locators, move_to, place, start, start_redis, tool};

/// After a break was over, sessions may take so long to go on: 1 s as a rule, 2 s when both hosts have just dialled in
/// vain, and as much again for a busy machine.
const AT_ONCE: Duration = Duration::from_secs(4);

/// Links of these tests are given up after so long; a session that waited for that did not go on at once.
const LINK_IDLE_MS: f64 = 8000.0;

/// The link from one host to another, as the first one sees it.
#[track_caller]
fn link(from: &Host, to: &Host) -> Value {
    let listed = from.capsule(["--json", "hosts"]).ok().json();
    let all = listed["hosts"].as_array().cloned().unwrap_or_default();
    let found = all.into_iter().find(|host| host["name"] == to.name());
    found.unwrap_or_else(|| panic!("{} is not listed: {listed}", to.name()))["link"].clone()
}

#[track_caller]
fn number(link: &Value, name: &str) -> u64 {
    link[name].as_u64().unwrap_or_else(|| panic!("no {name} in {link}"))
}

/// Where a host is by the directory, as another one sees it.
fn listed_at(seen_by: &Host, host: &Host) -> String {
    let listed = seen_by.capsule(["--json", "hosts"]).ok().json();
    let all = listed["hosts"].as_array().cloned().unwrap_or_default();
    let found = all.into_iter().find(|listed| listed["name"] == host.name()).unwrap_or_default();
    found["addresses"][0].as_str().unwrap_or_default().to_owned()
}

/// The longest time without a byte, as the program saw it.
#[track_caller]
fn longest_gap_ms(summary: &Value) -> f64 {
    summary["longest_gap_ms"].as_f64().unwrap_or_else(|| panic!("{summary}"))
}

/// The side that dialled keeps its link from another address; the side that was dialled makes a new one from there.
#[test]
fn addresses_change_while_traffic_flows() {
    let mesh = Mesh::new("roam");
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    // One listens everywhere, the other at its one address, which it must leave.
    b.listen_everywhere();
    mesh.start(&["a", "b"]);
    let flags = ["--send", "32M", "--receive", "32M", "--rate", "3M"];
    Peer::listen(&a, "sink", &flags);
    Peer::connect(&b, "source", "sink.capsule.internal:7000", &flags);
    let mut talk = Talk::start(&a, &b);
    let (at_a, at_b) = (link(&a, &b), link(&b, &a));
    assert_eq!((number(&at_a, "path_changes"), number(&at_b, "path_checks")), (0, 0), "{at_a} {at_b}");

    // b dialled: its links migrate. Answers that came while the address was being changed say nothing about it.
    let took = talk.resumes(AT_ONCE, || b.readdress(1));
    wait_until(AT_ONCE, "a to hear b from elsewhere", || number(&link(&a, &b), "path_changes") >= 1);
    eprintln!("the dialling host's address changed: {} ms", took.as_millis());
    let (after_a, after_b) = (link(&a, &b), link(&b, &a));
    assert_eq!(after_a["serial"], at_a["serial"], "another link: {at_a} {after_a}");
    assert_eq!(after_b["serial"], at_b["serial"], "another link: {at_b} {after_b}");
    assert!(number(&after_b, "path_checks") >= 1 && number(&after_b, "rebinds") >= 1, "{after_b}");
    let new = format!("{}:4433", b.address());
    wait_until(AT_ONCE, "the directory to know b's address", || listed_at(&a, &b) == new);

    // a was dialled, at an address that it leaves: a new link from there, from a socket at the new address.
    let took = talk.resumes(AT_ONCE, || a.readdress(1));
    eprintln!("the dialled host's address changed: {} ms", took.as_millis());
    wait_until(AT_ONCE, "another link", || link(&b, &a)["serial"] != after_b["serial"]);
    let other = link(&b, &a);
    let new = format!("{}:4433", a.address());
    wait_until(AT_ONCE, "the directory to know a's address", || listed_at(&b, &a) == new);

    // That link was dialled by a, so that now a's migrates. Then both at once, within a link's life.
    let took = talk.resumes(AT_ONCE, || a.readdress(2));
    eprintln!("the other one's address changed: {} ms", took.as_millis());
    assert_eq!(link(&b, &a)["serial"], other["serial"], "another link");
    for (name, host) in [("source", &b), ("sink", &a)] {
        let summary = checked(&ended(host, name, Duration::from_secs(40)), 32 << 20, 32 << 20);
        assert!(longest_gap_ms(&summary) < LINK_IDLE_MS, "{summary}");
    }
    end(mesh);
}

/// Bad weather, a NAT that forgets, a network that parts in one direction and in both, and a host that sleeps.
#[test]
fn bad_networks_lose_no_byte() {
    let mesh = Mesh::new("weather");
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let relay = mesh.relay();
    for host in [&a, &b] {
        relay.carry(host);
        host.configure("link_idle_s = 4");
    }
    mesh.start(&["a", "b"]);
    let mut talk = Talk::start(&a, &b);
    let (delay, jitter) = (Duration::from_millis(50), Duration::from_millis(10));
    relay.set_weather(Weather { loss_percent: 5.0, duplicate_percent: 2.0, delay, jitter });
    let flags = ["--send", "384K", "--receive", "384K"];
    Peer::listen(&a, "far", &flags);
    Peer::connect(&b, "near", "far.capsule.internal:7000", &flags);
    for (name, host) in [("near", &b), ("far", &a)] {
        checked(&ended(host, name, Duration::from_secs(60)), 384 << 10, 384 << 10);
    }
    let (counts, seen) = (relay.counts(), link(&b, &a));
    assert!(counts.lost > 20 && counts.duplicated > 5, "{counts:?}");
    assert!(number(&seen, "lost_packets") > 5 && seen["rtt_ms"].as_f64() >= Some(100.0), "{seen}");
    talk.goes_on();
    relay.set_weather(Weather::default());

    let flags = ["--send", "64M", "--receive", "64M", "--rate", "2M"];
    Peer::listen(&a, "sink", &flags);
    Peer::connect(&b, "source", "sink.capsule.internal:7000", &flags);
    // A NAT forgets: the link goes on from another port.
    let (before, changes) = (link(&b, &a), number(&link(&a, &b), "path_changes"));
    let took = talk.resumes(AT_ONCE, || assert!(relay.rebind(&b) > 0));
    eprintln!("a NAT forgot: {} ms", took.as_millis());
    assert_eq!(link(&b, &a)["serial"], before["serial"], "another link");
    wait_until(AT_ONCE, "a to hear b from elsewhere", || number(&link(&a, &b), "path_changes") > changes);

    // Parted for longer than a link lives, then in one direction only, then for shorter.
    relay.part(&a, &b);
    sleep(Duration::from_secs(10));
    let held = a.capsule(["--json", "sessions", "sink"]).ok().json();
    assert_eq!(held["sessions"][0]["state"], "held", "{held}");
    eprintln!("parted for 10 s: {} ms", talk.resumes(AT_ONCE, || relay.heal()).as_millis());
    relay.cut(&a, &b);
    sleep(Duration::from_secs(6));
    eprintln!("cut in one direction for 6 s: {} ms", talk.resumes(AT_ONCE, || relay.heal()).as_millis());
    relay.part(&a, &b);
    sleep(Duration::from_millis(3500));
    eprintln!("parted for 3.5 s: {} ms", talk.resumes(AT_ONCE, || relay.heal()).as_millis());

    // b sleeps: its sidecar stands still and nothing comes or goes. The other side has given the link up meanwhile.
    relay.part(&a, &b);
    let pid = b.sidecar_pid().expect("it runs").to_string();
    b.run(["kill", "-STOP", &pid]).ok();
    sleep(Duration::from_secs(7));
    let took = talk.resumes(AT_ONCE, || {
        relay.heal();
        b.run(["kill", "-CONT", &pid]).ok();
    });
    eprintln!("asleep for 7 s: {} ms", took.as_millis());
    for (name, host) in [("source", &b), ("sink", &a)] {
        checked(&ended(host, name, Duration::from_secs(60)), 64 << 20, 64 << 20);
    }
    end(mesh);
}

/// Without a directory everything goes on that needs no decision of it.
#[test]
fn the_directory_is_away() {
    let mesh = Mesh::running("away", &["a", "b", "c"]);
    let (a, b, c) = (mesh.host("a"), mesh.host("b"), mesh.host("c"));
    let mut talk = Talk::start(&a, &b);
    start_redis(&a, "other");
    start(&c, "shell", &["sleep", "600"]);
    wait_for(AT_ONCE, "b to know everyone", || (place(&b, "shell").state == "running").then_some(()));
    // Its machine is cut off: nothing says that nobody listens, as it would when only the process is gone.
    mesh.directory().host().cut();
    let cut = Instant::now();
    talk.goes_on();
    // New connections, by name and locator, from a host that has no link to a yet and from one that has.
    let (other, _) = locators(&a, "other");
    for (host, capsule) in [(&c, "shell"), (&b, "counter")] {
        for to in ["other.capsule.internal:6379".to_owned(), format!("{other}:6379")] {
            let began = Instant::now();
            let client = tool("db-client");
            let argv = [client.as_str(), "--redis", &to, "--count", "20", "--json", "--name", "away"];
            let summary = exec(host, capsule, &argv).ok().json();
            assert_eq!(summary["operations"], 20, "{summary}");
            assert!(began.elapsed() < AT_ONCE * 2, "{capsule} to {to}: {:?}", began.elapsed());
        }
    }
    // They have ended as they would have: nothing of them waits for the directory.
    wait_until(AT_ONCE, "the end of these connections", || {
        let listed = a.capsule(["--json", "sessions", "other"]).ok().json();
        listed["sessions"].as_array().is_some_and(Vec::is_empty)
    });
    // A move needs the directory's word: it fails, and nothing has changed.
    let failed = a.capsule(["--json", "move", "redis", "--to", "b"]).exits(1);
    assert!(failed.json()["error"]["what"].as_str().is_some_and(|what| what.contains("redis")), "{failed:?}");
    talk.goes_on();
    // Longer than the lease.
    sleep(Duration::from_secs(18).saturating_sub(cut.elapsed()));
    talk.goes_on();
    mesh.directory().host().join();
    wait_until(Duration::from_secs(15), "the hosts to be seen again", || {
        let listed = a.capsule(["--json", "hosts"]).ok().json();
        let all = listed["hosts"].as_array().cloned().unwrap_or_default();
        all.len() == 3 && all.iter().all(|host| host["state"] == "ready")
    });
    let after = place(&a, "redis");
    assert_eq!((after.host.as_str(), after.state.as_str()), ("a", "running"), "{after:?}");
    move_to(&a, "redis", "b");
    talk.goes_on();
    end(mesh);
}

/// A verb that is passed on right after the other host's sidecar came back does not go into the link that died with the
/// one before.
#[test]
fn a_verb_reaches_a_sidecar_that_has_just_come_back() {
    let mesh = Mesh::running("anew", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    // No session: nobody but the verb uses the link.
    start(&b, "alone", &[&tool("ticker"), "/tmp/ticks"]);
    for _ in 0..4 {
        exec(&a, "alone", &["true"]).ok();
        let before = number(&link(&a, &b), "serial");
        b.kill_sidecar();
        b.start_sidecar();
        exec(&a, "alone", &["true"]).ok();
        assert_ne!(number(&link(&a, &b), "serial"), before, "the link of a sidecar that was killed");
    }
    end(mesh);
}
