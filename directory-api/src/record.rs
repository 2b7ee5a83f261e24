//! What the directory knows of capsules and hosts.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::SystemTime;

use overlay_proto::{CapsuleId, CapsuleName, ClaimKeyHash, Generation, HostName, Locators, OfferId, Owner};
use serde::{Deserialize, Serialize};

/// One capsule: who it is, where it is, and the state of its placement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapsuleRecord {
    /// Its identity, for life.
    pub id: CapsuleId,
    /// Its name; free again after it was removed.
    pub name: CapsuleName,
    /// Who owns it.
    pub owner: Owner,
    /// Its own addresses, for life.
    pub locators: Locators,
    /// Where it is placed.
    pub host: HostName,
    /// How often the place was decided anew.
    pub generation: Generation,
    /// The state shown.
    pub state: CapsuleState,
    /// The offer that is open, if any.
    pub offer: Option<OfferRecord>,
    /// How the last offer ended, if one did.
    pub last_outcome: Option<OutcomeRecord>,
    /// The capsule file that it lies in, while it is suspended.
    pub suspension: Option<SuspensionRecord>,
    /// When it was registered.
    pub created_at: SystemTime,
    /// What the registering host drew to make its request repeatable.
    pub registration: [u8; 16],
}

/// What a capsule is doing, as far as the directory knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CapsuleState {
    /// Its processes run.
    Running,
    /// An offer is open, or was claimed and the new host has not reported it running.
    Moving,
    /// It lies in a capsule file.
    Suspended,
    /// Its host does not renew its lease. Only ever shown: the place does not change by it.
    Lost,
    /// Registered, without processes.
    Stopped,
}

/// An open offer of a capsule to another host, at one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferRecord {
    /// Names the offer in every later message.
    pub id: OfferId,
    /// The generation at which it was made.
    pub generation: Generation,
    /// The only host that may claim.
    pub target: HostName,
    /// Hash of the key that a claim must show.
    pub claim_key_hash: ClaimKeyHash,
    /// The state that a revoke brings back.
    pub state_before: CapsuleState,
}

/// A capsule that lies in a capsule file. Whoever has the file may resume it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuspensionRecord {
    /// Names the suspension; it stands in the file.
    pub id: OfferId,
    /// Hash of the key that stands in the file.
    pub key_hash: ClaimKeyHash,
    /// The host that suspended it.
    pub host: HostName,
    /// When.
    pub at: SystemTime,
}

/// How an offer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutcomeRecord {
    /// The offer.
    pub offer: OfferId,
    /// Claimed or revoked.
    pub outcome: Outcome,
    /// The generation that the outcome made.
    pub generation: Generation,
    /// Where the outcome placed the capsule.
    pub host: HostName,
}

/// How a capsule changed hands, or did not; the outcomes exclude each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The target has it.
    Claimed,
    /// The source keeps it.
    Revoked,
    /// No offer was asked: an operator said that its host is gone. The id is the takeover's own.
    TakenOver,
}

/// One host as the mesh sees it. A host that joined but never renewed a lease has no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRecord {
    /// Its name.
    pub name: HostName,
    /// Where its sidecar takes QUIC connections.
    pub address: SocketAddr,
    /// When it last renewed its lease.
    pub last_seen: SystemTime,
    /// Whether the lease is good.
    pub alive: bool,
    /// Whether verbs forwarded from it are taken.
    pub operator: bool,
}

/// A DNS record that a capsule's owner added, in the words of zone files (RFC 1035, section 5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedRecord {
    /// The labels below the capsule's name; empty for the name itself.
    pub below: String,
    /// How long it may be kept, seconds.
    pub ttl_seconds: u32,
    /// Its type, such as `TXT`.
    pub kind: String,
    /// What it says.
    pub data: String,
}

impl CapsuleState {
    /// The word used everywhere: `running`, `moving`, `suspended`, `lost`, `stopped`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Moving => "moving",
            Self::Suspended => "suspended",
            Self::Lost => "lost",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for CapsuleState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a capsule's state is one of running, moving, suspended, lost, stopped")]
pub struct StateError;

impl FromStr for CapsuleState {
    type Err = StateError;

    fn from_str(text: &str) -> Result<Self, StateError> {
        [Self::Running, Self::Moving, Self::Suspended, Self::Lost, Self::Stopped]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or(StateError)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Claimed => "claimed",
            Self::Revoked => "revoked",
            Self::TakenOver => "taken over",
        })
    }
}
