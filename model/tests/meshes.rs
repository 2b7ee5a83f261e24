//! Whole meshes under virtual time: hosts, links, the directory's real rules, and sessions on the real cores.
//!
//! A seed makes a plan: hosts, capsules, connections between them, and which faults there are. Capsules move and are
//! suspended, sidecars die, the network parts, the directory is away; every byte of every session is checked in both
//! directions. When the faults are over, every session has to end, with every byte in its place.
//!
//! `MESH_SEED=n` replays one seed with a trace, `MESH_SEEDS=n` sets how many are tried. A seed that fails is tried again
//! without one fault after another; what remains is printed and traced.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    unreachable_pub,
    dead_code,
    reason = "a test that traces what it does, with parts of another one"
)]

#[path = "../../overlay-proto/tests/simulation/kernel.rs"]
mod kernel;
#[path = "../../overlay-proto/tests/simulation/network.rs"]
mod network;
#[path = "../../overlay-proto/tests/simulation/side.rs"]
mod side;
#[path = "../../overlay-proto/tests/simulation/tape.rs"]
mod tape;

#[path = "meshes/directory.rs"]
mod directory;
#[path = "meshes/moves.rs"]
mod moves;
#[path = "meshes/plan.rs"]
mod plan;
#[path = "meshes/shells.rs"]
mod shells;
#[path = "meshes/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use plan::{Fault, Plan};
use world::World;

const SEEDS: u64 = 16_000;

/// What the seeds have to reach, or they prove little.
const REACHED: &[&str] = &[
    "moved",
    "both ends left at once",
    "revoked after the key",
    "cancelled",
    "suspended",
    "resumed",
    "killed",
    "killed while leaving",
    "parted",
    "directory away",
    "held by time",
    "dialled again",
    "asked the directory",
    "local",
];

fn run(plan: &Plan, trace: bool) -> Result<BTreeSet<String>, ()> {
    catch_unwind(AssertUnwindSafe(|| World::new(plan.clone(), trace).run())).map_err(|_| ())
}

#[test]
fn meshes() {
    if let Ok(seed) = std::env::var("MESH_SEED") {
        World::new(Plan::of_seed(seed.parse().expect("MESH_SEED is a number")), true).run();
        return;
    }
    let seeds = std::env::var("MESH_SEEDS").map_or(SEEDS, |text| text.parse().expect("a number of seeds"));
    let mut seen = BTreeSet::new();
    for seed in 0..seeds {
        let plan = Plan::of_seed(seed);
        match run(&plan, false) {
            Ok(mut reached) => seen.append(&mut reached),
            Err(()) => {
                let least = least(plan);
                println!("seed {seed} failed; with the least that fails, {least:?}:");
                let _ = run(&least, true);
                panic!("seed {seed}: MESH_SEED={seed} cargo nextest run --release -p model meshes");
            }
        }
    }
    for what in REACHED {
        assert!(seen.contains(*what), "no seed reached {what:?}: {seen:?}");
    }
}

/// A plan that fails, without what is not needed for that.
fn least(mut plan: Plan) -> Plan {
    for fault in Fault::ALL {
        let without = plan.without(fault);
        if run(&without, false).is_err() {
            plan = without;
        }
    }
    while plan.sessions > 1 {
        let fewer = Plan { sessions: plan.sessions - 1, ..plan.clone() };
        if run(&fewer, false).is_ok() {
            break;
        }
        plan = fewer;
    }
    plan
}
