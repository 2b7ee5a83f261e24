//! Hand-made packets inside a namespace: FIN and RST segments, and ICMP errors.
//!
//! They are how a socket is told something that the other end can't say (any more, or yet), as that end would.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

const HOPS: u8 = 64;
const TCP_HEADER_BYTES: usize = 20;
/// No TCP flag combination is needed but these.
pub(crate) const FIN_ACK: u8 = 0x11;
pub(crate) const RST_ACK: u8 = 0x14;

/// A bare TCP segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    pub(crate) flags: u8,
    /// As it stands in the header: already shifted.
    pub(crate) window: u16,
}

/// A raw socket of each family, in the namespace it was opened in.
#[derive(Debug)]
pub(crate) struct Injector {
    v4: Socket,
    v6: Socket,
}

impl Injector {
    /// `mark` is what the packets carry.
    pub(crate) fn open(mark: u32) -> io::Result<Injector> {
        let raw = |domain| {
            let kind = Type::RAW.nonblocking().cloexec();
            let socket = Socket::new_raw(domain, kind, Some(Protocol::from(libc::IPPROTO_RAW)))?;
            socket.set_mark(mark)?;
            io::Result::Ok(socket)
        };
        Ok(Injector { v4: raw(Domain::IPV4)?, v6: raw(Domain::IPV6)? })
    }

    pub(crate) fn send_segment(&self, segment: &Segment) -> io::Result<()> {
        let mut tcp = [0; TCP_HEADER_BYTES];
        tcp[0..2].copy_from_slice(&segment.source.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&segment.destination.port().to_be_bytes());
        tcp[4..8].copy_from_slice(&segment.sequence.to_be_bytes());
        tcp[8..12].copy_from_slice(&segment.acknowledgment.to_be_bytes());
        tcp[12] = (TCP_HEADER_BYTES as u8 / 4) << 4;
        tcp[13] = segment.flags;
        tcp[14..16].copy_from_slice(&segment.window.to_be_bytes());
        let (source, destination) = (segment.source.ip(), segment.destination.ip());
        let sum = pseudo_sum(source, destination, libc::IPPROTO_TCP as u8, tcp.len());
        let sum = checksum(&tcp, sum).to_be_bytes();
        tcp[16..18].copy_from_slice(&sum);
        self.send(source, destination, libc::IPPROTO_TCP as u8, &tcp)
    }

    /// Says that the host a packet was for can't be reached. `packet` begins with its IP header.
    pub(crate) fn send_unreachable(&self, host: IpAddr, sender: IpAddr, packet: &[u8]) -> io::Result<()> {
        let (protocol, kind, code) = match host {
            IpAddr::V4(_) => (libc::IPPROTO_ICMP, 3, 1),
            IpAddr::V6(_) => (libc::IPPROTO_ICMPV6, 1, 3),
        };
        let mut icmp = vec![kind, code, 0, 0, 0, 0, 0, 0];
        icmp.extend_from_slice(packet);
        let sum = if host.is_ipv6() { pseudo_sum(host, sender, protocol as u8, icmp.len()) } else { 0 };
        let sum = checksum(&icmp, sum).to_be_bytes();
        icmp[2..4].copy_from_slice(&sum);
        self.send(host, sender, protocol as u8, &icmp)
    }

    fn send(&self, source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> io::Result<()> {
        let (socket, mut packet) = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                (&self.v4, v4_header(source, destination, protocol, payload.len()))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                (&self.v6, v6_header(source, destination, protocol, payload.len()))
            }
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        packet.extend_from_slice(payload);
        socket.send_to(&packet, &SocketAddr::new(destination, 0).into()).map(drop)
    }
}

fn v4_header(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload_bytes: usize) -> Vec<u8> {
    // The kernel fills in the identification and the checksum.
    let length = ((20 + payload_bytes) as u16).to_be_bytes();
    let mut header = vec![0x45, 0, length[0], length[1], 0, 0, 0x40, 0, HOPS, protocol, 0, 0];
    header.extend_from_slice(&source.octets());
    header.extend_from_slice(&destination.octets());
    header
}

fn v6_header(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, payload_bytes: usize) -> Vec<u8> {
    let length = (payload_bytes as u16).to_be_bytes();
    let mut header = vec![0x60, 0, 0, 0, length[0], length[1], protocol, HOPS];
    header.extend_from_slice(&source.octets());
    header.extend_from_slice(&destination.octets());
    header
}

/// Unfolded sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1).
fn pseudo_sum(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u32 {
    let addresses = [source, destination].into_iter().map(|address| match address {
        IpAddr::V4(v4) => sum_words(&v4.octets()),
        IpAddr::V6(v6) => sum_words(&v6.octets()),
    });
    addresses.sum::<u32>() + u32::from(protocol) + length as u32
}

fn checksum(bytes: &[u8], initial: u32) -> u16 {
    let mut sum = initial + sum_words(bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn sum_words(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0))).sum()
}
