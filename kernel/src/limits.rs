//! Every bound of this crate, with its unit and reason.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Port of the TPROXY listener. Privileged and unassigned in practice (tcpmux), so programs do not listen there.
pub const INTERCEPT_TCP_PORT: u16 = 1;

/// Port where no TPROXY listener is (compressnet): for packets that belong to a connection or to nothing.
pub const UNUSED_TCP_PORT: u16 = 2;

/// How long it is remembered that a packet from a port was not of a connection: longer than TCP waits before it sends
/// again what it sent first after a handshake of any length (RFC 6298 allows to bound that by 60 s).
pub const MISSED_PORT_TIMEOUT_MS: u64 = 60_000;

/// Port of the TPROXY socket for datagrams: as for TCP.
pub const INTERCEPT_UDP_PORT: u16 = 1;

/// Address of the IPv4 TPROXY listener: the dummy address of RFC 7600, which no program can dial directly, so the
/// listener only ever gets what was intercepted.
pub const INTERCEPT_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// Address of the IPv6 TPROXY listener: in the discard prefix of RFC 6666, for the same reason.
pub const INTERCEPT_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1);

/// Mark of the packets that pass the lock: CRIU's `SOCCR_MARK`, which this crate's own injected segments carry too.
pub const PASS_LOCK_MARK: u32 = 0xC114;

/// Mark of what machines outside sent to locators, by which their host takes it for its own; also the number of the
/// routing table that says so. Next to [`PASS_LOCK_MARK`], and used by no other software that is known.
pub const ROUTED_MARK: u32 = 0xC115;

/// Numbers of the queues of SYNs and of ICMP in a gateway's own network, where others may have queues too: low numbers are
/// what firewalls and intrusion detection use.
pub const ROUTED_QUEUES: [u16; 2] = [0xC114, 0xC115];

/// Connections waiting for `accept` on the TPROXY listener; the kernel caps it at `net.core.somaxconn`.
pub const LISTEN_BACKLOG: i32 = 4096;

/// After this time without a word a machine outside is asked whether it is still there: one that lost its power says
/// nothing, and the program would keep its connection for ever.
pub const OUTSIDE_QUIET: Duration = Duration::from_secs(60);

/// Time between two such questions.
pub const OUTSIDE_PROBE_PAUSE: Duration = Duration::from_secs(15);

/// Questions without an answer after which it is gone: together two and a half minutes.
pub const OUTSIDE_PROBES: u32 = 6;

/// SYNs held at once in one namespace unless something else is asked for.
pub const SYN_HELD_MAX: u32 = 65_536;

/// Bytes of a held packet that are looked at: an IPv6 header (40) and the longest TCP header (60), rounded up.
pub const SYN_COPY_BYTES: u32 = 128;

/// Receive buffer of the SYN queue's netlink socket; a message takes about 1 KiB of it.
pub const SYN_SOCKET_BYTES: usize = 64 << 20;

/// Tries to make an ICMP error reach a connect that is just holding its socket's lock.
pub const UNREACHABLE_TRIES_MAX: u32 = 50;

/// Bytes of netlink answers read at once; the kernel fills at most 32 KiB for a dump.
pub const NETLINK_READ_BYTES: usize = 64 << 10;

/// Receive buffer that takes what an orphan can have in its send queue (`tcp_wmem` allows 4 MiB; 16 were tried).
pub const ORPHAN_BUFFER_BYTES: usize = 16 << 20;

/// Bytes of one queue of a captured socket. Queues are bounded by the socket buffers, which are set to less.
pub const QUEUE_BYTES_MAX: usize = 256 << 20;

/// A peek at the send queue may begin before the first unacknowledged byte, by less than one segment
/// (GSO segments are at most 64 KiB, BIG TCP's at most 512 KiB).
pub const SEGMENT_BYTES_MAX: usize = 512 << 10;

/// How long an injected segment may take to arrive at its socket.
pub const INJECT_WAIT_MS_MAX: u64 = 1000;

/// Bytes of the largest datagram: 65,535 less an IPv4 header and a UDP header. IPv6 would allow 20 more, which no
/// program here can have answered.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Receive buffer of the TPROXY socket for datagrams: what programs send while the sidecar is busy, or is being
/// replaced. At 60 packets a second of 1 KiB, half a minute's worth.
pub const DATAGRAM_SOCKET_BYTES: usize = 4 << 20;

/// UDP bytes that are injected as one packet: what the smallest MTU that `lo` has here (65,534) takes together with any
/// IP header.
pub const INJECT_WHOLE_BYTES_MAX: usize = 65_000;

/// Bytes of the first of two fragments; a multiple of 8, about half of the largest datagram.
pub const INJECT_FRAGMENT_BYTES: usize = 32_768;

/// Bytes of a packet that gets through on all networks: the least that IPv6 asks of a link (RFC 8200, section 5).
pub const OUTSIDE_PACKET_BYTES: usize = 1280;

/// ICMP messages that wait for the sidecar in one namespace. They are read at once; more is a flood.
pub const ICMP_HELD_MAX: u32 = 4096;

/// Bytes of an ICMP message with its IP header that are carried: pings up to this size.
pub const ICMP_COPY_BYTES: u32 = 16 << 10;

/// Receive buffer of the ICMP queue's netlink socket.
pub const ICMP_SOCKET_BYTES: usize = 1 << 20;
