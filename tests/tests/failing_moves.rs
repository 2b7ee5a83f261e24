//! A failure in each phase before the commit leaves the capsule where it was, with its sessions going on.

use std::time::Duration;

use testkit::{Host, Mesh, wait_until};
use tests::{
    FaultySidecar, Peer, SOON, Talk, capsule_id, checked, end, ended, exec, move_to, nothing_left_of,
    on_disk, place, start,
};

/// Every phase before the commit, and the gate at the target.
const POINTS: [&str; 13] = [
    "preflight",
    "files",
    "quiesce",
    "hold",
    "pause",
    "settle",
    "lock",
    "snapshot",
    "dump",
    "transfer",
    "restore",
    "claim",
    "target-gate",
];

/// What a target may take to clear up after a move that failed.
const CLEARED_WITHIN: Duration = Duration::from_secs(3);

struct Faulty {
    mesh: Mesh,
    a: Host,
    b: Host,
    c: Host,
    source: FaultySidecar,
    target: FaultySidecar,
}

/// Hosts a and c have sidecars with fault points; b is as ever.
fn faulty_mesh(name: &str) -> Faulty {
    let mesh = Mesh::running(name, &["b"]);
    let (a, b, c) = (mesh.host("a"), mesh.host("b"), mesh.host("c"));
    let source = FaultySidecar::start(&a, mesh.directory());
    let target = FaultySidecar::start(&c, mesh.directory());
    Faulty { mesh, a, b, c, source, target }
}

impl Faulty {
    /// Tries the move of `name` from a to c with a failure at `point`.
    #[track_caller]
    fn fails(&self, name: &str, point: &str) {
        let id = capsule_id(&self.a, name);
        self.source.fail_at(point);
        self.target.fail_at(point);
        let output = self.a.capsule(["move", name, "--to", "c"]);
        self.source.heal();
        self.target.heal();
        assert_eq!(output.code, 1, "{point}: {output:?}");
        for word in [format!("{name} stays on a and runs"), format!("fault point {point}")] {
            assert!(output.stderr.contains(&word), "{point}: nothing of {word:?} in {}", output.stderr);
        }
        let place = place(&self.b, name);
        assert_eq!(place.host, "a", "{point}: {place:?}");
        // The source does not wait for the target, which may have heard of the failure last.
        wait_until(CLEARED_WITHIN, &format!("the target's end of its copy ({point})"), || {
            !on_disk(&self.c, &id)
        });
        nothing_left_of(&self.c, &id);
    }

    /// Sidecars end before their mesh does, capsules before their sidecars.
    fn end(self, capsules: &[&str]) {
        for name in capsules {
            self.b.capsule(["rm", "--force", name]).ok();
        }
        drop((self.source, self.target));
        end(self.mesh);
    }
}

#[test]
fn in_each_phase_a_talk_goes_on() {
    let faulty = faulty_mesh("phases");
    let mut talk = Talk::start(&faulty.a, &faulty.b);
    for point in POINTS {
        faulty.fails("redis", point);
        talk.goes_on();
        wait_until(Duration::from_secs(5), "the offer's withdrawal", || {
            place(&faulty.b, "redis").state == "running"
        });
    }
    // After all that it still moves, there and back.
    move_to(&faulty.a, "redis", "c");
    talk.goes_on();
    move_to(&faulty.a, "redis", "a");
    talk.goes_on();
    faulty.end(&["redis", "counter"]);
}

/// In the phases that touch connections, with full queues both ways and connections not accepted yet.
#[test]
fn in_late_phases_no_byte_is_lost() {
    let faulty = faulty_mesh("late");
    let flags = ["--send", "48M", "--receive", "48M", "--read-rate", "2M"];
    Peer::listen(&faulty.a, "sink", &flags);
    Peer::connect(&faulty.b, "source", "sink.capsule.internal:7000", &flags);
    let each = ["--send", "64K", "--receive", "64K", "--connections", "4"];
    Peer::listen(&faulty.a, "server", &[&each[..], &["--accept-after", "18"]].concat());
    Peer::connect(&faulty.b, "clients", "server.capsule.internal:7000", &each);
    for point in ["hold", "snapshot", "transfer", "target-gate"] {
        faulty.fails("sink", point);
        faulty.fails("server", point);
    }
    for name in ["sink", "source"] {
        assert_eq!(place(&faulty.b, name).state, "running", "the failures took longer than the stream");
    }
    for name in ["server", "clients"] {
        checked(&ended(&faulty.b, name, Duration::from_secs(40)), 4 * (64 << 10), 4 * (64 << 10));
    }
    for name in ["sink", "source"] {
        checked(&ended(&faulty.b, name, Duration::from_secs(60)), 48 << 20, 48 << 20);
    }
    faulty.end(&["sink", "source", "server", "clients"]);
}

/// The target dies in the middle: the source notices, and the capsule goes on.
#[test]
fn when_the_target_dies() {
    let mesh = Mesh::new("dead");
    mesh.directory().start();
    let (a, b, c) = (mesh.host("a"), mesh.host("b"), mesh.host("c"));
    a.configure("link_idle_s = 3");
    mesh.start(&["a", "b", "c"]);
    let mut talk = Talk::start(&a, &b);
    // Files that take a while, so that the death comes in the middle.
    exec(&a, "redis", &["sh", "-c", "head -c 700000000 /dev/urandom > /var/tmp/heavy"]).ok();
    let mut moving = b.spawn_capsule(["move", "redis", "--to", "c"]);
    wait_until(SOON, "the files phase", || moving.stderr().contains("preflight"));
    c.kill();
    let seen = moving.wait(Duration::from_secs(30)).exits(1);
    assert!(seen.stderr.contains("redis stays on a and runs"), "{seen:?}");
    talk.goes_on();
    assert_eq!(place(&b, "redis").host, "a");
    move_to(&b, "redis", "b");
    talk.goes_on();
    end(mesh);
}

/// Whenever in its move that happens.
#[test]
fn a_program_that_ends_while_it_moves_has_ended() {
    let mesh = Mesh::running("ends", &["a", "b"]);
    let a = mesh.host("a");
    for lives_ms in (50..=400).step_by(50) {
        let (name, script) = (format!("short-{lives_ms}"), format!("sleep 0.{lives_ms:03}; exit 3"));
        start(&a, &name, &["sh", "-c", &script]);
        // It works or fails, as it comes.
        a.capsule(["move", &name, "--to", "b"]);
        wait_until(SOON, &format!("{name} to be stopped"), || place(&a, &name).state == "stopped");
        assert_eq!(ended(&a, &name, SOON).code, 3);
    }
    end(mesh);
}
