//! Everything that was found.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use testkit::figures::median;

use crate::Extent;
use crate::blackout::Blackout;
use crate::machine::Machine;
use crate::memory::Memory;
use crate::sides::Way;

#[derive(Debug, Default)]
struct Samples {
    plain: Vec<f64>,
    capsules: Vec<f64>,
}

pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) quick: bool,
    pub(crate) repetitions: usize,
    pub(crate) moves: usize,
    pub(crate) seconds: f64,
    samples: BTreeMap<&'static str, Samples>,
    /// Connections that failed: none should.
    pub(crate) failures: Vec<String>,
    pub(crate) memory: Memory,
    pub(crate) blackouts: Vec<Blackout>,
}

impl Report {
    pub(crate) fn new(machine: Machine, quick: bool, extent: &Extent) -> Report {
        Report {
            machine,
            quick,
            repetitions: extent.repetitions,
            moves: extent.moves,
            seconds: 0.0,
            samples: BTreeMap::new(),
            failures: Vec::new(),
            memory: Memory::default(),
            blackouts: Vec::new(),
        }
    }

    pub(crate) fn sample(&mut self, name: &'static str, way: Way, value: f64) {
        let samples = self.samples.entry(name).or_default();
        match way {
            Way::Plain => samples.plain.push(value),
            Way::Capsules => samples.capsules.push(value),
        }
    }

    /// Medians: plain, then through two sidecars.
    pub(crate) fn medians(&self, name: &str) -> (f64, f64) {
        let samples = self.samples.get(name);
        let of =
            |pick: fn(&Samples) -> &Vec<f64>| median(&mut samples.map(pick).cloned().unwrap_or_default());
        (of(|samples| &samples.plain), of(|samples| &samples.capsules))
    }

    pub(crate) fn json(&self) -> String {
        let network: BTreeMap<&str, Value> = self
            .samples
            .iter()
            .map(|(name, samples)| {
                let (plain, capsules) = self.medians(name);
                let value = json!({
                    "plain": plain,
                    "capsules": capsules,
                    "ratio": capsules / plain,
                    "samples": { "plain": samples.plain, "capsules": samples.capsules },
                });
                (*name, value)
            })
            .collect();
        let document = json!({
            "machine": self.machine,
            "quick": self.quick,
            "repetitions": self.repetitions,
            "moves": self.moves,
            "seconds": self.seconds,
            "network": network,
            "failures": self.failures,
            "memory": self.memory,
            "blackout": self.blackouts.iter().map(Blackout::json).collect::<Vec<_>>(),
        });
        document.to_string()
    }
}
