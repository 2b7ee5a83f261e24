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
#[path = "simulation/network.rs"]
mod network;
#[path = "simulation/side.rs"]
mod side;
#[path = "simulation/tape.rs"]
mod tape;
#[path = "simulation/world.rs"]
mod world;

use proptest::prelude::*;

use tape::Tape;
use world::{Plan, World};

const SEEDS: u64 = 20_000;

fn run(plan: Plan, tape: Tape, trace: bool) {
    World::new(plan, tape, trace).run();
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
    for seed in 0..seeds {
        let outcome = std::panic::catch_unwind(|| run(Plan::of_seed(seed), Tape::of_seed(seed), false));
        assert!(
            outcome.is_ok(),
            "seed {seed} failed; replay: SIMULATION_SEED={seed} cargo nextest run -p overlay-proto seeds"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tapes(plan in any::<u64>(), choices in prop::collection::vec(any::<u32>(), 0..3_000)) {
        run(Plan::of_seed(plan), Tape::of_choices(choices), false);
    }
}
