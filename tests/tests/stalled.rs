//! Programs that read nothing for long cost the others nothing.

use std::time::Duration;

use testkit::Mesh;
use tests::{Peer, Talk, checked, end, ended};

const CONNECTIONS: u64 = 40;
const BYTES_EACH: u64 = 12 << 20;

/// More bytes wait for a program that does not read than a link may carry unread; a talk between the same hosts goes on
/// all the while, and so does one on the reader's own host. When the program reads, it gets every byte.
#[test]
fn stalled_sessions_leave_the_link_to_others() {
    let mesh = Mesh::running("stalled", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut talk = Talk::start(&a, &b);
    let many = CONNECTIONS.to_string();
    let sink = ["--connections", &many, "--receive", "12M", "--read-after", "9"];
    let source = ["--connections", &many, "--send", "12M"];
    Peer::listen(&a, "sink", &sink);
    Peer::connect(&b, "source", "sink.capsule.internal:7000", &source);
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(1500));
        talk.goes_on();
    }
    let total = CONNECTIONS * BYTES_EACH;
    checked(&ended(&a, "sink", Duration::from_secs(60)), 0, total);
    checked(&ended(&a, "source", Duration::from_secs(60)), total, 0);
    talk.goes_on();
    // The same on one host, without a link.
    Peer::listen(&a, "sink2", &["--connections", "8", "--receive", "12M", "--read-after", "4"]);
    Peer::connect(&a, "source2", "sink2.capsule.internal:7000", &["--connections", "8", "--send", "12M"]);
    checked(&ended(&a, "sink2", Duration::from_secs(60)), 0, 8 * BYTES_EACH);
    end(mesh);
}
