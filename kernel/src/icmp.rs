//! ICMP messages that leave a capsule's namespace for a foreign address: a program's pings, the kernel's answers to
//! pings, and its errors for datagrams that came from there and that nobody takes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use crate::limits::{ICMP_COPY_BYTES, ICMP_HELD_MAX, ICMP_SOCKET_BYTES};
use crate::queue::{Capacity, NF_DROP, PacketQueue};

const V4_HEADER_BYTES: usize = 20;
const V6_HEADER_BYTES: usize = 40;
const ICMP_HEADER_BYTES: usize = 8;
const HOPS: u8 = 64;

/// UDP, as an IP header has it.
pub const PROTOCOL_UDP: u8 = libc::IPPROTO_UDP as u8;
/// ICMP.
pub const PROTOCOL_V4: u8 = libc::IPPROTO_ICMP as u8;
/// ICMPv6.
pub const PROTOCOL_V6: u8 = libc::IPPROTO_ICMPV6 as u8;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who sends it.
    pub source: IpAddr,
    /// Who is to get it.
    pub destination: IpAddr,
    /// The message from its type on.
    pub bytes: Box<[u8]>,
}

/// What a message says, as far as it is carried between capsules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A ping.
    Echo,
    /// The answer to one.
    EchoReply,
    /// A packet did not arrive.
    Unreachable {
        /// Protocol of the packet.
        protocol: u8,
        /// Who had sent it.
        sender: IpAddr,
        /// Where it was to go.
        target: IpAddr,
    },
}

/// The queue of the namespace that it was opened in.
#[derive(Debug)]
pub struct IcmpQueue {
    queue: PacketQueue,
}

impl IcmpQueue {
    /// Opens the queue in the namespace of the calling thread; afterwards any thread may use it.
    ///
    /// # Errors
    /// EBUSY when another process has it open.
    pub fn open(queue: u16) -> io::Result<IcmpQueue> {
        let capacity = Capacity {
            packets: ICMP_HELD_MAX,
            copy_bytes: ICMP_COPY_BYTES,
            socket_bytes: ICMP_SOCKET_BYTES,
            lets_through: false,
        };
        Ok(IcmpQueue { queue: PacketQueue::open(queue, capacity)? })
    }

    /// Takes the next message out of the namespace; `None` when there is none.
    ///
    /// # Errors
    /// Those of the netlink socket.
    #[allow(clippy::should_implement_trait, reason = "errors and pauses are no part of an iterator")]
    pub fn next(&mut self) -> io::Result<Option<Message>> {
        while let Some((id, packet)) = self.queue.next()? {
            self.queue.settle(id, NF_DROP)?;
            if let Some(message) = parse(&packet) {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }
}

impl AsFd for IcmpQueue {
    /// Readable when [`IcmpQueue::next`] has something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

/// What a message between addresses of one family says; `None` if it is of a kind that is not carried.
#[must_use]
pub fn kind(v6: bool, message: &[u8]) -> Option<Kind> {
    let body = message.get(ICMP_HEADER_BYTES..)?;
    match (v6, message[0]) {
        (false, 8) | (true, 128) => Some(Kind::Echo),
        (false, 0) | (true, 129) => Some(Kind::EchoReply),
        (false, 3) => {
            let packet: &[u8; V4_HEADER_BYTES] = body.first_chunk()?;
            let (sender, target) = v4_addresses(packet);
            Some(Kind::Unreachable { protocol: packet[9], sender: sender.into(), target: target.into() })
        }
        (true, 1) => {
            let packet: &[u8; V6_HEADER_BYTES] = body.first_chunk()?;
            let (sender, target) = v6_addresses(packet);
            Some(Kind::Unreachable { protocol: packet[6], sender: sender.into(), target: target.into() })
        }
        _ => None,
    }
}

/// The message that says that an ICMP message did not get to its destination.
#[must_use]
pub fn unreachable(source: IpAddr, destination: IpAddr, message: &[u8]) -> Vec<u8> {
    let (kind, code) = if destination.is_ipv6() { (1, 3) } else { (3, 1) };
    [&[kind, code, 0, 0, 0, 0, 0, 0][..], &quoted(source, destination, message)].concat()
}

/// The head of a packet with an ICMP message in it, as an error quotes it.
pub(crate) fn quoted(source: IpAddr, destination: IpAddr, message: &[u8]) -> Vec<u8> {
    let length = message.len() as u16;
    let mut packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = (V4_HEADER_BYTES as u16).saturating_add(length).to_be_bytes();
            let protocol = libc::IPPROTO_ICMP as u8;
            let mut header = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, HOPS, protocol, 0, 0];
            header.extend_from_slice(&source.octets());
            header.extend_from_slice(&destination.octets());
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = length.to_be_bytes();
            let mut header = vec![0x60, 0, 0, 0, length[0], length[1], libc::IPPROTO_ICMPV6 as u8, HOPS];
            header.extend_from_slice(&source.octets());
            header.extend_from_slice(&destination.octets());
            header
        }
        _ => Vec::new(),
    };
    packet.extend_from_slice(&message[..message.len().min(ICMP_HEADER_BYTES)]);
    packet
}

/// The message in a packet of which nothing is missing.
fn parse(packet: &[u8]) -> Option<Message> {
    let (source, destination, bytes): (IpAddr, IpAddr, &[u8]) = match packet.first()? >> 4 {
        4 => {
            let (source, destination) = v4_addresses(packet.first_chunk()?);
            let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            let header_bytes = usize::from(packet[0] & 15) * 4;
            (source.into(), destination.into(), packet.get(header_bytes..length)?)
        }
        6 => {
            let (source, destination) = v6_addresses(packet.first_chunk()?);
            let length = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
            if i32::from(packet[6]) != libc::IPPROTO_ICMPV6 {
                return None;
            }
            let message = packet.get(V6_HEADER_BYTES..V6_HEADER_BYTES + length)?;
            (source.into(), destination.into(), message)
        }
        _ => return None,
    };
    kind(source.is_ipv6(), bytes)?;
    Some(Message { source, destination, bytes: bytes.into() })
}

fn v4_addresses(header: &[u8; V4_HEADER_BYTES]) -> (Ipv4Addr, Ipv4Addr) {
    let octets = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    (octets(12), octets(16))
}

fn v6_addresses(header: &[u8; V6_HEADER_BYTES]) -> (Ipv6Addr, Ipv6Addr) {
    let (_, addresses) = header.split_at(8);
    let (source, destination) = addresses.split_at(16);
    let address = |bytes: &[u8]| Ipv6Addr::from(<[u8; 16]>::try_from(bytes).expect("half of 32 bytes"));
    (address(source), address(destination))
}
