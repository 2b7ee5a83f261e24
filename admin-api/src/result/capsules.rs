//! Capsules: `ps`, `inspect`, `run`, `start`, `stop`, `rm`, `logs`, `resolve`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{AnchoredView, DatagramCounts, PolicyCounts, moves::MoveResult, words};
use crate::{
    request::{EnvVar, Volume},
    timestamp::Timestamp,
};

words! {
    /// What a capsule is doing.
    CapsuleState {
        /// Its program runs.
        Running = "running",
        /// It is on its way to another host.
        Moving = "moving",
        /// It lies in a file; its peers hold.
        Suspended = "suspended",
        /// Its host is silent.
        Lost = "lost",
        /// Its program ended; it may be started again.
        Stopped = "stopped",
        /// It goes on elsewhere; this is a frozen copy that a host keeps, until a person removes it.
        Superseded = "superseded",
    }
}

words! {
    /// What a capsule went on from.
    RecoveredFrom {
        /// The frozen copy that an unfinished move left.
        Move = "move",
        /// A copy that had been superseded.
        Superseded = "superseded",
        /// A capsule file.
        File = "file",
    }
}

/// The answer to `ps`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PsResult {
    /// Sorted by name.
    pub capsules: Vec<CapsuleView>,
}

/// A capsule in a list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CapsuleView {
    /// Its name.
    pub name: String,
    /// Its id, 32 hexadecimal digits.
    pub id: String,
    /// What it is doing.
    pub state: CapsuleState,
    /// Where it is; none while suspended.
    #[serde(default)]
    pub host: Option<String>,
    /// Raised at every claim, revoke, suspend, resume and takeover.
    pub generation: u64,
    /// IPv4, then IPv6.
    pub locators: Vec<IpAddr>,
    /// Who it belongs to.
    pub owner: String,
    /// When it was first run.
    pub created_at: Timestamp,
    /// Sessions that are not yet ended; none where it is not known: the capsule is on another host.
    #[serde(default)]
    pub sessions: Option<u64>,
    /// Those of them whose other side is away.
    #[serde(default)]
    pub sessions_held: Option<u64>,
    /// Memory of its processes; none where it is not known.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// While it moves: the host it goes to.
    #[serde(default)]
    pub moving_to: Option<String>,
    /// While it moves: the phase.
    #[serde(default)]
    pub phase: Option<String>,
    /// While it is suspended: the host that suspended it.
    #[serde(default)]
    pub suspended_by: Option<String>,
    /// While it is suspended: since when.
    #[serde(default)]
    pub suspended_at: Option<Timestamp>,
    /// While it is lost: how long its host has been silent.
    #[serde(default)]
    pub silent_s: Option<u64>,
    /// Once stopped: how its program ended, 128 + n for signal n.
    #[serde(default)]
    pub exit_code: Option<i32>,
}

