//! A half on its way to another host, or to a sidecar that takes over.

use std::collections::VecDeque;

use bytes::BytesMut;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::action::{Outcome, Violation};
use super::half::{Half, Holding, Phase};
use super::incoming::Incoming;
use super::key::{AttachKey, End, EndKind, Generations, Role};
use super::outgoing::Outgoing;
use crate::frame::{FrameError, WireSnapshot, fields};
use crate::id::{Generation, SessionId};
use crate::limits::{ACTIONS_MAX, SNAPSHOT_BYTES_MAX};

/// Version of [`HalfSnapshot`] that this build writes; it reads this and older ones.
pub const SNAPSHOT_VERSION: u32 = 1;

/// All that must survive of a half. A sidecar that takes over from one that died fills it from the shim's table and
/// the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HalfSnapshot {
    /// [`SNAPSHOT_VERSION`] of the writer.
    pub version: u32,
    /// Session.
    pub session: SessionId,
    /// Side of the session.
    pub role: Role,
    /// Generations as known.
    pub generations: Generations,
    /// Newest key proposed or agreed to. Must be on record before the frame that carries it is sent.
    pub key: AttachKey,
    /// Offset of the first byte in S's receive queue.
    pub consumed: u64,
    /// Offset that the other half can have at most. Where it is not known: `consumed` and what S has queued.
    pub reached: u64,
    /// How the own program ended.
    pub outgoing_end: Option<End>,
    /// The other half applied that end.
    pub outgoing_end_delivered: bool,
    /// Bytes that S took.
    pub delivered: u64,
    /// How the other program ended.
    pub incoming_end: Option<End>,
    /// The end that S was given.
    pub incoming_end_applied: Option<EndKind>,
    /// The program owns the connection.
    pub accepted: bool,
    /// S is to be reset for this reason, or with `ended` the session is over.
    pub outcome: Option<Outcome>,
    /// The session is over: a tombstone.
    pub ended: bool,
}

