//! Sidecars that are killed and started again: programs and their connections never notice.

use std::time::Duration;

use testkit::{Host, Mesh};
use tests::{Peer, Talk, checked, end, ended, move_to, place, start, tool, wait_logged};

/// Kills the sidecar of a host, and starts the next one.
#[track_caller]
fn replace(host: &Host) {
    host.kill_sidecar();
    host.start_sidecar();
}

/// Bytes both ways on a paced stream, while each sidecar is killed three times and both ends move in between.
#[test]
fn a_stream_survives_the_sidecars_of_both_ends() {
    let mesh = Mesh::running("takeover", &["a", "b", "c"]);
    let hosts = ["a", "b", "c"].map(|name| mesh.host(name));
    let flags = ["--send", "192M", "--receive", "192M", "--rate", "9M"];
    Peer::listen(&hosts[0], "sink", &flags);
    Peer::connect(&hosts[1], "source", "sink.capsule.internal:7000", &flags);
    for to in ["c", "a", "b"] {
        for host in &hosts {
            replace(host);
        }
        move_to(&hosts[0], "sink", to);
    }
    for name in ["sink", "source"] {
        assert_eq!(place(&hosts[0], name).state, "running", "the kills took longer than the stream");
    }
    for name in ["sink", "source"] {
        let summary = checked(&ended(&hosts[0], name, Duration::from_secs(60)), 192 << 20, 192 << 20);
        assert_eq!(summary["connections"][0]["same_addresses"], true, "{summary}");
    }
    end(mesh);
}

/// Queues are full on both sides when the sidecars die, and both are away at once.
#[test]
fn full_queues_survive_both_sidecars_at_once() {
    let mesh = Mesh::running("takefull", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let flags = ["--send", "48M", "--receive", "48M", "--read-rate", "6M"];
    Peer::listen(&a, "sink", &flags);
    Peer::connect(&b, "source", "sink.capsule.internal:7000", &flags);
    for _ in 0..3 {
        a.kill_sidecar();
        b.kill_sidecar();
        std::thread::sleep(Duration::from_millis(300));
        b.start_sidecar();
        a.start_sidecar();
        std::thread::sleep(Duration::from_millis(300));
    }
    for name in ["sink", "source"] {
        checked(&ended(&a, name, Duration::from_secs(60)), 48 << 20, 48 << 20);
    }
    end(mesh);
}

/// A talk of two capsules on one host, and then on two; the sidecar ends on request as well as by force.
#[test]
fn a_talk_survives_its_sidecar_wherever_its_ends_are() {
    let mesh = Mesh::running("taketalk", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut talk = Talk::start(&a, &a);
    replace(&a);
    talk.goes_on();
    move_to(&a, "redis", "b");
    for host in [&a, &b] {
        host.stop_sidecar();
        host.start_sidecar();
        talk.goes_on();
        replace(host);
        talk.goes_on();
    }
    move_to(&a, "counter", "b");
    talk.goes_on();
    end(mesh);
}

/// Connections that are being opened when a sidecar dies come to be: the program waits a little, and nothing more.
#[test]
fn connects_in_the_making_survive() {
    let mesh = Mesh::running("takeopen", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let connects = tool("connects");
    start(&a, "server", &[&connects, "--listen", "[::]:9000"]);
    wait_logged(&a, "server", "listening on");
    let to = ["--connect", "server.capsule.internal:9000", "--parallel", "4", "--seconds", "20"];
    start(&b, "clients", &[&[connects.as_str()], &to[..]].concat());
    for _ in 0..3 {
        for host in [&a, &b] {
            std::thread::sleep(Duration::from_millis(700));
            replace(host);
        }
    }
    let summary = ended(&a, "clients", Duration::from_secs(60)).json();
    eprintln!("{summary}");
    assert_eq!(summary["failed"], 0, "{summary}");
    assert!(summary["connections"].as_u64() > Some(500), "{summary}");
    end(mesh);
}

/// A program that says everything, and ends while there is no sidecar: its peer gets all of it, and the end.
#[test]
fn last_words_survive() {
    let mesh = Mesh::running("takelast", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    Peer::listen(&a, "sink", &["--receive", "4M", "--read-rate", "2M"]);
    Peer::connect(&b, "source", "sink.capsule.internal:7000", &["--send", "4M"]);
    a.kill_sidecar();
    b.kill_sidecar();
    std::thread::sleep(Duration::from_secs(1));
    a.start_sidecar();
    b.start_sidecar();
    checked(&ended(&a, "sink", Duration::from_secs(30)), 0, 4 << 20);
    end(mesh);
}
