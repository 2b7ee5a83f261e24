//! What goes over a link: control frames on one stream, a header in front of each data stream, and datagrams.
//!
//! Frames concern a session from [`Frame::Open`] on. `to` names the half a frame is meant for, since both halves of
//! a session may be on one host. Fields and their tags are in `frame/wire.rs`; the meaning is in `docs/protocol.md`.

mod codec;
mod datagram;
pub(crate) mod fields;
mod stream;
mod wire;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::id::{CapsuleId, Generation, SessionId};
use crate::limits;
use crate::session::{AttachKey, End, EndKind, Role};

pub use codec::{FrameError, decode, encode};
pub use datagram::{Datagram, DatagramBody, DatagramTag, ReturnReason};
pub use stream::{StreamHeader, StreamStart};

pub(crate) use wire::Snapshot as WireSnapshot;

/// One control frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// First on every control stream, both ways: the versions that the sender speaks.
    Hello {
        /// Lowest version.
        version_min: u32,
        /// Highest version.
        version_max: u32,
        /// Drawn when the sender started, so that its successor is told from it; zero if it does not say.
        sidecar: u64,
        /// Of the host that dialled: drawn for this link; else zero.
        dial: u64,
        /// Of the host that dialled: the `dial` of the newest link of the two hosts that it knew when it began to dial;
        /// else, or without one, zero.
        known: u64,
    },
    /// Second on the control stream, from the host of the two with the smaller name: this connection is their link. Until
    /// then it may be closed for another one.
    Settled {
        /// Later links of that host have higher ones.
        order: u64,
    },
    /// A program wants to connect.
    Open(Open),
    /// What became of an OPEN.
    Answer(Answer),
    /// The opener no longer waits for the ANSWER.
    Cancel {
        /// The session of the OPEN.
        session: SessionId,
    },
    /// Joins the halves again.
    Attach(Attach),
    /// The attach is agreed.
    Attached(Attached),
    /// The attach, or what it knows, is older than what the sender of this knows.
    Stale {
        /// Session.
        session: SessionId,
        /// Half meant.
        to: Role,
        /// Newest key and generations known to the sender.
        key: AttachKey,
    },
    /// Bytes, and perhaps the end, arrived at the program's socket.
    Delivered {
        /// Session.
        session: SessionId,
        /// Half meant: the one whose bytes arrived.
        to: Role,
        /// Attach that this belongs to.
        key: AttachKey,
        /// Offset after the last byte that may be forgotten.
        offset: u64,
        /// The end that was applied.
        end: Option<EndKind>,
    },
    /// The sender's program ended its direction.
    End {
        /// Session.
        session: SessionId,
        /// Half meant: the one that receives the bytes.
        to: Role,
        /// Attach that this belongs to.
        key: AttachKey,
        /// How it ended.
        kind: EndKind,
        /// Offset after the last byte.
        offset: u64,
    },
    /// The sender is about to leave: stop sending, wait for its next attach.
    Hold(Hold),
    /// The hold was understood; nothing is sent any more.
    Held(Held),
    /// The host where the capsule is does not know the session.
    Unknown {
        /// Session.
        session: SessionId,
        /// Half meant.
        to: Role,
    },
    /// The capsule is not on this host: ask the directory again.
    NotHere {
        /// Session.
        session: SessionId,
        /// Half meant.
        to: Role,
    },
    /// Asks for a [`Frame::Pong`].
    Ping,
    /// Answers a [`Frame::Ping`].
    Pong,
}

impl Frame {
    /// The versions that this build speaks.
    pub const fn hello() -> Frame {
        Frame::Hello {
            version_min: limits::VERSION_MIN,
            version_max: limits::VERSION_MAX,
            sidecar: 0,
            dial: 0,
            known: 0,
        }
    }

    /// The session that the frame concerns, if any.
    pub fn session(&self) -> Option<SessionId> {
        match self {
            Frame::Hello { .. } | Frame::Settled { .. } | Frame::Ping | Frame::Pong => None,
            Frame::Open(Open { session, .. })
            | Frame::Answer(Answer { session, .. })
            | Frame::Cancel { session }
            | Frame::Attach(Attach { session, .. })
            | Frame::Attached(Attached { session, .. })
            | Frame::Stale { session, .. }
            | Frame::Delivered { session, .. }
            | Frame::End { session, .. }
            | Frame::Hold(Hold { session, .. })
            | Frame::Held(Held { session, .. })
            | Frame::Unknown { session, .. }
            | Frame::NotHere { session, .. } => Some(*session),
        }
    }

    /// What a host says to this frame when it is where the directory places the capsule and the session is unknown
    /// there, or ended (see [`Frame::Unknown`]); none for frames whose sender waits for nothing.
    pub fn answer_unknown(&self) -> Option<Frame> {
        self.waiting().map(|(session, to)| Frame::Unknown { session, to })
    }

