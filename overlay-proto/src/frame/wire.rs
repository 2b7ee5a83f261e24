//! Messages as they go over the wire. Tags are never used again for something else.

use prost::{Enumeration, Message, Oneof};

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Envelope {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16")]
    pub(crate) kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Kind {
    #[prost(message, tag = "1")]
    Hello(Hello),
    #[prost(message, tag = "2")]
    Open(Open),
    #[prost(message, tag = "3")]
    Answer(Answer),
    #[prost(message, tag = "4")]
    Cancel(Cancel),
    #[prost(message, tag = "5")]
    Attach(Positioned),
    #[prost(message, tag = "6")]
    Attached(Positioned),
    #[prost(message, tag = "7")]
    Stale(Stale),
    #[prost(message, tag = "8")]
    Delivered(Delivered),
    #[prost(message, tag = "9")]
    End(End),
    #[prost(message, tag = "10")]
    Hold(Positioned),
    #[prost(message, tag = "11")]
    Held(Positioned),
    #[prost(message, tag = "12")]
    Unknown(Addressed),
    #[prost(message, tag = "13")]
    NotHere(Addressed),
    #[prost(message, tag = "14")]
    Ping(Empty),
    #[prost(message, tag = "15")]
    Pong(Empty),
    #[prost(message, tag = "16")]
    Settled(Settled),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Empty {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Hello {
    #[prost(uint32, tag = "1")]
    pub(crate) version_min: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) version_max: u32,
    #[prost(fixed64, tag = "3")]
    pub(crate) sidecar: u64,
    #[prost(fixed64, tag = "4")]
    pub(crate) dial: u64,
    #[prost(fixed64, tag = "5")]
    pub(crate) known: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Settled {
    #[prost(uint64, tag = "1")]
    pub(crate) order: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Address {
    /// 4 or 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) ip: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(crate) port: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Open {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) session: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    pub(crate) source: Option<Address>,
    #[prost(message, optional, tag = "3")]
    pub(crate) destination: Option<Address>,
    #[prost(fixed32, tag = "4")]
    pub(crate) sequence: u32,
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) opener: Vec<u8>,
    #[prost(uint64, tag = "6")]
    pub(crate) opener_generation: u64,
    #[prost(bytes = "vec", tag = "7")]
    pub(crate) acceptor: Vec<u8>,
    #[prost(uint64, tag = "8")]
    pub(crate) acceptor_generation: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(crate) enum Outcome {
    Unset = 0,
    Accepted = 1,
    Refused = 2,
    Unreachable = 3,
    TimedOut = 4,
    Denied = 5,
    NotHere = 6,
    Wait = 7,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Answer {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) session: Vec<u8>,
    #[prost(enumeration = "Outcome", tag = "2")]
    pub(crate) outcome: i32,
    /// Of the acceptor, when accepted.
    #[prost(uint64, tag = "3")]
    pub(crate) generation: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Cancel {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) session: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(crate) enum Role {
    Unset = 0,
    Opener = 1,
    Acceptor = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(crate) enum EndKind {
    None = 0,
    Fin = 1,
    Reset = 2,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Key {
    #[prost(uint64, tag = "1")]
    pub(crate) opener_generation: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) acceptor_generation: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) attempt: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Addressed {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) session: Vec<u8>,
    #[prost(enumeration = "Role", tag = "2")]
    pub(crate) to: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Positioned {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) session: Vec<u8>,
    #[prost(enumeration = "Role", tag = "2")]
    pub(crate) to: i32,
    #[prost(message, optional, tag = "3")]
    pub(crate) key: Option<Key>,
    #[prost(uint64, tag = "4")]
    pub(crate) delivered: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) acknowledged: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) consumed: u64,
    #[prost(enumeration = "EndKind", tag = "7")]
    pub(crate) end_kind: i32,
    #[prost(uint64, tag = "8")]
    pub(crate) end_offset: u64,
    #[prost(enumeration = "EndKind", tag = "9")]
    pub(crate) end_delivered: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Stale {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) session: Vec<u8>,
    #[prost(enumeration = "Role", tag = "2")]
    pub(crate) to: i32,
    #[prost(message, optional, tag = "3")]
    pub(crate) key: Option<Key>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Delivered {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) session: Vec<u8>,
    #[prost(enumeration = "Role", tag = "2")]
    pub(crate) to: i32,
    #[prost(message, optional, tag = "3")]
    pub(crate) key: Option<Key>,
    #[prost(uint64, tag = "4")]
    pub(crate) offset: u64,
    #[prost(enumeration = "EndKind", tag = "5")]
    pub(crate) end: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct End {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) session: Vec<u8>,
    #[prost(enumeration = "Role", tag = "2")]
    pub(crate) to: i32,
    #[prost(message, optional, tag = "3")]
    pub(crate) key: Option<Key>,
    #[prost(enumeration = "EndKind", tag = "4")]
    pub(crate) kind: i32,
    #[prost(uint64, tag = "5")]
    pub(crate) offset: u64,
}

/// First thing on a data stream.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StreamHeader {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) session: Vec<u8>,
    #[prost(enumeration = "Role", tag = "2")]
    pub(crate) to: i32,
    #[prost(message, optional, tag = "3")]
    pub(crate) key: Option<Key>,
    #[prost(uint64, tag = "4")]
    pub(crate) offset: u64,
    /// The stream carries one datagram, and nothing of a session.
    #[prost(bool, tag = "5")]
    pub(crate) datagram: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(crate) enum ReturnReason {
    None = 0,
    NotHere = 1,
    Denied = 2,
}

/// The whole of a DATAGRAM frame, or of a datagram's stream behind its header.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Datagram {
    #[prost(message, optional, tag = "1")]
    pub(crate) source: Option<Address>,
    #[prost(message, optional, tag = "2")]
    pub(crate) destination: Option<Address>,
    #[prost(uint32, tag = "3")]
    pub(crate) traffic_class: u32,
    #[prost(enumeration = "ReturnReason", tag = "4")]
    pub(crate) reason: i32,
    #[prost(uint32, tag = "5")]
    pub(crate) returns: u32,
    /// Empty, or DATAGRAM_TAG_BYTES.
    #[prost(bytes = "vec", tag = "6")]
    pub(crate) tag: Vec<u8>,
    #[prost(oneof = "DatagramBody", tags = "7, 8")]
    pub(crate) body: Option<DatagramBody>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum DatagramBody {
    #[prost(bytes = "bytes", tag = "7")]
    Udp(bytes::Bytes),
    #[prost(bytes = "bytes", tag = "8")]
    Icmp(bytes::Bytes),
}

/// A half on its way to another host.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Snapshot {
    #[prost(uint32, tag = "1")]
    pub(crate) version: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) session: Vec<u8>,
    #[prost(enumeration = "Role", tag = "3")]
    pub(crate) role: i32,
    #[prost(uint64, tag = "4")]
    pub(crate) opener_generation: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) acceptor_generation: u64,
    #[prost(message, optional, tag = "6")]
    pub(crate) key: Option<Key>,
    #[prost(uint64, tag = "7")]
    pub(crate) consumed: u64,
    #[prost(uint64, tag = "8")]
    pub(crate) reached: u64,
    #[prost(enumeration = "EndKind", tag = "9")]
    pub(crate) outgoing_end_kind: i32,
    #[prost(uint64, tag = "10")]
    pub(crate) outgoing_end_offset: u64,
    #[prost(bool, tag = "11")]
    pub(crate) outgoing_end_delivered: bool,
    #[prost(uint64, tag = "12")]
    pub(crate) delivered: u64,
    #[prost(enumeration = "EndKind", tag = "13")]
    pub(crate) incoming_end_kind: i32,
    #[prost(uint64, tag = "14")]
    pub(crate) incoming_end_offset: u64,
    #[prost(enumeration = "EndKind", tag = "15")]
    pub(crate) incoming_end_applied: i32,
    #[prost(bool, tag = "16")]
    pub(crate) accepted: bool,
    /// [`crate::session::Outcome`] by number: the half is being ended by force, or has ended.
    #[prost(uint32, tag = "17")]
    pub(crate) outcome: u32,
    #[prost(bool, tag = "18")]
    pub(crate) ended: bool,
}
