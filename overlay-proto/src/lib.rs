//! The protocol between sidecars, as a pure core.
//!
//! Everything here is a function of its inputs: no IO, no clock, no randomness, no tasks. The sidecar is the
//! shell that owns sockets and links; it feeds what happened into a [`Half`] and carries out the [`Action`]s.
//!
//! - [`id`] and [`name`]: what capsules, sessions, offers, hosts and owners are called.
//! - [`limits`]: every bound, with unit and reason.
//! - [`frame`]: control frames, the header of data streams, and datagrams, with their codec.
//! - [`session`]: one side of one session: offsets, attach order, holds, ends, snapshot.
//!
//! The wire is described in `docs/protocol.md`.

pub mod id;
pub mod name;

pub mod limits;

pub mod frame;

pub mod session;

pub use frame::{
    Answer, Attach, Attached, Datagram, DatagramBody, DatagramTag, Frame, FrameError, Held, Hold, Open,
    OpenOutcome, Position, ReturnReason, StreamHeader, StreamStart, decode, encode, negotiate,
};
pub use id::{CapsuleId, ClaimKey, ClaimKeyHash, Generation, IdError, Locators, OfferId, SessionId};
pub use name::{CapsuleName, HostName, NameError, Owner};
pub use session::{
    Action, AttachKey, End, EndKind, Generations, Half, HalfSnapshot, Outcome, Role, SnapshotError, State,
    StreamVerdict, Violation,
};
