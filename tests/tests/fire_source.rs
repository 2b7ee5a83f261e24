//! The sidecar of the source is killed (SIGKILL) in each phase of a move, and comes back.

use tests::Fire;

/// Every phase up to the moment before the key is sent.
const BEFORE_THE_KEY: [&str; 12] = [
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
];

#[test]
fn killed_before_the_key_it_goes_on_there() {
    let mut fire = Fire::start("source");
    for point in BEFORE_THE_KEY {
        fire.source.die_at(point);
        fire.move_fails();
        fire.source.died();
        fire.source.restart();
        fire.settles("a", point);
    }
    fire.begin_move("c").wait(std::time::Duration::from_secs(60)).ok();
    fire.settles("c", "after all that it still moves");
    fire.end();
}

#[test]
fn killed_after_the_key_the_directory_decides() {
    let mut fire = Fire::start("key");
    // Written down, and not sent.
    fire.source.die_at("key-sent");
    fire.move_fails();
    fire.source.died();
    fire.source.restart();
    fire.settles("a", "key-sent");

    // Killed while it undoes.
    fire.target.fail_at("target-gate");
    fire.source.die_at("undo");
    fire.move_fails();
    fire.source.died();
    fire.target.heal();
    fire.source.restart();
    fire.settles("a", "undo");

    // Sent; the target is about to claim when the source comes back: whoever asks first has it, and that is the source.
    let held = fire.target.hold_at("target-claim");
    let mut moving = fire.begin_move("c");
    held.reached();
    fire.source.kill();
    fire.source.restart();
    fire.ticks.go_on();
    fire.target.heal();
    held.let_go();
    moving.wait(std::time::Duration::from_secs(60)).exits(1);
    fire.settles("a", "target-claim");

    // The target has claimed, and does not run: the source that comes back keeps its copy, and asks.
    let held = fire.target.hold_at("target-claimed");
    let mut moving = fire.begin_move("c");
    held.reached();
    fire.source.kill();
    fire.source.restart();
    fire.ticks.stand_still();
    fire.target.heal();
    held.let_go();
    moving.wait(std::time::Duration::from_secs(60));
    fire.settles("c", "target-claimed");
    fire.back_to_a();

    // It runs there, and the source is killed before it has heard so, and again in the middle of the release.
    let held = fire.target.hold_at("target-running");
    let mut moving = fire.begin_move("c");
    held.reached();
    fire.source.kill();
    fire.target.heal();
    held.let_go();
    fire.source.restart();
    moving.wait(std::time::Duration::from_secs(60));
    fire.settles("c", "target-running");
    fire.back_to_a();
    fire.source.die_at("release");
    let mut moving = fire.begin_move("c");
    fire.source.died();
    fire.source.restart();
    moving.wait(std::time::Duration::from_secs(60));
    fire.settles("c", "release");
    fire.end();
}
