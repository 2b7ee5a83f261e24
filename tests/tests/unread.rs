//! Bytes and connections that nobody has taken yet when their capsule moves.

use std::time::Duration;

use testkit::Mesh;
use tests::{Peer, checked, end, ended, move_to, place, start, tool, wait_logged};

/// Writes 4 MB, closes at once, and is gone to another host before the reader reads the first byte.
#[test]
fn four_megabytes_of_a_writer_that_closed_and_left() {
    let mesh = Mesh::running("unread", &["a", "b", "c"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let line =
        format!("{} --listen [::]:7000 --send 4M --close exit; echo closed; sleep 600", tool("stream-peer"));
    start(&a, "writer", &["sh", "-c", &line]);
    wait_logged(&a, "writer", "listening on");
    let late = ["--receive", "4M", "--read-after", "10", "--linger", "12"];
    Peer::connect(&b, "reader", "writer.capsule.internal:7000", &late);
    wait_logged(&a, "writer", "closed");
    move_to(&a, "writer", "c");
    assert_eq!(place(&b, "reader").state, "running");
    checked(&ended(&b, "reader", Duration::from_secs(30)), 0, 4 << 20);
    end(mesh);
}

/// The reader moves too, with all that it has not read.
#[test]
fn four_megabytes_for_a_reader_that_left() {
    let mesh = Mesh::running("late", &["a", "b", "c"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let line =
        format!("{} --listen [::]:7000 --send 4M --close exit; echo closed; sleep 600", tool("stream-peer"));
    start(&a, "writer", &["sh", "-c", &line]);
    wait_logged(&a, "writer", "listening on");
    let late = ["--receive", "4M", "--read-after", "10", "--linger", "12"];
    Peer::connect(&b, "reader", "writer.capsule.internal:7000", &late);
    wait_logged(&a, "writer", "closed");
    move_to(&b, "reader", "c");
    move_to(&a, "writer", "b");
    checked(&ended(&b, "reader", Duration::from_secs(30)), 0, 4 << 20);
    end(mesh);
}

/// Connections that wait in a backlog, with data and their end already sent, are accepted at the new host.
#[test]
fn connections_waiting_to_be_accepted() {
    let mesh = Mesh::running("backlog", &["a", "b", "c"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let each = ["--send", "256K", "--receive", "256K", "--connections", "8"];
    Peer::listen(&a, "server", &[&each[..], &["--accept-after", "10"]].concat());
    Peer::connect(&b, "clients", "server.capsule.internal:7000", &each);
    move_to(&a, "server", "c");
    assert!(!a.capsule(["logs", "server"]).stderr.contains("connected"), "accepted before the move");
    // 8 connections at each side, each with all of its bytes.
    checked(&ended(&b, "clients", Duration::from_secs(40)), 8 * (256 << 10), 8 * (256 << 10));
    checked(&ended(&b, "server", Duration::from_secs(40)), 8 * (256 << 10), 8 * (256 << 10));
    end(mesh);
}
