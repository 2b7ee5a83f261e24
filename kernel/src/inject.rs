//! Hand-made packets inside a namespace: FIN and RST segments, ICMP messages, and datagrams from foreign addresses.
//!
//! They are how a socket is told something that the other end can't say itself, as that end would. No socket of ours is
//! bound to a foreign address for it, so none stands in the way of a program that wants the same port.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use crate::limits::{INJECT_FRAGMENT_BYTES, INJECT_WHOLE_BYTES_MAX, OUTSIDE_PACKET_BYTES};

const HOPS: u8 = 64;
const TCP_HEADER_BYTES: usize = 20;
const UDP_HEADER_BYTES: usize = 8;
const V6_FRAGMENT_HEADER: u8 = 44;
const V6_FRAGMENT_BYTES: usize = 8;
const V6_HEADER_BYTES: usize = 40;
const MORE_FRAGMENTS: u16 = 1;
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
    fragments: Fragments,
}

/// How large packets may be where they go.
#[derive(Clone, Copy, Debug)]
struct Fragments {
    /// Bytes behind the IP header that go in one packet.
    whole_bytes_max: usize,
    /// Bytes of each fragment but the last, where they don't; a multiple of 8.
    bytes: usize,
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
        let fragments = Fragments { whole_bytes_max: INJECT_WHOLE_BYTES_MAX, bytes: INJECT_FRAGMENT_BYTES };
        Ok(Injector { v4: raw(Domain::IPV4)?, v6: raw(Domain::IPV6)?, fragments })
    }

    /// One for packets that leave the host.
    pub(crate) fn open_outside() -> io::Result<Injector> {
        let whole_bytes_max = OUTSIDE_PACKET_BYTES - V6_HEADER_BYTES;
        let bytes = (whole_bytes_max - V6_FRAGMENT_BYTES) / 8 * 8;
        Ok(Injector { fragments: Fragments { whole_bytes_max, bytes }, ..Injector::open(0)? })
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
        let (kind, code) = match host {
            IpAddr::V4(_) => (3, 1),
            IpAddr::V6(_) => (1, 3),
        };
        let mut icmp = vec![kind, code, 0, 0, 0, 0, 0, 0];
        icmp.extend_from_slice(packet);
        // What it quotes is short.
        self.send_icmp(host, sender, icmp, 0)
    }

    /// An ICMP message, from its type on; its checksum is worked out here.
    pub(crate) fn send_icmp(
        &self,
        source: IpAddr,
        destination: IpAddr,
        mut message: Vec<u8>,
        identification: u32,
    ) -> io::Result<()> {
        let protocol = if source.is_ipv6() { libc::IPPROTO_ICMPV6 } else { libc::IPPROTO_ICMP } as u8;
        let Some(field) = message.get_mut(2..4) else { return Err(io::ErrorKind::InvalidInput.into()) };
        field.fill(0);
        let v6 = source.is_ipv6();
        let sum = if v6 { pseudo_sum(source, destination, protocol, message.len()) } else { 0 };
        let sum = checksum(&message, sum).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        let packets = Packets { source, destination, protocol, traffic_class: 0 };
        self.send_whole(&packets, &message, identification)
    }

    /// A datagram from any address and port; what is larger than a packet may be goes in fragments.
    pub(crate) fn send_datagram(
        &self,
        source: SocketAddr,
        destination: SocketAddr,
        traffic_class: u8,
        payload: &[u8],
        identification: u32,
    ) -> io::Result<()> {
        let datagram = udp(source, destination, payload)?;
        let packets = Packets {
            source: source.ip(),
            destination: destination.ip(),
            protocol: libc::IPPROTO_UDP as u8,
            traffic_class,
        };
        self.send_whole(&packets, &datagram, identification)
    }

    /// Sends what stands behind an IP header, in as many packets as it takes.
    fn send_whole(&self, packets: &Packets, payload: &[u8], identification: u32) -> io::Result<()> {
        if payload.len() <= self.fragments.whole_bytes_max {
            return self.send_packet(packets, None, payload);
        }
        let mut offset = 0;
        for part in payload.chunks(self.fragments.bytes) {
            let end = usize::from(offset) + part.len();
            let fragment = Fragment { identification, offset, more: end < payload.len() };
            self.send_packet(packets, Some(fragment), part)?;
            offset = u16::try_from(end).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        }
        Ok(())
    }

    fn send(&self, source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> io::Result<()> {
        self.send_packet(&Packets { source, destination, protocol, traffic_class: 0 }, None, payload)
    }

    fn send_packet(&self, packets: &Packets, fragment: Option<Fragment>, payload: &[u8]) -> io::Result<()> {
        let &Packets { source, destination, protocol, traffic_class } = packets;
        let (socket, mut packet) = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = v4_header(source, destination, protocol, payload.len());
                header[1] = traffic_class;
                if let Some(fragment) = fragment {
                    // The kernel sets one identification for each packet that has none.
                    header[4..6].copy_from_slice(&(fragment.identification as u16).max(1).to_be_bytes());
                    let more = if fragment.more { MORE_FRAGMENTS << 13 } else { 0 };
                    header[6..8].copy_from_slice(&((fragment.offset / 8) | more).to_be_bytes());
                }
                (&self.v4, header)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let (next, extension) = match fragment {
                    None => (protocol, Vec::new()),
                    Some(fragment) => (V6_FRAGMENT_HEADER, fragment.v6_header(protocol)),
                };
                let mut header = v6_header(source, destination, next, extension.len() + payload.len());
                header[0] |= traffic_class >> 4;
                header[1] |= traffic_class << 4;
                header.extend_from_slice(&extension);
                (&self.v6, header)
            }
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        packet.extend_from_slice(payload);
        socket.send_to(&packet, &SocketAddr::new(destination, 0).into()).map(drop)
    }
}

