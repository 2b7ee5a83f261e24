//! Where the two ends of a session are: the host that one left is gone, they part, they meet.

use std::net::{SocketAddr, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use testkit::{Mesh, wait_until};
use tests::{Peer, Talk, capsule_id, checked, end, ended, move_to, nothing_left_of, place, start};

/// The host that a capsule left dies, cable and all: nobody notices.
#[test]
fn the_host_that_was_left_dies() {
    let mesh = Mesh::running("dies", &["a", "b", "c"]);
    let (a, b, c) = (mesh.host("a"), mesh.host("b"), mesh.host("c"));
    let mut talk = Talk::start(&b, &b);
    // The talk is between b and b so far: its server goes to a, where it will leave from.
    move_to(&b, "redis", "a");
    let flags = ["--send", "64M", "--receive", "64M", "--rate", "3M"];
    Peer::listen(&a, "sink", &flags);
    Peer::connect(&b, "source", "sink.capsule.internal:7000", &flags);
    talk.goes_on();
    for name in ["redis", "sink"] {
        let id = capsule_id(&b, name);
        move_to(&b, name, "c");
        nothing_left_of(&a, &id);
    }
    a.kill();
    talk.goes_on();
    wait_until(Duration::from_secs(40), "the dead host to be noticed", || {
        let hosts = b.capsule(["--json", "hosts"]).ok().json();
        let all = hosts["hosts"].as_array().cloned().unwrap_or_default();
        all.iter().any(|host| host["name"] == "a" && host["state"] == "silent")
    });
    talk.goes_on();
    assert_eq!(place(&b, "redis").state, "running");
    checked(&ended(&b, "source", Duration::from_secs(60)), 64 << 20, 64 << 20);
    checked(&ended(&c, "sink", Duration::from_secs(60)), 64 << 20, 64 << 20);
    // And what is left of the mesh still moves.
    move_to(&c, "redis", "b");
    talk.goes_on();
    end(mesh);
}

/// Two capsules on one host part and meet again elsewhere, on one connection.
#[test]
fn a_session_from_local_to_remote_and_back() {
    let mesh = Mesh::running("meet", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut talk = Talk::start(&a, &a);
    let flags = ["--send", "96M", "--receive", "96M", "--rate", "6M"];
    Peer::listen(&a, "sink", &flags);
    Peer::connect(&a, "source", "sink.capsule.internal:7000", &flags);
    for (one, other) in [("redis", "counter"), ("sink", "source")] {
        move_to(&a, one, "b");
        talk.goes_on();
        move_to(&a, other, "b");
        talk.goes_on();
    }
    // Home again, the others first.
    for name in ["counter", "redis", "source", "sink"] {
        move_to(&b, name, "a");
        talk.goes_on();
    }
    for name in ["sink", "source"] {
        assert_eq!(place(&a, name).state, "running", "the moves took longer than the stream");
    }
    for name in ["sink", "source"] {
        checked(&ended(&a, name, Duration::from_secs(60)), 96 << 20, 96 << 20);
    }
    end(mesh);
}

/// The cable of a host is pulled for longer than a link lives without a word: nothing is lost.
#[test]
fn a_cable_is_pulled_and_plugged() {
    let mesh = Mesh::new("cable");
    mesh.directory().start();
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    for host in [&a, &b] {
        host.configure("link_idle_s = 3");
    }
    mesh.start(&["a", "b"]);
    let mut talk = Talk::start(&a, &b);
    let flags = ["--send", "48M", "--receive", "48M", "--rate", "4M"];
    Peer::listen(&a, "sink", &flags);
    Peer::connect(&b, "source", "sink.capsule.internal:7000", &flags);
    b.cut();
    sleep(Duration::from_secs(7));
    let held = a.capsule(["--json", "sessions", "sink"]).ok().json();
    assert_eq!(held["sessions"][0]["state"], "held", "{held}");
    b.join();
    wait_until(Duration::from_secs(10), "the talk", || {
        let listed = a.capsule(["--json", "sessions"]).ok().json();
        let sessions = listed["sessions"].as_array().cloned().unwrap_or_default();
        sessions.len() == 2 && sessions.iter().all(|session| session["state"] == "open")
    });
    talk.goes_on();
    checked(&ended(&a, "source", Duration::from_secs(60)), 48 << 20, 48 << 20);
    checked(&ended(&a, "sink", Duration::from_secs(60)), 48 << 20, 48 << 20);
    end(mesh);
}

/// After a move every host and the zone know the new place at once.
#[test]
fn a_move_is_known_everywhere_at_once() {
    let mesh = Mesh::running("known", &["a", "b", "c"]);
    let hosts = ["a", "b", "c"].map(|name| mesh.host(name));
    start(&hosts[0], "wanderer", &["sleep", "600"]);
    let locators = place(&hosts[0], "wanderer").locators;
    for to in ["b", "c", "a"] {
        let moved = move_to(&hosts[0], "wanderer", to);
        let server = mesh.directory().dns();
        let srv = hosts[0].inside(|| dns_srv(server, "_capsule._udp.wanderer.capsule.internal"));
        assert!(srv.contains(&format!("{to}.")), "SRV names {srv} after the move to {to}");
        for host in &hosts {
            let began = Instant::now();
            wait_until(Duration::from_secs(1), "the new place", || place(host, "wanderer").host == to);
            let seen = place(host, "wanderer");
            let asked = format!("{} after {:?}: {seen:?}", host.name(), began.elapsed());
            assert_eq!((seen.state.as_str(), &seen.locators), ("running", &locators), "{asked}");
            assert_eq!(moved["generation"], seen.generation, "{asked}");
        }
    }
    end(mesh);
}

/// The text of an SRV answer.
fn dns_srv(server: SocketAddr, name: &str) -> String {
    let mut query = Message::query();
    let name = Name::from_ascii(name).expect("a plain name");
    query.add_query(Query::query(name, RecordType::SRV));
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("not zero");
    socket.send_to(&query.to_vec().expect("a small message"), server).expect("the directory's host is there");
    let mut answer = [0; 4096];
    let length = socket.recv(&mut answer).expect("an answer of the directory");
    let answer = Message::from_vec(&answer[..length]).expect("a message");
    answer.answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>().join(" ")
}
