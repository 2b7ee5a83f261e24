//! The directory is away at each moment of a move that matters.

use std::time::Duration;

use testkit::wait_until;
use tests::{Fire, place};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn the_directory_is_away() {
    let mut fire = Fire::start("away");
    // Before the offer: not moved.
    let held = fire.source.hold_at("preflight");
    let mut moving = fire.begin_move("c");
    held.reached();
    fire.mesh.directory().kill();
    fire.source.heal();
    held.let_go();
    moving.wait(SOON).exits(1);
    fire.ticks.go_on();
    fire.mesh.directory().start();
    fire.settles("a", "before the offer");
    // Between offer and claim: both stand still, late and never double.
    let held = fire.source.hold_at("quiesce");
    let mut moving = fire.begin_move("c");
    held.reached();
    fire.mesh.directory().kill();
    fire.source.heal();
    let claiming = fire.target.hold_at("target-claim");
    held.let_go();
    claiming.reached();
    fire.target.heal();
    claiming.let_go();
    fire.ticks.stand_still();
    fire.mesh.directory().start();
    moving.wait(SOON).ok();
    fire.settles("c", "at the claim");
    fire.back_to_a();
    // After the claim: it runs at once, and is shown so later.
    let held = fire.target.hold_at("target-claimed");
    let mut moving = fire.begin_move("c");
    held.reached();
    fire.mesh.directory().kill();
    fire.target.heal();
    held.let_go();
    fire.ticks.go_on();
    moving.wait(SOON).ok();
    fire.mesh.directory().start();
    fire.settles("c", "after the claim");
    fire.back_to_a();
    // In an undoing, whose offer is withdrawn later.
    let held = fire.source.hold_at("dump");
    let mut moving = fire.begin_move("c");
    held.reached();
    fire.mesh.directory().kill();
    fire.target.fail_at("target-gate");
    fire.source.heal();
    held.let_go();
    moving.wait(SOON).exits(1);
    fire.ticks.go_on();
    fire.target.heal();
    fire.mesh.directory().start();
    fire.settles("a", "in an undoing");
    fire.end();
}

/// Beside the directory somebody else is away too.
#[test]
fn the_directory_and_one_of_the_two_are_away() {
    let mut fire = Fire::start("both");
    // A source that comes back knows from its journal that it had not sent the key, and asks nobody.
    let held = fire.source.hold_at("transfer");
    let mut moving = fire.begin_move("c");
    held.reached();
    fire.mesh.directory().kill();
    fire.source.kill();
    fire.source.restart_alone();
    fire.ticks.go_on();
    fire.mesh.directory().start();
    fire.source.ready();
    moving.wait(SOON).exits(1);
    fire.settles("a", "the source, before the key");
    // One that had sent it stands still until the directory says whose it is.
    let held = fire.target.hold_at("target-key");
    let mut moving = fire.begin_move("c");
    held.reached();
    fire.mesh.directory().kill();
    fire.target.kill();
    fire.source.kill();
    fire.source.restart_alone();
    std::thread::sleep(Duration::from_secs(1));
    fire.ticks.stand_still();
    fire.mesh.directory().start();
    fire.source.ready();
    moving.wait(SOON).exits(1);
    fire.target.restart();
    fire.settles("a", "the source, after the key");
    // A target with the key stands at the gate until the directory answers its claim.
    let held = fire.target.hold_at("target-claim");
    let mut moving = fire.begin_move("c");
    held.reached();
    fire.mesh.directory().kill();
    fire.target.kill();
    fire.target.restart_alone();
    fire.ticks.stand_still();
    fire.mesh.directory().start();
    fire.target.ready();
    moving.wait(SOON);
    wait_until(SOON, "one place", || place(&fire.b, "redis").state == "running");
    let host = place(&fire.b, "redis").host;
    fire.settles(&host, "the target, before its claim");
    fire.end();
}
