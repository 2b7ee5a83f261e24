//! Byte-checked streams while their ends move.

use std::time::Duration;

use testkit::Mesh;
use tests::{Peer, checked, end, ended, move_to, place};

const BYTES: u64 = 256 << 20;

/// Both directions at once, paced so that every move falls into the stream.
#[test]
fn both_directions_while_both_ends_move() {
    let mesh = Mesh::running("stream", &["a", "b", "c"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let flags = ["--send", "256M", "--receive", "256M", "--rate", "9M"];
    Peer::listen(&a, "sink", &flags);
    Peer::connect(&b, "source", "sink.capsule.internal:7000", &flags);
    for _ in 0..4 {
        for (name, to) in [("sink", "c"), ("source", "a"), ("sink", "b"), ("source", "c")] {
            move_to(&a, name, to);
        }
    }
    for name in ["sink", "source"] {
        assert_eq!(place(&a, name).state, "running", "the moves took longer than the stream");
    }
    for name in ["sink", "source"] {
        let summary = checked(&ended(&a, name, Duration::from_secs(60)), BYTES, BYTES);
        assert_eq!(summary["connections"][0]["same_addresses"], true, "{summary}");
    }
    end(mesh);
}

/// As fast as it goes, with both ends moving: queues are full when the freeze comes.
#[test]
fn full_queues_while_both_ends_move() {
    let mesh = Mesh::running("full", &["a", "b", "c"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let flags = ["--send", "64M", "--receive", "64M", "--read-rate", "5M"];
    Peer::listen(&a, "sink", &flags);
    Peer::connect(&b, "source", "sink.capsule.internal:7000", &flags);
    for (name, to) in [("sink", "c"), ("source", "a"), ("sink", "a"), ("source", "c")] {
        move_to(&a, name, to);
    }
    for name in ["sink", "source"] {
        assert_eq!(place(&a, name).state, "running", "the moves took longer than the stream");
    }
    for name in ["sink", "source"] {
        checked(&ended(&a, name, Duration::from_secs(60)), 64 << 20, 64 << 20);
    }
    end(mesh);
}
