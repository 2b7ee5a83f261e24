//! The snapshot itself.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

mod bytes;

/// Version of [`TcpSnapshot`]'s content.
pub(super) const VERSION: u32 = 1;

/// An open TCP connection, seen from one end.
///
/// Sequence numbers never count a FIN. Opaque to others except where a method says otherwise.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpSnapshot {
    pub(super) version: u32,
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
    /// Sequence number of the first byte of `send`.
    pub(super) send_sequence: u32,
    /// Written and not acknowledged.
    #[serde(with = "bytes")]
    pub(super) send: Vec<u8>,
    /// How many bytes at the end of `send` were never sent.
    pub(super) unsent: u32,
    pub(super) own_fin: OwnFin,
    /// Sequence number of the first byte of `receive`.
    pub(super) receive_sequence: u32,
    /// Arrived and not consumed.
    #[serde(with = "bytes")]
    pub(super) receive: Vec<u8>,
    pub(super) peer_fin: bool,
    pub(super) segment_bytes_max: u32,
    /// Shifts of the other end's window and of ours, when window scaling was agreed upon.
    pub(super) scales: Option<(u8, u8)>,
    pub(super) selective_acknowledgment: bool,
    pub(super) timestamps: bool,
    /// The timestamp clock, in the kernel's opaque form.
    pub(super) timestamp: u32,
    pub(super) window: Window,
    pub(super) buffers: Buffers,
    pub(super) urgent_in_line: bool,
}

/// What became of our own FIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OwnFin {
    /// Nobody asked for it.
    None,
    /// Written, not yet acknowledged.
    Pending,
    /// The other end has it.
    Acknowledged,
}

/// `struct tcp_repair_window`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Window {
    pub(super) send_last_update: u32,
    pub(super) send_bytes: u32,
    pub(super) send_bytes_max: u32,
    pub(super) receive_bytes: u32,
    pub(super) receive_last_update: u32,
}

/// Buffer sizes as the kernel counts them, and which of them it may not change by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Buffers {
    pub(super) send_bytes: u32,
    pub(super) receive_bytes: u32,
    pub(super) fixed: u32,
}

impl TcpSnapshot {
    /// Our address.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// What had arrived and was not consumed.
    #[must_use]
    pub fn received(&self) -> &[u8] {
        &self.receive
    }

    /// The other end's address.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// What was written and not acknowledged.
    #[must_use]
    pub fn send_queue(&self) -> &[u8] {
        &self.send
    }

    /// How many bytes at the end of [`TcpSnapshot::send_queue`] were never sent.
    #[must_use]
    pub fn unsent_bytes(&self) -> u32 {
        self.unsent
    }

    /// What arrived and was not consumed.
    #[must_use]
    pub fn receive_queue(&self) -> &[u8] {
        &self.receive
    }

    /// The connection's own timestamp clock when it was captured, in milliseconds from an arbitrary beginning.
    #[must_use]
    pub fn timestamp_ms(&self) -> u32 {
        self.timestamp
    }

    /// What became of our FIN.
    #[must_use]
    pub fn own_fin(&self) -> OwnFin {
        self.own_fin
    }

    /// Whether the other end's FIN arrived.
    #[must_use]
    pub fn peer_fin(&self) -> bool {
        self.peer_fin
    }
}

impl std::fmt::Debug for TcpSnapshot {
    /// Leaves the bytes out: they are the programs' own.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("TcpSnapshot")
            .field("local", &self.local)
            .field("peer", &self.peer)
            .field("send_bytes", &self.send.len())
            .field("unsent_bytes", &self.unsent)
            .field("receive_bytes", &self.receive.len())
            .field("own_fin", &self.own_fin)
            .field("peer_fin", &self.peer_fin)
            .finish_non_exhaustive()
    }
}
