//! What a seed stands for.

use std::collections::BTreeSet;

use super::tape::Random;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Moves,
    Suspends,
    Kills,
    Partings,
    DirectoryAway,
}

impl Fault {
    pub const ALL: [Fault; 5] =
        [Fault::Moves, Fault::Suspends, Fault::Kills, Fault::Partings, Fault::DirectoryAway];
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub hosts: usize,
    pub capsules: usize,
    pub sessions: usize,
    pub faults: BTreeSet<Fault>,
    /// Virtual time at which the last fault begins, ms.
    pub rough_ms: u64,
    /// Longest way of a frame, ms.
    pub delay_ms: u64,
}

impl Plan {
    pub fn of_seed(seed: u64) -> Plan {
        let mut random = Random(seed ^ 0x6d65_7368);
        let faults = Fault::ALL.into_iter().filter(|_| !random.one_in(4)).collect();
        let mut random = Random(seed ^ 0x7368_6d65);
        Plan {
            seed,
            hosts: 2 + random.below(3) as usize,
            capsules: 2 + random.below(4) as usize,
            sessions: 1 + random.below(5) as usize,
            faults,
            rough_ms: 2_000 + random.below(6_000),
            delay_ms: 1 + random.below(30),
        }
    }

    pub fn without(&self, fault: Fault) -> Plan {
        let mut plan = self.clone();
        plan.faults.remove(&fault);
        plan
    }
}
