//! Programs that set TCP_USER_TIMEOUT keep their connections while the other side is away, and their setting after.

use std::time::{Duration, Instant};

use testkit::{Host, Mesh, wait_until};
use tests::{
    Peer, capsule_file, checked, end, ended, exec, resume, start, suspend, tool, try_resume, wait_logged,
};

/// What the program sets, in milliseconds.
const TIMEOUT_MS: u64 = 3000;
/// Its peer is away for so much longer that the kernel would have ended the connection.
const AWAY: Duration = Duration::from_secs(8);

/// Without the mesh, over plain loopback, a peer that takes nothing for so long ends the connection: what the other tests
/// wait for is long enough.
#[test]
fn plain_tcp_ends_it() {
    let mesh = Mesh::running("plain", &["a"]);
    let a = mesh.host("a");
    let peer = tool("stream-peer");
    let line = format!(
        "{peer} --listen 127.0.0.1:7000 --read-after 60 & sleep 1; \
         exec {} --connect 127.0.0.1:7000 --timeout-ms {TIMEOUT_MS} --rate 100000000",
        tool("impatient")
    );
    start(&a, "alone", &["sh", "-c", &line]);
    let summary = ended(&a, "alone", Duration::from_secs(30)).json();
    assert!(summary["error"].as_str().is_some_and(|error| error.contains("timed out")), "{summary}");
    end(mesh);
}

/// A partition, a kill of the sidecar in the middle of it, a suspend of the peer, a move, and a suspend of the program's
/// own capsule while its setting is aside.
#[test]
fn a_short_user_timeout_survives_every_absence() {
    let mesh = Mesh::new("patience");
    let (a, b, c) = (mesh.host("a"), mesh.host("b"), mesh.host("c"));
    for host in [&a, &b, &c] {
        // Full at once, so that bytes wait in the program's own socket.
        host.configure("buffer_session_bytes = 131072");
    }
    mesh.start(&["a", "b", "c"]);
    Peer::listen(&a, "sink", &[]);
    let program = tool("impatient");
    let timeout = TIMEOUT_MS.to_string();
    let argv = [program.as_str(), "--connect", "sink.capsule.internal:7000", "--timeout-ms", &timeout];
    start(&b, "source", &argv);
    wait_logged(&b, "source", &set(TIMEOUT_MS));

    // A partition, in which the sidecar is killed when the setting is aside.
    a.cut();
    let cut = Instant::now();
    shows(&b, "source", 0);
    b.kill_sidecar();
    std::thread::sleep(AWAY.saturating_sub(cut.elapsed()));
    b.start_sidecar();
    a.join();
    shows(&b, "source", TIMEOUT_MS);

    // The peer lies in a file.
    let file = capsule_file(&a, "sink");
    suspend(&a, "sink", &file, &[]);
    std::thread::sleep(AWAY);
    shows(&b, "source", 0);
    resume(&a, &file, &[]);
    shows(&b, "source", TIMEOUT_MS);

    // The program moves itself, which CRIU does not carry the setting for.
    let moved = b.capsule(["--json", "move", "source", "--to", "c"]).ok().json();
    assert_eq!(moved["sessions"], 1, "{moved}");
    shows(&c, "source", TIMEOUT_MS);

    // It lies in a file itself, with its setting aside, and comes back while its peer is away.
    a.cut();
    shows(&c, "source", 0);
    let file = capsule_file(&c, "source");
    suspend(&c, "source", &file, &[]);
    try_resume(&b, &file, &[]).ok();
    std::thread::sleep(AWAY);
    shows(&b, "source", 0);
    a.join();
    shows(&b, "source", TIMEOUT_MS);

    exec(&b, "source", &["touch", "/tmp/enough"]).ok();
    let summary = ended(&b, "source", Duration::from_secs(30)).json();
    assert_eq!(summary["error"], serde_json::Value::Null, "{summary}");
    let sent = summary["sent"].as_u64().expect("a number");
    checked(&ended(&a, "sink", Duration::from_secs(30)), 0, sent);
    end(mesh);
}

fn set(timeout_ms: u64) -> String {
    format!("time-out Ok({timeout_ms})")
}

/// Waits until the program itself sees this value.
#[track_caller]
fn shows(host: &Host, name: &str, timeout_ms: u64) {
    let wanted = set(timeout_ms);
    wait_until(Duration::from_secs(20), &format!("{name} to see {wanted}"), || {
        let logs = host.capsule(["logs", name]).ok();
        assert!(!logs.stdout.contains("error"), "{name} has ended: {}", logs.stdout);
        logs.stderr.lines().last().is_some_and(|line| line == wanted)
    });
}
