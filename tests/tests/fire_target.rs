//! The sidecar of the target, or its whole host, is killed at each step of a move, and comes back.

use std::time::Duration;

use testkit::wait_until;
use tests::{Fire, place};

/// Steps of the target before it has the key.
const BEFORE_THE_KEY: [&str; 5] =
    ["target-sessions", "target-log", "target-image", "target-restore", "target-gate"];

const SOON: Duration = Duration::from_secs(60);

#[test]
fn killed_before_its_claim_the_source_goes_on() {
    let mut fire = Fire::start("target");
    // The key has come, and is not written down; then it is, and the claim is not made. The source revokes.
    for point in BEFORE_THE_KEY.into_iter().chain(["target-key", "target-claim"]) {
        fire.target.die_at(point);
        fire.move_fails();
        fire.target.died();
        if point == "target-claim" {
            // The source has had time to revoke: a claim that comes later gets nothing.
            fire.ticks.go_on();
        }
        fire.target.restart();
        fire.settles("a", point);
    }
    fire.end();
}

#[test]
fn killed_after_its_claim_it_goes_on_there() {
    let mut fire = Fire::start("claimed");
    // Claimed, and not thawed; thawed on paper, and the gate shut; the gate open, and nobody told.
    for point in ["claim-answer", "target-claimed", "target-thaw", "target-running"] {
        fire.target.die_at(point);
        let mut moving = fire.begin_move("c");
        fire.target.died();
        if point != "target-running" {
            fire.ticks.stand_still();
        }
        fire.target.restart();
        moving.wait(SOON).ok();
        fire.settles("c", point);
        fire.back_to_a();
    }
    fire.end();
}

/// Not killed: it can't let the capsule run, or the answer to its claim or to the source's revocation is lost.
#[test]
fn what_was_claimed_in_vain_is_given_back() {
    let mut fire = Fire::start("back");
    for point in ["target-claimed", "target-thaw"] {
        fire.target.fail_at(point);
        fire.move_fails();
        fire.target.heal();
        fire.settles("a", point);
    }
    // Both know only by asking again that the directory did what they asked.
    fire.target.fail_at("claim-answer");
    let mut moving = fire.begin_move("c");
    wait_until(SOON, "the claim", || place(&fire.b, "redis").host == "c");
    fire.ticks.stand_still();
    fire.target.heal();
    moving.wait(SOON).ok();
    fire.settles("c", "the answer to the claim is lost");
    fire.back_to_a();
    fire.target.die_at("target-key");
    fire.source.fail_at("revoke-answer");
    let mut moving = fire.begin_move("c");
    fire.target.died();
    wait_until(SOON, "the revocation", || place(&fire.b, "redis").state == "running");
    fire.ticks.stand_still();
    fire.source.heal();
    moving.wait(SOON).exits(1);
    fire.target.restart();
    fire.settles("a", "the answer to the revocation is lost");
    // A claim that comes after the revocation.
    let held = fire.target.hold_at("target-claim");
    let mut moving = fire.begin_move("c");
    held.reached();
    fire.c.cut();
    moving.wait(SOON).exits(1);
    fire.ticks.go_on();
    fire.c.join();
    fire.target.heal();
    held.let_go();
    fire.settles("a", "a late claim");
    fire.end();
}

/// The whole host dies, its capsules too, and comes back.
#[test]
fn when_its_host_dies() {
    let mut fire = Fire::start("host");
    // Before its claim: the source revokes. After it: the source waits, and gets the capsule back from the target.
    for point in ["target-claim", "target-claimed"] {
        let held = fire.target.hold_at(point);
        let mut moving = fire.begin_move("c");
        held.reached();
        fire.c.kill();
        if point == "target-claimed" {
            fire.ticks.stand_still();
            fire.c.join();
            fire.target.restart();
        }
        moving.wait(SOON).exits(1);
        fire.c.join();
        fire.target.restart();
        fire.settles("a", point);
    }
    // It may have run: only a person can say that the source's copy goes on.
    lost_with_its_host(&mut fire, "target-running");
    assert!(fire.answers());
    fire.end();
}

/// It was about to open the gate, and nobody can know that it had not: lost, though it made no step.
#[test]
fn when_its_host_dies_with_the_gate_shut() {
    let mut fire = Fire::start("shut");
    lost_with_its_host(&mut fire, "target-thaw");
    // Its copy is the only one that ever ran.
    fire.c.capsule(["rm", "--local", "redis"]).ok();
    fire.settles("a", "target-thaw");
    fire.begin_move("c").wait(SOON).ok();
    fire.settles("c", "after that it still moves");
    fire.end();
}

/// The target's host dies at this point, and the capsule is lost until a person has the source's copy go on.
#[track_caller]
fn lost_with_its_host(fire: &mut Fire, point: &str) {
    let waits = |fire: &Fire| fire.source.log().matches("kept as it is").count();
    let before = waits(fire);
    let held = fire.target.hold_at(point);
    let mut moving = fire.begin_move("c");
    held.reached();
    fire.c.kill();
    fire.c.join();
    fire.target.restart();
    wait_until(SOON, "the capsule's loss", || place(&fire.b, "redis").state == "lost");
    wait_until(SOON, "the source's waiting", || waits(fire) > before);
    fire.ticks.stand_still();
    let recovered = fire.b.capsule(["--json", "recover", "redis", "--host-is-gone"]).ok().json();
    assert_eq!((&recovered["host"], &recovered["from"]), (&"a".into(), &"move".into()), "{recovered}");
    moving.wait(SOON).exits(1);
    wait_until(SOON, "the capsule on a", || place(&fire.b, "redis").state == "running");
}
