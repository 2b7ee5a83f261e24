//! What a connection may have to bear in its life, one thing after the other.

use std::thread::sleep;
use std::time::Duration;

use testkit::{Host, Mesh, program};
use tests::{Peer, checked, end, ended, move_to, place, start, tool, wait_logged};

#[track_caller]
fn replace(host: &Host) {
    host.kill_sidecar();
    host.start_sidecar();
}

#[track_caller]
fn upgrade(host: &Host) {
    let (sidecar, data) = (program("capsule-sidecar"), host.data());
    host.run([sidecar.as_os_str(), "upgrade".as_ref(), "--data".as_ref(), data.as_os_str()]).ok();
}

/// A gibibyte at a steady pace, and bytes the other way: three kills and an upgrade of each sidecar, five moves and a
/// suspend on the way.
#[test]
fn a_gibibyte_through_everything() {
    let mesh = Mesh::running("gibibyte", &["a", "b", "c"]);
    let hosts = ["a", "b", "c"].map(|name| mesh.host(name));
    Peer::listen(&hosts[0], "sink", &["--send", "128M", "--receive", "1G", "--rate", "3M"]);
    let flags = ["--send", "1G", "--receive", "128M", "--rate", "22M"];
    Peer::connect(&hosts[1], "source", "sink.capsule.internal:7000", &flags);
    for moves in [&[("sink", "c"), ("source", "a")][..], &[("sink", "b")], &[("source", "c"), ("sink", "a")]]
    {
        hosts.iter().for_each(replace);
        for (name, to) in moves {
            move_to(&hosts[0], name, to);
        }
    }
    hosts.iter().for_each(upgrade);
    let file = mesh.dir().join("sink.capsule").display().to_string();
    hosts[0].capsule(["suspend", "sink", "--to", &file]).ok();
    sleep(Duration::from_secs(2));
    hosts[1].capsule(["resume", &file]).ok();
    for name in ["sink", "source"] {
        assert_eq!(place(&hosts[0], name).state, "running", "all that took longer than the stream");
    }
    for (name, sent, received) in [("source", 1 << 30, 128 << 20), ("sink", 128 << 20, 1 << 30)] {
        let summary = checked(&ended(&hosts[0], name, Duration::from_secs(120)), sent, received);
        assert_eq!(summary["connections"][0]["same_addresses"], true, "{summary}");
    }
    end(mesh);
}

/// A thousand connections on which nothing is said bear a move, an upgrade and a minute without a network; what each
/// costs the sidecar is bounded.
#[test]
fn a_thousand_idle_connections() {
    const CONNECTIONS: u64 = 1000;
    /// Bytes of a sidecar's resident memory for an idle session, with room for the allocator's moods.
    const BYTES_EACH_MAX: u64 = 48 << 10;
    let mesh = Mesh::running("idle", &["a", "b", "c"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let connects = tool("connects");
    start(&a, "server", &[&connects, "--listen", "[::]:9000", "--hold", "0"]);
    wait_logged(&a, "server", "listening on");
    let resident = |host: &Host| {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", host.sidecar_pid().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim();
        line.trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    };
    let before = resident(&b);
    let count = CONNECTIONS.to_string();
    let to = ["--connect", "server.capsule.internal:9000", "--hold", &count, "--seconds", "85"];
    start(&b, "clients", &[&[connects.as_str()], &to[..]].concat());
    wait_logged(&b, "clients", "are open after");
    let each = resident(&b).saturating_sub(before) / CONNECTIONS;
    eprintln!("{each} bytes for an idle session");
    assert!(each < BYTES_EACH_MAX, "{each} bytes for an idle session");
    let moved = move_to(&a, "server", "c");
    assert_eq!(moved["sessions"], CONNECTIONS, "{moved}");
    [&b, &mesh.host("c")].into_iter().for_each(upgrade);
    b.cut();
    sleep(Duration::from_secs(60));
    b.join();
    let summary = ended(&a, "clients", Duration::from_secs(90)).json();
    assert_eq!(
        (&summary["held"], &summary["alive"]),
        (&CONNECTIONS.into(), &CONNECTIONS.into()),
        "{summary}"
    );
    end(mesh);
}
