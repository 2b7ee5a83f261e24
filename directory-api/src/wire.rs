//! The encodings: `prost` messages with tagged fields, and the way from them to the domain types and back.
//!
//! A tag is never used again for something else; a field that a reader does not know is skipped; a request or a change
//! that it does not know is an error of its own kind ([`WireError::Unknown`]), so that the sender can be told.

mod asked;
mod assertion;
mod error;
mod message;
mod record;
mod request;
mod response;
mod rule;

use prost::Message as _;

use crate::{ApiError, CapsuleRecord, Change, Request, Response, Rule};

/// Bytes that are no message of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not a `prost` message of the expected form.
    #[error("undecodable: {0}")]
    Undecodable(#[from] prost::DecodeError),
    /// A kind of message that a newer version has.
    #[error("unknown kind of {0}")]
    Unknown(&'static str),
    /// A field is absent or its value is impossible.
    #[error("bad field `{0}`")]
    Field(&'static str),
}

impl Request {
    /// The message as bytes, without length.
    pub fn encode(&self) -> Vec<u8> {
        request::to_wire(self).encode_to_vec()
    }

    /// Reads a message.
    ///
    /// # Errors
    /// When the bytes are no request that this version knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        request::from_wire(message::Request::decode(bytes)?)
    }
}

impl Response {
    /// The message as bytes, without length.
    pub fn encode(&self) -> Vec<u8> {
        response::to_wire(self).encode_to_vec()
    }

    /// Reads a message.
    ///
    /// # Errors
    /// When the bytes are no response that this version knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        response::from_wire(message::Response::decode(bytes)?)
    }
}

impl Change {
    /// The change as messages of a watch, without lengths: one, or for a snapshot as many as its size needs.
    pub fn encode(&self) -> Vec<Vec<u8>> {
        response::pieces_to_wire(self)
    }

    /// The message that ends a watch which the directory refuses.
    pub fn encode_refusal(refusal: &ApiError) -> Vec<u8> {
        response::refusal_to_wire(refusal)
    }
}

/// One message of a watch: a change, or one piece of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WatchPiece {
    Change(Change),
    Snapshot { piece: Change, last: bool },
    Refused(ApiError),
}

pub(crate) use message::TokenPayload;

pub(crate) use response::piece_from_wire;

/// A record as it is kept in the directory's store.
pub fn encode_capsule(record: &CapsuleRecord) -> Vec<u8> {
    record::capsule_to_wire(record).encode_to_vec()
}

/// Reads a record from the directory's store.
///
/// # Errors
/// When the bytes are no record.
pub fn decode_capsule(bytes: &[u8]) -> Result<CapsuleRecord, WireError> {
    record::capsule_from_wire(message::Capsule::decode(bytes)?)
}

/// A rule as it is kept in the directory's store.
pub fn encode_rule(record: &Rule) -> Vec<u8> {
    rule::rule_to_wire(record).encode_to_vec()
}

/// Reads a rule from the directory's store.
///
/// # Errors
/// When the bytes are no rule.
pub fn decode_rule(bytes: &[u8]) -> Result<Rule, WireError> {
    rule::rule_from_wire(message::Rule::decode(bytes)?)
}

/// A hash, or none.
fn hash(value: &[u8], field: &'static str) -> Result<Option<[u8; 32]>, WireError> {
    match value {
        [] => Ok(None),
        value => bytes(value, field).map(Some),
    }
}

/// What is kept of a restore, as bytes.
pub fn encode_restored(restored: &crate::stored::Restored) -> Vec<u8> {
    assertion::restored_to_wire(restored).encode_to_vec()
}

/// Reads what is kept of a restore.
///
/// # Errors
/// When the bytes are none.
pub fn decode_restored(bytes: &[u8]) -> Result<crate::stored::Restored, WireError> {
    assertion::restored_from_wire(message::Restored::decode(bytes)?)
}

/// The field must be there.
fn needed<T>(value: Option<T>, field: &'static str) -> Result<T, WireError> {
    value.ok_or(WireError::Field(field))
}

/// The field must read as `T`.
fn parsed<T: std::str::FromStr>(text: &str, field: &'static str) -> Result<T, WireError> {
    text.parse().map_err(|_| WireError::Field(field))
}

/// The field must have exactly `LENGTH` bytes.
fn bytes<const LENGTH: usize>(value: &[u8], field: &'static str) -> Result<[u8; LENGTH], WireError> {
    value.try_into().map_err(|_| WireError::Field(field))
}

#[cfg(test)]
mod tests;
