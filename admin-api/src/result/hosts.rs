//! Hosts, links and checks.

use serde::{Deserialize, Serialize};

use super::{AnchoredView, words};
use crate::timestamp::Timestamp;

words! {
    /// What the directory knows of a host.
    HostState {
        /// Heard of within its lease.
        Ready = "ready",
        /// Not heard of for longer.
        Silent = "silent",
    }
}

words! {
    /// The link from this host to another.
    LinkState {
        /// Connected.
        Up = "up",
        /// Wanted, not connected.
        Down = "down",
        /// Not wanted so far: it is made on demand.
        Idle = "idle",
    }
}

words! {
    /// How a check went.
    Level {
        /// As it should be.
        Ok = "ok",
        /// It works, with a loss that the remedy names.
        Warn = "warn",
        /// It would not work.
        Fail = "fail",
    }
}

/// The answer to `hosts`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostsResult {
    /// Sorted by name.
    pub hosts: Vec<HostView>,
    /// While the directory puts together what happened since the backup that it was restored from: the hosts that have
    /// not said what they hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaited: Option<Vec<String>>,
}

/// The answer to `hosts remove`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RemoveHostResult {
    /// The host.
    pub host: String,
    /// The capsules that were placed there, which are lost until they are recovered.
    #[serde(default)]
    pub capsules: Vec<String>,
}

/// One host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostView {
    /// Its name.
    pub name: String,
    /// What the directory knows of it.
    pub state: HostState,
    /// Whether it is the host that answers.
    #[serde(default)]
    pub here: bool,
    /// Its QUIC addresses, `ADDRESS:PORT`; the one in use first.
    pub addresses: Vec<String>,
    /// Capsules that the directory places there.
    pub capsules: u64,
    /// The link to it; none to the answering host itself.
    #[serde(default)]
    pub link: Option<LinkView>,
    /// When it was heard of last.
    #[serde(default)]
    pub seen_at: Option<Timestamp>,
    /// While silent: for how long.
    #[serde(default)]
    pub silent_s: Option<u64>,
    /// When its certificate ends.
    #[serde(default)]
    pub certificate_expires_at: Option<Timestamp>,
    /// The version of its sidecar.
    #[serde(default)]
    pub version: Option<String>,
    /// Whether it may pass on verbs that change things.
    #[serde(default)]
    pub operator: bool,
}

/// A link as its near end sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkView {
    /// Up, down or idle.
    pub state: LinkState,
    /// How long it has been so.
    #[serde(default)]
    pub state_s: Option<u64>,
    /// Round-trip time.
    #[serde(default)]
    pub rtt_ms: Option<f64>,
    /// Packets lost since the link came up, in percent.
    #[serde(default)]
    pub loss_percent: Option<f64>,
    /// Largest packet that gets through.
    #[serde(default)]
    pub mtu_bytes: Option<u64>,
    /// Sessions on it.
    #[serde(default)]
    pub sessions: u64,
    /// Times that the other host's address changed under the link.
    #[serde(default)]
    pub path_changes: u64,
    /// Times that the link was told to take another way from here: the host's network changed, or it slept.
    #[serde(default)]
    pub rebinds: u64,
    /// Times that the other host checked the way to here, as it does when it sees this host at another address.
    #[serde(default)]
    pub path_checks: u64,
    /// Packets sent since the link came up.
    #[serde(default)]
    pub sent_packets: u64,
    /// Packets of these that were lost.
    #[serde(default)]
    pub lost_packets: u64,
    /// Since the last packet of the other host.
    #[serde(default)]
    pub silent_ms: Option<f64>,
    /// Which link to that host it is, counted from the sidecar's start over all hosts: another number is another link.
    #[serde(default)]
    pub serial: Option<u64>,
}

/// The answer to `preflight` and to `move` with `dry_run`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PreflightResult {
    /// The capsule asked about.
    #[serde(default)]
    pub capsule: Option<String>,
    /// The host it is on.
    #[serde(default)]
    pub from: Option<String>,
    /// The host asked about.
    #[serde(default)]
    pub to: Option<String>,
    /// Expected pause of a move.
    #[serde(default)]
    pub pause_expected_ms: Option<f64>,
    /// Memory that would go.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Private files that would go.
    #[serde(default)]
    pub files_bytes: Option<u64>,
    /// Connections to machines outside that are bound to the host it is on.
    #[serde(default)]
    pub anchored: Vec<AnchoredView>,
    /// Grouped; groups in the order in which they were looked at.
    pub checks: Vec<CheckView>,
}

impl PreflightResult {
    /// How many checks went as `level` says.
    pub fn count(&self, level: Level) -> usize {
        self.checks.iter().filter(|check| check.level == level).count()
    }
}

/// One check.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckView {
    /// "host a", "link a→b", "directory", or the capsule's name.
    pub group: String,
    /// Stable, in words: `host/nofile`.
    pub code: String,
    /// How it went.
    pub level: Level,
    /// What was seen.
    pub evidence: String,
    /// What to do; empty when all is well.
    #[serde(default)]
    pub remedy: String,
}