    /// What a host says to this frame when the directory places the capsule elsewhere (see [`Frame::NotHere`]).
    pub fn answer_not_here(&self) -> Option<Frame> {
        self.waiting().map(|(session, to)| Frame::NotHere { session, to })
    }

    /// The half that sent this frame, if it waits for something that only the other half can send.
    fn waiting(&self) -> Option<(SessionId, Role)> {
        match self {
            Frame::Attach(Attach { session, to, .. })
            | Frame::Attached(Attached { session, to, .. })
            | Frame::Hold(Hold { session, to, .. })
            | Frame::Delivered { session, to, .. }
            | Frame::End { session, to, .. } => Some((*session, to.other())),
            Frame::Hello { .. }
            | Frame::Settled { .. }
            | Frame::Open(_)
            | Frame::Answer(_)
            | Frame::Cancel { .. }
            | Frame::Stale { .. }
            | Frame::Held(_)
            | Frame::Unknown { .. }
            | Frame::NotHere { .. }
            | Frame::Ping
            | Frame::Pong => None,
        }
    }

    /// The half that the frame is meant for, if it is one that [`crate::Half::handle`] takes.
    pub fn to(&self) -> Option<Role> {
        match self {
            Frame::Hello { .. }
            | Frame::Settled { .. }
            | Frame::Open(_)
            | Frame::Answer(_)
            | Frame::Cancel { .. }
            | Frame::Ping
            | Frame::Pong => None,
            Frame::Attach(Attach { to, .. })
            | Frame::Attached(Attached { to, .. })
            | Frame::Stale { to, .. }
            | Frame::Delivered { to, .. }
            | Frame::End { to, .. }
            | Frame::Hold(Hold { to, .. })
            | Frame::Held(Held { to, .. })
            | Frame::Unknown { to, .. }
            | Frame::NotHere { to, .. } => Some(*to),
        }
    }
}

/// The version to speak, given what the other side offered in its HELLO; none if there is no common one.
pub fn negotiate(version_min: u32, version_max: u32) -> Option<u32> {
    let highest = version_max.min(limits::VERSION_MAX);
    (highest >= version_min.max(limits::VERSION_MIN)).then_some(highest)
}

/// A program's connect(). The same OPEN may come again: (source, destination, sequence) tell it from a new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Drawn by the opener's sidecar.
    pub session: SessionId,
    /// Locator and port of the program that connects.
    pub source: SocketAddr,
    /// Locator and port that it connects to.
    pub destination: SocketAddr,
    /// Sequence number of the SYN.
    pub sequence: u32,
    /// Capsule that connects.
    pub opener: CapsuleId,
    /// Its generation.
    pub opener_generation: Generation,
    /// Capsule at the destination.
    pub acceptor: CapsuleId,
    /// Its generation as the opener's sidecar knows it.
    pub acceptor_generation: Generation,
}

/// Answers an [`Open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Session of the OPEN.
    pub session: SessionId,
    /// What became of it.
    pub outcome: OpenOutcome,
}

/// What became of an [`Open`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenOutcome {
    /// The far kernel completed the handshake; both halves are attached at attempt 0.
    Accepted {
        /// The acceptor's generation, which goes into the first key.
        generation: Generation,
    },
    /// ECONNREFUSED.
    Refused,
    /// EHOSTUNREACH.
    Unreachable,
    /// ETIMEDOUT.
    TimedOut,
    /// Policy forbids it.
    Denied,
    /// The capsule is not on this host: ask the directory again.
    NotHere,
    /// The capsule is moving: ask again when its place changed.
    Wait,
}

/// Where a half stands. Carried by attach, attached, hold and held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Bytes that its socket took: the other half sends on from here.
    pub delivered: u64,
    /// Bytes that the other half may forget: 0 while the program has not accepted the connection.
    pub acknowledged: u64,
    /// Bytes of its own program that it has forgotten.
    pub consumed: u64,
    /// How its own program's direction ended.
    pub end: Option<End>,
    /// The other half's end that it applied.
    pub end_delivered: Option<EndKind>,
}

macro_rules! positioned {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name {
            /// Session.
            pub session: SessionId,
            /// Half meant.
            pub to: Role,
            /// Attach proposed, agreed or held.
            pub key: AttachKey,
            /// Where the sender stands.
            pub position: Position,
        }
    };
}

positioned!(
    /// Proposes an attach under a new key.
    Attach
);
positioned!(
    /// Agrees to an [`Attach`].
    Attached
);
positioned!(
    /// Asks the other half to be still until the next attach; also the answer to an [`Attach`] while holding.
    Hold
);
positioned!(
    /// Answers every [`Hold`].
    Held
);