/// The answer to `inspect`: the fields of a list entry and more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InspectResult {
    /// As in a list.
    #[serde(flatten)]
    pub capsule: CapsuleView,
    /// Its name in the zone.
    #[serde(default)]
    pub dns_name: Option<String>,
    /// The program and its arguments.
    #[serde(default)]
    pub argv: Vec<String>,
    /// Variables given at `run`.
    #[serde(default)]
    pub env: Vec<EnvVar>,
    /// The directory it started in.
    #[serde(default)]
    pub workdir: Option<String>,
    /// The user it started as.
    #[serde(default)]
    pub user: Option<String>,
    /// The directory given as root at `run`.
    #[serde(default)]
    pub rootfs: Option<String>,
    /// The image given at `run`.
    #[serde(default)]
    pub image: Option<String>,
    /// Directories of the host in it.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// Whether it has a terminal.
    #[serde(default)]
    pub terminal: bool,
    /// When its program started, on whichever host.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// Its first process as its host sees it.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Its processes as its host sees them.
    #[serde(default)]
    pub processes: Option<u64>,
    /// The process that keeps its sockets and log.
    #[serde(default)]
    pub shim_pid: Option<u32>,
    /// Files written by it since `run`.
    #[serde(default)]
    pub private_bytes: Option<u64>,
    /// Size of its log.
    #[serde(default)]
    pub log_bytes: Option<u64>,
    /// Bytes that wait in its sessions, both directions.
    #[serde(default)]
    pub buffer_bytes: Option<u64>,
    /// Memory that the receive buffers of its sessions may take.
    #[serde(default)]
    pub buffer_granted_bytes: Option<u64>,
    /// The budget that this is taken from; more sessions than it has room for have the least that works each.
    #[serde(default)]
    pub buffer_limit_bytes: Option<u64>,
    /// Its connections to machines outside that are bound to a host.
    #[serde(default)]
    pub anchored: Vec<AnchoredView>,
    /// What became of its datagrams on its host.
    #[serde(default)]
    pub datagrams: Option<DatagramCounts>,
    /// The move that brought it here.
    #[serde(default)]
    pub last_move: Option<MoveResult>,
    /// What the policy did to it.
    #[serde(default)]
    pub policy: PolicyCounts,
    /// The DNS records that its owner added; `None` when the directory did not say.
    #[serde(default)]
    pub records: Option<Vec<DnsRecord>>,
}

/// A DNS record that a capsule's owner added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsRecord {
    /// The whole name.
    pub name: String,
    /// How long it may be kept, seconds.
    pub ttl_s: u32,
    /// `TXT` or `SRV`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it says, as zone files have it.
    pub data: String,
}

/// The answer to `run` and `start`: the program has started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// The capsule's name.
    pub capsule: String,
    /// Its id.
    pub id: String,
    /// Where it runs.
    pub host: String,
    /// Its generation.
    pub generation: u64,
    /// IPv4, then IPv6.
    pub locators: Vec<IpAddr>,
    /// The log position at which this program's output starts; more than 0 when
    /// it was started again.
    #[serde(default)]
    pub position: u64,
    /// `start`: it ran already, and nothing was done.
    #[serde(default)]
    pub already: bool,
}

/// The answer to `stop`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StopResult {
    /// The capsule's name.
    pub capsule: String,
    /// How its program ended, 128 + n for signal n.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// It took longer than allowed and was ended by SIGKILL.
    #[serde(default)]
    pub killed: bool,
    /// It was stopped already, and nothing was done.
    #[serde(default)]
    pub already: bool,
}

/// The answer to `rm`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RmResult {
    /// The capsule's name.
    pub capsule: String,
    /// The id it had; none when there was no such capsule.
    #[serde(default)]
    pub id: Option<String>,
    /// Sessions that ended with it.
    #[serde(default)]
    pub sessions_ended: u64,
}

/// The answer to `recover`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RecoverResult {
    /// The capsule's name.
    pub capsule: String,
    /// Where it is.
    pub host: String,
    /// Its generation.
    pub generation: u64,
    /// What it went on from.
    pub from: RecoveredFrom,
    /// Whether its program runs.
    pub running: bool,
}

/// The answer to `logs`, after the log itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogsResult {
    /// The capsule's name.
    pub capsule: String,
    /// Its id.
    pub id: String,
    /// The log's end.
    pub position: u64,
}

/// The answer to `resolve`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResolveResult {
    /// The capsule's name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Its name in the zone.
    pub dns_name: String,
    /// IPv4, then IPv6.
    pub locators: Vec<IpAddr>,
    /// Where it is.
    #[serde(default)]
    pub host: Option<String>,
    /// The QUIC address of that host, `ADDRESS:PORT`.
    #[serde(default)]
    pub host_address: Option<String>,
    /// Its generation.
    pub generation: u64,
    /// What the directory says of it.
    pub state: CapsuleState,
    /// Who it belongs to.
    #[serde(default)]
    pub owner: String,
    /// `directory` when it was asked, `cache` when it did not answer.
    pub source: String,
}
