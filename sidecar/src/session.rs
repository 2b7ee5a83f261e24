//! Sessions: every connection of a capsule as the mesh sees it, one driver task for each half on this host.
//!
//! [`Table`] knows the halves and passes events to their drivers. A capsule that leaves has its halves *parked*:
//! the drivers end and hand over core, connection and mailbox, so that the move owns them and can bring them back.

mod aside;
mod budget;
mod driver;
mod flow;
mod linger;
mod program;
mod programs;
mod record;
mod route;
mod table;
mod turns;
mod ways;
mod window;

use std::net::SocketAddr;
use std::sync::Arc;

use overlay_proto::{CapsuleId, Half, Role, SessionId};
use serde::Serialize;
use tokio::sync::mpsc;

pub use budget::{Budget, BufferLimits};
pub use driver::Event;
pub use program::{Program, Remains, Socket};
pub use programs::Processes;
pub use record::{
    AcceptedRecord, BroughtRecord, HalfRecord, Keeping, OpenedRecord, Record, Records, Slot, Slots, bytes_of,
    file_of, has_failed,
};
pub use route::{Patience, PeerPlace, Routes};
pub use table::Table;
pub use ways::{Begin, NoWay, Way, Ways};

/// Names a half on this host; both halves of a session may be here.
pub type Key = (SessionId, Role);

/// What does not change in the life of a half.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The capsule on this side.
    pub own: CapsuleId,
    /// The capsule on the other side.
    pub peer: CapsuleId,
    /// The program's address on this side.
    pub local: SocketAddr,
    /// The program's address on the other side.
    pub remote: SocketAddr,
    /// When the session began.
    pub began: std::time::SystemTime,
    /// Of a half that stands for a machine without a sidecar: how it came in.
    pub way: Option<Arc<Way>>,
}

/// A half without a driver.
#[derive(Debug)]
pub struct Parked {
    /// Its facts.
    pub facts: Facts,
    /// The core.
    pub half: Half,
    /// The program's connection.
    pub program: Program,
    /// Its record, for a sidecar that comes after this one.
    pub keeping: Option<Keeping>,
    /// Keeps events that arrive meanwhile.
    pub mailbox: mpsc::Receiver<Event>,
}

/// How a half stands, for people.
#[derive(Debug, Clone, Serialize)]
pub struct SessionView {
    /// The session.
    pub id: SessionId,
    /// Which side of it.
    pub role: Role,
    /// Addresses and capsules.
    #[serde(skip)]
    pub facts: Facts,
    /// `open`, `held`, `parked` or `closing`.
    pub state: &'static str,
    /// Bytes given to the program.
    pub bytes_in: u64,
    /// Bytes of the program that the other half has.
    pub bytes_out: u64,
    /// Bytes that wait on this side, both ways.
    pub buffered_bytes: u64,
    /// Memory that the receive buffer of the program's connection may take.
    pub limit_bytes: u64,
}
