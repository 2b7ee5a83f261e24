//! Where the two ends of a session are: the host that one left is gone, they part, they meet.

use std::time::Duration;

use testkit::{Mesh, wait_until};
use tests::{Peer, Talk, capsule_id, checked, end, ended, move_to, nothing_left_of, place};

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
