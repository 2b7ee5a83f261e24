//! Moves.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::SerializeMap,
};

/// The answer to `move`: it is complete.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MoveResult {
    /// The capsule's name.
    pub capsule: String,
    /// The host it left.
    pub from: String,
    /// The host it runs on.
    pub to: String,
    /// Its generation there.
    pub generation: u64,
    /// From the pause to running again.
    pub blackout_ms: f64,
    /// The whole move.
    #[serde(default)]
    pub duration_ms: f64,
    /// Time of each phase, in the order in which they ran.
    pub phases_ms: Phases,
    /// Sessions that went along.
    pub sessions: u64,
    /// Sessions there were before.
    #[serde(default)]
    pub sessions_before: u64,
    /// Connections to machines outside that were bound to the host it left.
    #[serde(default)]
    pub anchored: u64,
    /// That host carries them on; otherwise they ended.
    #[serde(default)]
    pub anchored_kept: bool,
    /// What was sent.
    pub bytes: MoveBytes,
    /// How memory went: `full`, `precopy`, `lazy`.
    #[serde(default)]
    pub memory: String,
    /// It was there already, and nothing was done.
    #[serde(default)]
    pub already: bool,
}

/// What a move sent, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveBytes {
    /// Memory images.
    pub memory: u64,
    /// Private files and missing base files.
    pub files: u64,
}

/// Durations by name in the order in which they were added; a JSON object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Phases(Vec<(String, f64)>);

impl Phases {
    /// Adds a phase; one that is there already gets longer.
    pub fn add(&mut self, name: &str, milliseconds: f64) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, total)) => *total += milliseconds,
            None => self.0.push((name.to_owned(), milliseconds)),
        }
    }

    /// The phases in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, milliseconds)| (name.as_str(), *milliseconds))
    }

    /// The time of one phase.
    pub fn of(&self, name: &str) -> Option<f64> {
        self.iter().find(|(known, _)| *known == name).map(|(_, milliseconds)| milliseconds)
    }
}

impl<N: Into<String>> FromIterator<(N, f64)> for Phases {
    fn from_iter<I: IntoIterator<Item = (N, f64)>>(phases: I) -> Self {
        let mut all = Self::default();
        for (name, milliseconds) in phases {
            all.add(&name.into(), milliseconds);
        }
        all
    }
}

impl Serialize for Phases {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, milliseconds) in &self.0 {
            map.serialize_entry(name, milliseconds)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Phases {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PhasesVisitor)
    }
}

struct PhasesVisitor;

impl<'de> Visitor<'de> for PhasesVisitor {
    type Value = Phases;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of milliseconds by phase")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Phases, A::Error> {
        let mut phases = Phases::default();
        while let Some((name, milliseconds)) = map.next_entry::<String, f64>()? {
            phases.add(&name, milliseconds);
        }
        Ok(phases)
    }
}