/// Why bytes are no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Too many bytes.
    #[error("session snapshot of {found} bytes, at most {SNAPSHOT_BYTES_MAX} are allowed")]
    TooLong {
        /// Bytes found.
        found: usize,
    },
    /// Written by a newer build.
    #[error(
        "session snapshot of version {found}, this build reads up to {SNAPSHOT_VERSION}: upgrade this host"
    )]
    Version {
        /// Version found.
        found: u32,
    },
    /// Not a snapshot.
    #[error("session snapshot can't be read: {0}")]
    Malformed(#[from] FrameError),
    /// Offsets that no half can have.
    #[error("session snapshot contradicts itself: {0}")]
    Contradiction(&'static str),
}

impl Half {
    /// All that must survive.
    pub fn snapshot(&self) -> HalfSnapshot {
        HalfSnapshot {
            version: SNAPSHOT_VERSION,
            session: self.id,
            role: self.role,
            generations: self.generations,
            key: self.key,
            consumed: self.outgoing.consumed,
            reached: self.outgoing.reached,
            outgoing_end: self.outgoing.end,
            outgoing_end_delivered: self.outgoing.end_delivered,
            delivered: self.incoming.delivered,
            incoming_end: self.incoming.end,
            incoming_end_applied: self.incoming.applied,
            accepted: self.incoming.accepted,
            outcome: self.ended.or(self.ending),
            ended: self.ended.is_some(),
        }
    }

    /// A half as it was. It is detached, and holds until [`Half::link_up`] or [`Half::release`]. Before that the
    /// shell tells it the generations, and calls [`Half::dialled_again`] where it did so.
    ///
    /// # Errors
    /// The snapshot is of a newer version, or contradicts itself.
    pub fn restore(snapshot: &HalfSnapshot) -> Result<Half, SnapshotError> {
        check(snapshot)?;
        let outgoing = Outgoing {
            consumed: snapshot.consumed,
            sent: snapshot.consumed,
            reached: snapshot.reached,
            end: snapshot.outgoing_end,
            end_delivered: snapshot.outgoing_end_delivered,
            discarding: snapshot.outcome.is_some()
                || snapshot.incoming_end.is_some_and(|end| end.kind == EndKind::Reset),
            ..Outgoing::default()
        };
        let incoming = Incoming {
            delivered: snapshot.delivered,
            end: snapshot.incoming_end,
            applied: snapshot.incoming_end_applied,
            accepted: snapshot.accepted,
            ..Incoming::default()
        };
        Ok(Half {
            id: snapshot.session,
            role: snapshot.role,
            generations: snapshot.generations,
            key: snapshot.key,
            attempts: snapshot.key.attempt,
            phase: Phase::Detached,
            holding: Holding::Restored,
            link: false,
            asked: false,
            pending: None,
            outgoing,
            incoming,
            peer_gone: false,
            ending: snapshot.outcome.filter(|_| !snapshot.ended),
            ended: snapshot.outcome.filter(|_| snapshot.ended),
            actions: VecDeque::with_capacity(ACTIONS_MAX),
        })
    }
}

fn check(snapshot: &HalfSnapshot) -> Result<(), SnapshotError> {
    if snapshot.version > SNAPSHOT_VERSION {
        return Err(SnapshotError::Version { found: snapshot.version });
    }
    let claim = |holds: bool, what| if holds { Ok(()) } else { Err(SnapshotError::Contradiction(what)) };
    claim(snapshot.consumed <= snapshot.reached, "consumed is beyond what was reached")?;
    claim(
        snapshot.generations.join(snapshot.key.generations()) == snapshot.generations,
        "key of unknown generations",
    )?;
    let end_reached = snapshot.outgoing_end.is_none_or(|end| end.offset >= snapshot.reached);
    claim(end_reached, "the outgoing end is before what was reached")?;
    let delivered_in = snapshot.incoming_end.is_none_or(|end| snapshot.delivered <= end.offset);
    claim(delivered_in || snapshot.outcome.is_some(), "delivered is beyond the incoming end")?;
    let applied_known = snapshot.incoming_end_applied.is_none() || snapshot.incoming_end.is_some();
    claim(applied_known || snapshot.outcome.is_some(), "an end was applied that is unknown")?;
    claim(!snapshot.ended || snapshot.outcome.is_some(), "ended without an outcome")
}

impl HalfSnapshot {
    /// The snapshot as bytes for a move or a capsule file.
    pub fn to_bytes(&self) -> Vec<u8> {
        WireSnapshot {
            version: self.version,
            session: self.session.as_bytes().to_vec(),
            role: fields::role_to_wire(self.role),
            opener_generation: self.generations.opener.number(),
            acceptor_generation: self.generations.acceptor.number(),
            key: Some(fields::key_to_wire(self.key)),
            consumed: self.consumed,
            reached: self.reached,
            outgoing_end_kind: fields::end_kind_to_wire(self.outgoing_end.map(|end| end.kind)),
            outgoing_end_offset: self.outgoing_end.map_or(0, |end| end.offset),
            outgoing_end_delivered: self.outgoing_end_delivered,
            delivered: self.delivered,
            incoming_end_kind: fields::end_kind_to_wire(self.incoming_end.map(|end| end.kind)),
            incoming_end_offset: self.incoming_end.map_or(0, |end| end.offset),
            incoming_end_applied: fields::end_kind_to_wire(self.incoming_end_applied),
            accepted: self.accepted,
            outcome: outcome_to_wire(self.outcome),
            ended: self.ended,
        }
        .encode_to_vec()
    }

    /// Reads what [`HalfSnapshot::to_bytes`] wrote.
    ///
    /// # Errors
    /// The bytes are no snapshot, or one of a newer version.
    pub fn from_bytes(bytes: &[u8]) -> Result<HalfSnapshot, SnapshotError> {
        if bytes.len() > SNAPSHOT_BYTES_MAX {
            return Err(SnapshotError::TooLong { found: bytes.len() });
        }
        let message = WireSnapshot::decode(&mut BytesMut::from(bytes)).map_err(FrameError::from)?;
        if message.version > SNAPSHOT_VERSION {
            return Err(SnapshotError::Version { found: message.version });
        }
        Ok(HalfSnapshot {
            version: message.version,
            session: fields::session(&message.session)?,
            role: fields::role(message.role)?,
            generations: Generations {
                opener: Generation::new(message.opener_generation),
                acceptor: Generation::new(message.acceptor_generation),
            },
            key: fields::key(message.key)?,
            consumed: message.consumed,
            reached: message.reached,
            outgoing_end: fields::end(message.outgoing_end_kind, message.outgoing_end_offset)?,
            outgoing_end_delivered: message.outgoing_end_delivered,
            delivered: message.delivered,
            incoming_end: fields::end(message.incoming_end_kind, message.incoming_end_offset)?,
            incoming_end_applied: fields::end_kind(message.incoming_end_applied)?,
            accepted: message.accepted,
            outcome: outcome_from_wire(message.outcome)?,
            ended: message.ended,
        })
    }
}

/// Numbers of outcomes in snapshots: never used again for something else.
const OUTCOMES: [(u32, Outcome); 10] = [
    (1, Outcome::Closed),
    (2, Outcome::ResetByProgram),
    (3, Outcome::ResetByPeer),
    (4, Outcome::PeerGone),
    (5, Outcome::PeerUnknown),
    (6, Outcome::Broken(Violation::BelowConsumed)),
    (7, Outcome::Broken(Violation::BeyondSent)),
    (8, Outcome::Broken(Violation::PeerConsumedUndelivered)),
    (9, Outcome::Broken(Violation::AcknowledgedUndelivered)),
    (10, Outcome::Broken(Violation::EndBelowDelivered)),
];

fn outcome_to_wire(outcome: Option<Outcome>) -> u32 {
    OUTCOMES.iter().find(|(_, known)| Some(*known) == outcome).map_or(0, |(number, _)| *number)
}

fn outcome_from_wire(number: u32) -> Result<Option<Outcome>, FrameError> {
    if number == 0 {
        return Ok(None);
    }
    let found = OUTCOMES.iter().find(|(known, _)| *known == number).ok_or(FrameError::Field("outcome"))?;
    Ok(Some(found.1))
}
