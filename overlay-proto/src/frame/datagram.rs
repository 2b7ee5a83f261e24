//! One datagram or ICMP message between two capsules, as a QUIC DATAGRAM frame or a stream of its own has it.

use std::net::SocketAddr;

use bytes::Bytes;
use prost::Message;

use super::codec::FrameError;
use super::{fields, wire};
use crate::limits::{DATAGRAM_BYTES_MAX, DATAGRAM_MESSAGE_BYTES_MAX, DATAGRAM_TAG_BYTES};

/// What a program sent to another capsule, or a kernel said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Locator and port of who sent it; port 0 for ICMP.
    pub source: SocketAddr,
    /// Locator and port that it is for; port 0 for ICMP.
    pub destination: SocketAddr,
    /// TOS of IPv4, traffic class of IPv6: the mark of congestion is in there.
    pub traffic_class: u8,
    /// Why it comes back to the host that sent it, if it does.
    pub returned: Option<ReturnReason>,
    /// How often it came back so far.
    pub returns: u32,
    /// By which the host that sent it knows it again.
    pub tag: DatagramTag,
    /// What was sent.
    pub body: DatagramBody,
}

/// Drawn from a datagram's content by the host that sends it, with a key that only it has; zeros if it wants none back.
pub type DatagramTag = [u8; DATAGRAM_TAG_BYTES];

/// What a [`Datagram`] carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatagramBody {
    /// Payload of a UDP datagram.
    Udp(Bytes),
    /// An ICMP or ICMPv6 message from its type on.
    Icmp(Bytes),
}

/// Why a datagram comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnReason {
    /// The capsule is not on this host: ask the directory again.
    NotHere,
    /// Policy forbids it: to the program it is as if nobody were there. Most of the payload is left out.
    Denied,
}

impl DatagramBody {
    /// The bytes, whatever they are.
    pub fn bytes(&self) -> &Bytes {
        match self {
            DatagramBody::Udp(bytes) | DatagramBody::Icmp(bytes) => bytes,
        }
    }
}

impl Datagram {
    /// The message, without a length.
    pub fn encode(&self) -> Bytes {
        let reason = match self.returned {
            None => wire::ReturnReason::None,
            Some(ReturnReason::NotHere) => wire::ReturnReason::NotHere,
            Some(ReturnReason::Denied) => wire::ReturnReason::Denied,
        };
        let tagged = self.tag != DatagramTag::default();
        let message = wire::Datagram {
            source: Some(fields::address_to_wire(self.source)),
            destination: Some(fields::address_to_wire(self.destination)),
            traffic_class: u32::from(self.traffic_class),
            reason: reason.into(),
            returns: self.returns,
            tag: if tagged { self.tag.to_vec() } else { Vec::new() },
            body: Some(match &self.body {
                DatagramBody::Udp(bytes) => wire::DatagramBody::Udp(bytes.clone()),
                DatagramBody::Icmp(bytes) => wire::DatagramBody::Icmp(bytes.clone()),
            }),
        };
        message.encode_to_vec().into()
    }

    /// Reads a whole message.
    ///
    /// # Errors
    /// It is none. Other datagrams of the link are not affected.
    pub fn decode(message: Bytes) -> Result<Datagram, FrameError> {
        if message.len() > DATAGRAM_MESSAGE_BYTES_MAX {
            return Err(FrameError::TooLong { found: message.len(), allowed: DATAGRAM_MESSAGE_BYTES_MAX });
        }
        let message = wire::Datagram::decode(message)?;
        let source = fields::address(message.source.as_ref(), "source")?;
        let destination = fields::address(message.destination.as_ref(), "destination")?;
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(FrameError::Field("destination"));
        }
        let body = match message.body.ok_or(FrameError::UnknownKind)? {
            wire::DatagramBody::Udp(bytes) => DatagramBody::Udp(bytes),
            wire::DatagramBody::Icmp(bytes) => DatagramBody::Icmp(bytes),
        };
        if body.bytes().len() > DATAGRAM_BYTES_MAX {
            return Err(FrameError::Field("body"));
        }
        Ok(Datagram {
            source,
            destination,
            traffic_class: u8::try_from(message.traffic_class)
                .map_err(|_| FrameError::Field("traffic class"))?,
            returned: match wire::ReturnReason::try_from(message.reason) {
                Ok(wire::ReturnReason::None) => None,
                Ok(wire::ReturnReason::NotHere) => Some(ReturnReason::NotHere),
                Ok(wire::ReturnReason::Denied) => Some(ReturnReason::Denied),
                Err(_) => return Err(FrameError::Field("reason")),
            },
            returns: message.returns,
            tag: match message.tag.len() {
                0 => DatagramTag::default(),
                _ => fields::fixed(&message.tag, "tag")?,
            },
            body,
        })
    }
}
