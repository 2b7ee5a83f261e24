//! Who may connect to whom.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The answer to `policy show`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyResult {
    /// Oldest first.
    pub rules: Vec<RuleView>,
    /// `directory`, or `cache` when it does not answer.
    pub source: String,
}

/// The answer to `policy allow` and `policy deny`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleResult {
    /// The rule that holds.
    pub rule: RuleView,
}

/// The answer to `policy remove`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveRuleResult {
    /// The number that was given.
    pub id: u64,
    /// Whether there was such a rule.
    pub removed: bool,
}

/// The answer to `policy test`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyTestResult {
    /// Who would connect, `OWNER/NAME`.
    pub from: String,
    /// To whom, `OWNER/NAME`.
    pub to: String,
    /// At which port.
    pub port: u16,
    /// Whether it may.
    pub allowed: bool,
    /// Why, in words.
    pub because: String,
    /// The number of the rule that decides; `None`: the owners do.
    #[serde(default)]
    pub rule: Option<u64>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleView {
    /// Its number.
    pub id: u64,
    /// `allow` or `deny`.
    pub effect: String,
    /// Who connects, `OWNER/NAME` with `*`.
    pub from: String,
    /// To whom, the same.
    pub to: String,
    /// A port, a range, or `*`.
    pub ports: String,
    /// When it was made.
    pub set_at: Timestamp,
    /// The host by which it was made.
    pub set_by: String,
}

/// What the policy did on a host since its sidecar started: to one capsule since it came there, or to all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyCounts {
    /// Connects that arrived and were denied.
    pub denied_in: u64,
    /// Connects of capsules there that were denied.
    pub denied_out: u64,
    /// Sessions that arrived and were ended by a change.
    pub ended_sessions: u64,
    /// The latest connect that was denied.
    #[serde(default)]
    pub last_denied: Option<DenialView>,
}

/// A connect that was denied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenialView {
    /// The capsule that connected.
    pub from: String,
    /// The capsule it wanted.
    pub to: String,
    /// The port.
    pub port: u16,
    /// When.
    pub at: Timestamp,
    /// Why, in words.
    pub because: String,
}
