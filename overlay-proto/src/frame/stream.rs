//! The header of a one-way stream.

use bytes::BytesMut;

use super::codec::{self, FrameError};
use super::{fields, wire};
use crate::id::SessionId;
use crate::limits::STREAM_HEADER_BYTES_MAX;
use crate::session::{AttachKey, Role};

/// What a one-way stream is for: the first thing on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamStart {
    /// Bytes of a session follow.
    Session(StreamHeader),
    /// One [`super::Datagram`] follows, and the end of the stream.
    Datagram,
}

impl StreamStart {
    /// Appends the header with its length.
    pub fn encode(&self, buffer: &mut BytesMut) {
        match self {
            StreamStart::Session(header) => header.encode(buffer),
            StreamStart::Datagram => {
                codec::put(&wire::StreamHeader { datagram: true, ..wire::StreamHeader::default() }, buffer);
            }
        }
    }

    /// Takes a header from the front of the buffer, which then begins with what the stream is for; none yet if it is not
    /// complete.
    ///
    /// # Errors
    /// The header is too long or no header: the stream is of no use.
    pub fn decode(buffer: &mut BytesMut) -> Result<Option<StreamStart>, FrameError> {
        match codec::take::<wire::StreamHeader>(buffer, STREAM_HEADER_BYTES_MAX)? {
            None => Ok(None),
            Some(message) if message.datagram => Ok(Some(StreamStart::Datagram)),
            Some(message) => StreamHeader::read(message).map(|header| Some(StreamStart::Session(header))),
        }
    }
}

/// First thing on each data stream; raw bytes of the session follow, from `offset` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamHeader {
    /// Session.
    pub session: SessionId,
    /// The half that receives.
    pub to: Role,
    /// Attach that the stream belongs to.
    pub key: AttachKey,
    /// Offset of the first byte.
    pub offset: u64,
}

impl StreamHeader {
    /// Appends the header with its length.
    pub fn encode(&self, buffer: &mut BytesMut) {
        let message = wire::StreamHeader {
            session: self.session.as_bytes().to_vec(),
            to: fields::role_to_wire(self.to),
            key: Some(fields::key_to_wire(self.key)),
            offset: self.offset,
            datagram: false,
        };
        codec::put(&message, buffer);
    }

    /// Takes a header from the front of the buffer, which then begins with the first raw byte; none yet if it is
    /// not complete.
    ///
    /// # Errors
    /// The header is too long or no header: the stream is of no use.
    pub fn decode(buffer: &mut BytesMut) -> Result<Option<StreamHeader>, FrameError> {
        let Some(message) = codec::take::<wire::StreamHeader>(buffer, STREAM_HEADER_BYTES_MAX)? else {
            return Ok(None);
        };
        StreamHeader::read(message).map(Some)
    }

    fn read(message: wire::StreamHeader) -> Result<StreamHeader, FrameError> {
        Ok(StreamHeader {
            session: fields::session(&message.session)?,
            to: fields::role(message.to)?,
            key: fields::key(message.key)?,
            offset: message.offset,
        })
    }
}
