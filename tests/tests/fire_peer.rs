//! The sidecar of the peer's host is killed (SIGKILL) in each phase of a move: the move goes on, and its session attaches
//! when the sidecar is back.

use std::time::Duration;

use tests::{Fire, Held};

const SOON: Duration = Duration::from_secs(60);

/// The phases of the source in which the program runs.
const WHILE_IT_RUNS: [&str; 4] = ["preflight", "files", "quiesce", "hold"];

/// Those in which it stands still, up to the moment before the key is sent.
const WHILE_IT_STANDS: [&str; 8] =
    ["pause", "settle", "lock", "snapshot", "dump", "transfer", "restore", "claim"];

/// From there on.
const OF_THE_COMMIT: [&str; 8] = [
    "key-sent",
    "target-gate",
    "target-key",
    "target-claim",
    "claim-answer",
    "target-claimed",
    "target-thaw",
    "target-running",
];

/// Holds the move that leaves for `to` at a point of its source or its target.
fn hold(fire: &Fire, point: &str, to: &str) -> Held {
    let of_the_target = point.starts_with("target") || point == "claim-answer";
    // The moves go from a to c and back.
    if of_the_target == (to == "a") { fire.source.hold_at(point) } else { fire.target.hold_at(point) }
}

#[track_caller]
fn killed_at_each(name: &str, points: &[&str]) -> Fire {
    let mut fire = Fire::start(name);
    for (point, to) in points.iter().zip(["c", "a"].into_iter().cycle()) {
        let held = hold(&fire, point, to);
        // The peer's own sidecar is the one that dies.
        let mut moving = fire.a.spawn_capsule(["move", "redis", "--to", to]);
        held.reached();
        fire.b.kill_sidecar();
        fire.source.heal();
        fire.target.heal();
        held.let_go();
        moving.wait(SOON).ok();
        fire.b.start_sidecar();
        fire.settles(to, point);
    }
    fire
}

#[test]
fn killed_while_the_program_runs() {
    let mut fire = killed_at_each("peer", &WHILE_IT_RUNS);
    // Cut off while the amounts are agreed: the move waits for it no longer than it may, and it attaches later.
    let held = hold(&fire, "hold", "c");
    let mut moving = fire.a.spawn_capsule(["move", "redis", "--to", "c"]);
    held.reached();
    fire.b.cut();
    fire.source.heal();
    held.let_go();
    moving.wait(SOON).ok();
    fire.b.join();
    fire.settles("c", "a peer that is cut off");
    fire.end();
}

#[test]
fn killed_while_the_program_stands_still() {
    killed_at_each("peer-paused", &WHILE_IT_STANDS).end();
}

#[test]
fn killed_in_the_commit() {
    killed_at_each("peer-late", &OF_THE_COMMIT).end();
}
