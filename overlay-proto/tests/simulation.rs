//! Two cores, two model kernels and a network that loses, under a tape of choices.
//!
//! The tape drives everything: which program writes, what arrives, when links break, capsules move, sidecars die.
//! After the tape the world calms down and the session has to end, with every byte in its place. A seed makes a
//! tape; proptest makes tapes that shrink.
//!
//! `SIMULATION_SEED=n` replays one seed with a trace, `SIMULATION_SEEDS=n` sets how many are tried.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test that traces what it does"
)]

#[path = "simulation/kernel.rs"]
mod kernel;
#[path = "simulation/moves.rs"]
mod moves;
#[path = "simulation/network.rs"]
mod network;
#[path = "simulation/side.rs"]
mod side;
#[path = "simulation/tape.rs"]
mod tape;
#[path = "simulation/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;

use tape::Tape;
use world::{Plan, World};

const SEEDS: u64 = 60_000;

/// What the seeds have to reach, or they prove little.
const REACHED: &[&str] = &[
    "Attach",
    "Attached",
    "Stale",
    "Delivered",
    "End",
    "Hold",
    "Held",
    "Unknown",
    "Closed",
    "ResetByProgram",
    "ResetByPeer",
    "ended while holding",
    "asked the directory",
    "kept a stream",
    "dropped a stream",
    "RST ahead of bytes",
    "moved",
    "undone",
    "revoked",
    "crashed",
    "both away",
    "dialled again",
    "dialled again with bytes",
    "late frame",
    "lost answer",
    "zombie",
];

fn run(plan: Plan, tape: Tape, trace: bool) -> BTreeSet<String> {
    World::new(plan, tape, trace).run()
}

#[test]
fn seeds() {
    if let Ok(seed) = std::env::var("SIMULATION_SEED") {
        let seed = seed.parse().expect("SIMULATION_SEED is a number");
        run(Plan::of_seed(seed), Tape::of_seed(seed), true);
        return;
    }
    let seeds =
        std::env::var("SIMULATION_SEEDS").map_or(SEEDS, |text| text.parse().expect("a number of seeds"));
    let mut seen = BTreeSet::new();
    for seed in 0..seeds {
        let outcome = catch_unwind(AssertUnwindSafe(|| run(Plan::of_seed(seed), Tape::of_seed(seed), false)));
        let replay = format!("SIMULATION_SEED={seed} cargo nextest run --release -p overlay-proto seeds");
        seen.append(&mut outcome.unwrap_or_else(|_| panic!("seed {seed} failed; replay: {replay}")));
    }
    for what in REACHED {
        assert!(seen.contains(*what), "no seed reached {what:?}: {seen:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tapes(plan in any::<u64>(), choices in prop::collection::vec(any::<u32>(), 0..3_000)) {
        run(Plan::of_seed(plan), Tape::of_choices(choices), false);
    }
}
