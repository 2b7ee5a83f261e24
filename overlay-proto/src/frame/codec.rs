//! Frames to bytes and back. Lengths are checked before anything is set aside, and no input can make it panic.

use bytes::{Buf, BufMut, BytesMut};
use prost::Message;

use super::fields::{
    address, address_to_wire, end, end_kind, end_kind_to_wire, fixed, key, key_to_wire, role, role_to_wire,
    session,
};
use super::wire::{self, Kind};
use super::{Answer, Attach, Attached, Frame, Held, Hold, Open, OpenOutcome, Position};
use crate::id::{CapsuleId, Generation, SessionId};
use crate::limits::{FRAME_BYTES_MAX, LENGTH_BYTES};
use crate::session::{AttachKey, Role};

/// Why bytes are no frame. The link or stream they came on is of no further use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than is allowed here.
    #[error("frame of {found} bytes, at most {allowed} are allowed")]
    TooLong {
        /// Length announced.
        found: usize,
        /// Length allowed.
        allowed: usize,
    },
    /// Not a protobuf message of this type.
    #[error("frame can't be read: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// A kind of frame that this version does not know.
    #[error("frame of a kind that this version does not know")]
    UnknownKind,
    /// A field that is missing or has no allowed value.
    #[error("frame without a valid {0}")]
    Field(&'static str),
}

/// Appends the frame with its length.
pub fn encode(frame: &Frame, buffer: &mut BytesMut) {
    put(&wire::Envelope { kind: Some(to_wire(frame)) }, buffer);
}

/// Takes one frame from the front of the buffer; none yet if it is not complete.
///
/// # Errors
/// The bytes are no frame. What follows them can't be trusted either.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    match take::<wire::Envelope>(buffer, FRAME_BYTES_MAX)? {
        None => Ok(None),
        Some(envelope) => from_wire(envelope.kind.ok_or(FrameError::UnknownKind)?).map(Some),
    }
}

pub(super) fn put(message: &impl Message, buffer: &mut BytesMut) {
    let length = message.encoded_len();
    buffer.reserve(LENGTH_BYTES + length);
    buffer.put_u32(u32::try_from(length).expect("messages made here have bounded fields"));
    message.encode(buffer).expect("the buffer grows");
}

pub(super) fn take<M: Message + Default>(
    buffer: &mut BytesMut,
    allowed: usize,
) -> Result<Option<M>, FrameError> {
    let Some(prefix) = buffer.first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let found = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
    if found > allowed {
        return Err(FrameError::TooLong { found, allowed });
    }
    if buffer.len() < LENGTH_BYTES + found {
        return Ok(None);
    }
    buffer.advance(LENGTH_BYTES);
    Ok(Some(M::decode(buffer.split_to(found))?))
}

fn to_wire(frame: &Frame) -> Kind {
    match frame {
        Frame::Hello { version_min, version_max, sidecar, dial, known } => Kind::Hello(wire::Hello {
            version_min: *version_min,
            version_max: *version_max,
            sidecar: *sidecar,
            dial: *dial,
            known: *known,
        }),
        Frame::Settled { order } => Kind::Settled(wire::Settled { order: *order }),
        Frame::Open(open) => Kind::Open(open_to_wire(open)),
        Frame::Answer(answer) => Kind::Answer(answer_to_wire(answer)),
        Frame::Cancel { session } => Kind::Cancel(wire::Cancel { session: session.as_bytes().to_vec() }),
        Frame::Attach(Attach { session, to, key, position }) => {
            Kind::Attach(positioned(*session, *to, *key, *position))
        }
        Frame::Attached(Attached { session, to, key, position }) => {
            Kind::Attached(positioned(*session, *to, *key, *position))
        }
        Frame::Hold(Hold { session, to, key, position }) => {
            Kind::Hold(positioned(*session, *to, *key, *position))
        }
        Frame::Held(Held { session, to, key, position }) => {
            Kind::Held(positioned(*session, *to, *key, *position))
        }
        Frame::Stale { session, to, key } => Kind::Stale(wire::Stale {
            session: session.as_bytes().to_vec(),
            to: role_to_wire(*to),
            key: Some(key_to_wire(*key)),
        }),
        Frame::Delivered { session, to, key, offset, end } => Kind::Delivered(wire::Delivered {
            session: session.as_bytes().to_vec(),
            to: role_to_wire(*to),
            key: Some(key_to_wire(*key)),
            offset: *offset,
            end: end_kind_to_wire(*end),
        }),
        Frame::End { session, to, key, kind, offset } => Kind::End(wire::End {
            session: session.as_bytes().to_vec(),
            to: role_to_wire(*to),
            key: Some(key_to_wire(*key)),
            kind: end_kind_to_wire(Some(*kind)),
            offset: *offset,
        }),
        Frame::Unknown { session, to } => Kind::Unknown(addressed(*session, *to)),
        Frame::NotHere { session, to } => Kind::NotHere(addressed(*session, *to)),
        Frame::Ping => Kind::Ping(wire::Empty {}),
        Frame::Pong => Kind::Pong(wire::Empty {}),
    }
}

