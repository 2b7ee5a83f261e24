//! Both ends of connections move at the same time.

use std::time::Duration;

use testkit::{Host, Mesh};
use tests::{Peer, checked, end, ended, place};

const SOON: Duration = Duration::from_secs(60);

/// Moves all of them at once, asked at one host.
#[track_caller]
fn at_once(host: &Host, moves: &[(&str, &str)]) {
    let begun: Vec<_> =
        moves.iter().map(|(name, to)| (name, to, host.spawn_capsule(["move", name, "--to", to]))).collect();
    for (name, to, mut moving) in begun {
        moving.wait(SOON).ok();
        let place = place(host, name);
        assert_eq!((place.host.as_str(), place.state.as_str()), (*to, "running"), "{name}");
    }
}

/// A stream with full queues both ways, and one that is closed in one direction from the beginning on, so that its ends
/// are in FIN_WAIT and CLOSE_WAIT: to each other's hosts, to the same host, and apart again.
#[test]
fn both_ends_at_once() {
    let mesh = Mesh::running("swap", &["a", "b", "c"]);
    let (a, b, c) = (mesh.host("a"), mesh.host("b"), mesh.host("c"));
    let full = ["--send", "64M", "--receive", "64M", "--read-rate", "5M"];
    Peer::listen(&a, "sink", &full);
    Peer::connect(&b, "source", "sink.capsule.internal:7000", &full);
    Peer::listen(&a, "half", &["--send", "48M", "--rate", "4M", "--receive", "1M"]);
    Peer::connect(&b, "closed", "half.capsule.internal:7000", &["--send", "1M", "--receive", "48M"]);
    for (of_a, of_b) in [("b", "a"), ("c", "c"), ("a", "b")] {
        at_once(&c, &[("sink", of_a), ("source", of_b)]);
        at_once(&c, &[("half", of_a), ("closed", of_b)]);
    }
    for name in ["sink", "source", "half", "closed"] {
        assert_eq!(place(&c, name).state, "running", "the moves took longer than the streams");
    }
    for name in ["sink", "source"] {
        checked(&ended(&c, name, SOON), 64 << 20, 64 << 20);
    }
    checked(&ended(&c, "half", SOON), 48 << 20, 1 << 20);
    checked(&ended(&c, "closed", SOON), 1 << 20, 48 << 20);
    end(mesh);
}
