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

words! {
    /// What a session carries.
    SessionKind {
        /// One connection.
        Tcp = "tcp",
        /// A flow: datagrams between two addresses, until none came for some minutes.
        Udp = "udp",
    }
}

impl SessionKind {
    /// What sessions are of hosts that do not say it.
    fn tcp() -> Self {
        Self::Tcp
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

/// A capsule's connection to a machine outside that is bound to the host where it leaves the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchoredView {
    /// The id of its session, 32 hexadecimal digits.
    pub session: String,
    /// The host.
    pub host: String,
    /// The capsule's address and port.
    pub local: SocketAddr,
    /// The address and port of the machine.
    pub remote: SocketAddr,
}

/// One capsule's half of a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionView {
    /// Its id, 32 hexadecimal digits.
    pub id: String,
    /// What it carries.
    #[serde(default = "SessionKind::tcp")]
    pub kind: SessionKind,
    /// The capsule whose half this is.
    pub capsule: String,
    /// Who opened it.
    pub direction: Direction,
    /// The capsule's address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// Of a gateway: the address of the machine outside, which `local` stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<SocketAddr>,
    /// The host to which it is bound, since it leaves the mesh there without a gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchored: Option<String>,
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
    /// Of a flow: datagrams towards the capsule.
    #[serde(default)]
    pub datagrams_in: Option<u64>,
    /// Of a flow: datagrams from the capsule.
    #[serde(default)]
    pub datagrams_out: Option<u64>,
    /// Of a flow: time since the last datagram.
    #[serde(default)]
    pub quiet_s: Option<u64>,
}

/// What became of a capsule's datagrams and pings since it came to its host, or the sidecar there started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatagramCounts {
    /// Of its programs, on their way.
    pub sent: u64,
    /// For its programs.
    pub received: u64,
    /// Bytes that wait to be sent or delivered.
    pub waiting_bytes: u64,
    /// Lost: more waited, or was under way, than there is room for.
    pub lost_no_room: u64,
    /// Lost: waited too long, or came back too often.
    pub lost_too_late: u64,
    /// Lost: nobody has the address.
    pub lost_nowhere: u64,
    /// Lost: the policy forbids it.
    pub lost_denied: u64,
    /// Lost: came from a host where its sender is not.
    pub lost_misplaced: u64,
}
