//! A host is declared gone: its capsules go on elsewhere, and it freezes its own copies when it was only cut off.

use std::time::Duration;

use serde_json::Value;
use testkit::{Host, wait_until};
use tests::{Fire, nothing_left_of, place};

const SOON: Duration = Duration::from_secs(60);

/// What a host says of its own copy of a capsule, of which there may be another elsewhere.
fn copy(host: &Host, name: &str) -> Option<Value> {
    let listed = host.capsule(["--json", "ps"]).ok().json();
    let all = listed["capsules"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|capsule| {
        capsule["name"] == name && capsule["host"] == host.name() && capsule["state"] == "superseded"
    })
}

/// The target runs it, cut off before anybody could hear so. A person declares it gone.
#[test]
fn a_host_that_was_only_cut_off_freezes_its_copy() {
    let mut fire = Fire::start("taken");
    let held = fire.target.hold_at("target-running");
    let mut moving = fire.begin_move("c");
    held.reached();
    fire.c.cut();
    fire.target.heal();
    held.let_go();
    fire.ticks.go_on();
    wait_until(SOON, "the source's waiting", || fire.source.log().contains("kept as it is"));
    // Its lease is good, as far as the directory knows.
    let refused = fire.b.capsule(["recover", "redis"]).exits(1);
    assert!(refused.stderr.contains("--host-is-gone"), "{refused:?}");
    let recovered = fire.b.capsule(["--json", "recover", "redis", "--host-is-gone"]).ok().json();
    assert_eq!((&recovered["host"], &recovered["generation"]), (&"a".into(), &3.into()), "{recovered}");
    moving.wait(SOON).exits(1);
    wait_until(SOON, "the capsule on a", || place(&fire.b, "redis").state == "running");
    fire.talk.goes_on();
    // It hears of it.
    fire.c.join();
    wait_until(SOON, "the freezing of the other copy", || copy(&fire.c, "redis").is_some());
    assert!(fire.target.log().contains("superseded"), "nothing of it in the log");
    fire.talk.goes_on();
    let kept = copy(&fire.c, "redis").expect("just seen");
    assert_eq!(kept["generation"], 2, "{kept}");
    // It stays so over a restart, and until somebody removes it.
    fire.target.restart();
    wait_until(SOON, "the copy after a restart", || copy(&fire.c, "redis").is_some());
    fire.talk.goes_on();
    let back = fire.begin_move("c").wait(SOON).exits(1);
    assert!(back.stderr.contains("redis"), "{back:?}");
    fire.talk.goes_on();
    fire.c.capsule(["rm", "--local", "redis"]).ok();
    nothing_left_of(&fire.c, &fire.id);
    fire.begin_move("c").wait(SOON).ok();
    fire.talk.goes_on();
    fire.end();
}

/// A host is removed by force while it runs a capsule: it freezes it, and a person goes on from that copy.
#[test]
fn a_removed_host_freezes_what_it_runs() {
    let mut fire = Fire::start("removed");
    let alive = fire.b.capsule(["hosts", "remove", "a"]).exits(1);
    assert!(alive.stderr.contains("--force"), "{alive:?}");
    let removed = fire.b.capsule(["--json", "hosts", "remove", "a", "--force"]).ok().json();
    assert_eq!(removed["capsules"], Value::from(vec!["redis"]), "{removed}");
    wait_until(SOON, "the loss of the capsule", || place(&fire.b, "redis").state == "lost");
    wait_until(SOON, "the freezing of what ran there", || fire.source.log().contains("superseded"));
    fire.ticks.stand_still();
    let none = fire.b.capsule(["recover", "redis"]).exits(1);
    assert!(none.stderr.contains("no-copy"), "{none:?}");
    // It joins again, and is told to go on from what it kept.
    fire.source.kill();
    fire.a.join_mesh(fire.mesh.directory()).ok();
    fire.source.restart();
    wait_until(SOON, "the copy after the restart", || copy(&fire.a, "redis").is_some());
    fire.ticks.stand_still();
    let recovered = fire.a.capsule(["--json", "recover", "redis"]).ok().json();
    assert_eq!(recovered["from"], "superseded", "{recovered}");
    fire.settles("a", "recovered on the host that was removed");
    fire.end();
}