fn from_wire(kind: Kind) -> Result<Frame, FrameError> {
    Ok(match kind {
        Kind::Hello(wire::Hello { version_min, version_max, sidecar, dial, known }) => {
            Frame::Hello { version_min, version_max, sidecar, dial, known }
        }
        Kind::Settled(wire::Settled { order }) => Frame::Settled { order },
        Kind::Open(open) => Frame::Open(open_from_wire(&open)?),
        Kind::Answer(answer) => Frame::Answer(answer_from_wire(&answer)?),
        Kind::Cancel(cancel) => Frame::Cancel { session: session(&cancel.session)? },
        Kind::Attach(message) => {
            let (session, to, key, position) = from_positioned(&message)?;
            Frame::Attach(Attach { session, to, key, position })
        }
        Kind::Attached(message) => {
            let (session, to, key, position) = from_positioned(&message)?;
            Frame::Attached(Attached { session, to, key, position })
        }
        Kind::Hold(message) => {
            let (session, to, key, position) = from_positioned(&message)?;
            Frame::Hold(Hold { session, to, key, position })
        }
        Kind::Held(message) => {
            let (session, to, key, position) = from_positioned(&message)?;
            Frame::Held(Held { session, to, key, position })
        }
        Kind::Stale(message) => Frame::Stale {
            session: session(&message.session)?,
            to: role(message.to)?,
            key: key(message.key)?,
        },
        Kind::Delivered(message) => Frame::Delivered {
            session: session(&message.session)?,
            to: role(message.to)?,
            key: key(message.key)?,
            offset: message.offset,
            end: end_kind(message.end)?,
        },
        Kind::End(message) => Frame::End {
            session: session(&message.session)?,
            to: role(message.to)?,
            key: key(message.key)?,
            kind: end_kind(message.kind)?.ok_or(FrameError::Field("end"))?,
            offset: message.offset,
        },
        Kind::Unknown(message) => {
            Frame::Unknown { session: session(&message.session)?, to: role(message.to)? }
        }
        Kind::NotHere(message) => {
            Frame::NotHere { session: session(&message.session)?, to: role(message.to)? }
        }
        Kind::Ping(_) => Frame::Ping,
        Kind::Pong(_) => Frame::Pong,
    })
}

fn open_to_wire(open: &Open) -> wire::Open {
    wire::Open {
        session: open.session.as_bytes().to_vec(),
        source: Some(address_to_wire(open.source)),
        destination: Some(address_to_wire(open.destination)),
        sequence: open.sequence,
        opener: open.opener.as_bytes().to_vec(),
        opener_generation: open.opener_generation.number(),
        acceptor: open.acceptor.as_bytes().to_vec(),
        acceptor_generation: open.acceptor_generation.number(),
    }
}

fn open_from_wire(open: &wire::Open) -> Result<Open, FrameError> {
    Ok(Open {
        session: session(&open.session)?,
        source: address(open.source.as_ref(), "source")?,
        destination: address(open.destination.as_ref(), "destination")?,
        sequence: open.sequence,
        opener: CapsuleId::from_bytes(fixed(&open.opener, "opener")?),
        opener_generation: Generation::new(open.opener_generation),
        acceptor: CapsuleId::from_bytes(fixed(&open.acceptor, "acceptor")?),
        acceptor_generation: Generation::new(open.acceptor_generation),
    })
}

fn answer_to_wire(answer: &Answer) -> wire::Answer {
    let (outcome, generation) = match answer.outcome {
        OpenOutcome::Accepted { generation } => (wire::Outcome::Accepted, generation.number()),
        OpenOutcome::Refused => (wire::Outcome::Refused, 0),
        OpenOutcome::Unreachable => (wire::Outcome::Unreachable, 0),
        OpenOutcome::TimedOut => (wire::Outcome::TimedOut, 0),
        OpenOutcome::Denied => (wire::Outcome::Denied, 0),
        OpenOutcome::NotHere => (wire::Outcome::NotHere, 0),
        OpenOutcome::Wait => (wire::Outcome::Wait, 0),
    };
    wire::Answer { session: answer.session.as_bytes().to_vec(), outcome: outcome.into(), generation }
}

fn answer_from_wire(answer: &wire::Answer) -> Result<Answer, FrameError> {
    let outcome = match wire::Outcome::try_from(answer.outcome) {
        Ok(wire::Outcome::Accepted) => {
            OpenOutcome::Accepted { generation: Generation::new(answer.generation) }
        }
        Ok(wire::Outcome::Refused) => OpenOutcome::Refused,
        Ok(wire::Outcome::Unreachable) => OpenOutcome::Unreachable,
        Ok(wire::Outcome::TimedOut) => OpenOutcome::TimedOut,
        Ok(wire::Outcome::Denied) => OpenOutcome::Denied,
        Ok(wire::Outcome::NotHere) => OpenOutcome::NotHere,
        Ok(wire::Outcome::Wait) => OpenOutcome::Wait,
        Ok(wire::Outcome::Unset) | Err(_) => return Err(FrameError::Field("outcome")),
    };
    Ok(Answer { session: session(&answer.session)?, outcome })
}

fn positioned(session: SessionId, to: Role, key: AttachKey, position: Position) -> wire::Positioned {
    wire::Positioned {
        session: session.as_bytes().to_vec(),
        to: role_to_wire(to),
        key: Some(key_to_wire(key)),
        delivered: position.delivered,
        acknowledged: position.acknowledged,
        consumed: position.consumed,
        end_kind: end_kind_to_wire(position.end.map(|end| end.kind)),
        end_offset: position.end.map_or(0, |end| end.offset),
        end_delivered: end_kind_to_wire(position.end_delivered),
    }
}

fn from_positioned(message: &wire::Positioned) -> Result<(SessionId, Role, AttachKey, Position), FrameError> {
    let position = Position {
        delivered: message.delivered,
        acknowledged: message.acknowledged,
        consumed: message.consumed,
        end: end(message.end_kind, message.end_offset)?,
        end_delivered: end_kind(message.end_delivered)?,
    };
    Ok((session(&message.session)?, role(message.to)?, key(message.key)?, position))
}

fn addressed(session: SessionId, to: Role) -> wire::Addressed {
    wire::Addressed { session: session.as_bytes().to_vec(), to: role_to_wire(to) }
}
