//! Sessions.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{CapsuleState, PolicyCounts, words};

words! {
    /// What a session is doing.
    SessionState {
        /// Data flows.
        Open = "open",
        /// The other side is away.
        Held = "held",
        /// The program reads slowly.
        Parked = "parked",
        /// An end was said, not everything is delivered.
        Closing = "closing",
    }
}

words! {
    /// Who opened a session, seen from the capsule.
    Direction {
        /// The peer.
        In = "in",
        /// The capsule.
        Out = "out",
    }
}

/// The answer to `sessions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionsResult {
    /// Oldest first. A session between two capsules is listed once for each.
    pub sessions: Vec<SessionView>,
    /// What the policy did to those who have none.
    #[serde(default)]
    pub policy: PolicyCounts,
}

/// One capsule's half of a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionView {
    /// Its id, 32 hexadecimal digits.
    pub id: String,
    /// The capsule whose half this is.
    pub capsule: String,
    /// Who opened it.
    pub direction: Direction,
    /// The capsule's address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// The peer, when it is a capsule.
    #[serde(default)]
    pub peer_capsule: Option<String>,
    /// The host where the other half is.
    #[serde(default)]
    pub peer_host: Option<String>,
    /// What the peer does, when it is a capsule.
    #[serde(default)]
    pub peer_state: Option<CapsuleState>,
    /// What it is doing.
    pub state: SessionState,
    /// How long it has been in this state.
    #[serde(default)]
    pub state_s: Option<u64>,
    /// Towards the capsule.
    pub bytes_in: u64,
    /// From the capsule.
    pub bytes_out: u64,
    /// Waiting here, both directions.
    pub buffered_bytes: u64,
    /// Memory that the kernel may use for what the capsule sent and the peer does not have.
    #[serde(default)]
    pub buffer_limit_bytes: u64,
    /// Time since it was opened.
    pub age_s: u64,
}