/// What the packets of one datagram have in common.
struct Packets {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    traffic_class: u8,
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy)]
struct Fragment {
    identification: u32,
    /// Bytes, a multiple of 8.
    offset: u16,
    more: bool,
}

impl Fragment {
    /// RFC 8200, section 4.5.
    fn v6_header(self, protocol: u8) -> Vec<u8> {
        let mut header = vec![protocol, 0];
        header.extend_from_slice(&(self.offset | u16::from(self.more)).to_be_bytes());
        header.extend_from_slice(&self.identification.to_be_bytes());
        header
    }
}

/// The head of a packet with a datagram in it, as an ICMP error quotes it.
pub(crate) fn quoted(source: SocketAddr, destination: SocketAddr, payload_bytes: usize) -> Vec<u8> {
    let udp_bytes = UDP_HEADER_BYTES + payload_bytes;
    let mut packet = match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            v4_header(source, destination, libc::IPPROTO_UDP as u8, udp_bytes)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            v6_header(source, destination, libc::IPPROTO_UDP as u8, udp_bytes)
        }
        _ => Vec::new(),
    };
    packet.extend_from_slice(&source.port().to_be_bytes());
    packet.extend_from_slice(&destination.port().to_be_bytes());
    packet.extend_from_slice(&(udp_bytes as u16).to_be_bytes());
    packet.extend_from_slice(&[0; 2]);
    packet
}

/// UDP header and payload (RFC 768).
fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> io::Result<Vec<u8>> {
    let length = UDP_HEADER_BYTES + payload.len();
    let length_field = u16::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut datagram = Vec::with_capacity(length);
    datagram.extend_from_slice(&source.port().to_be_bytes());
    datagram.extend_from_slice(&destination.port().to_be_bytes());
    datagram.extend_from_slice(&length_field.to_be_bytes());
    datagram.extend_from_slice(&[0; 2]);
    datagram.extend_from_slice(payload);
    let sum = pseudo_sum(source.ip(), destination.ip(), libc::IPPROTO_UDP as u8, length);
    // Zero would say that there is none.
    let sum = match checksum(&datagram, sum) {
        0 => u16::MAX,
        sum => sum,
    };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    Ok(datagram)
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
    let (pairs, odd) = bytes.as_chunks::<2>();
    let odd = odd.first().map_or(0, |byte| u32::from(*byte) << 8);
    pairs.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum::<u32>() + odd
}
