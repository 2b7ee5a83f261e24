//! QUIC settings and UDP sockets.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::{MtuDiscoveryConfig, VarInt};
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

use crate::limits::MTU_MAX;

/// What differs between the uses of QUIC here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportSettings {
    /// How often a quiet connection says that it lives.
    pub keep_alive: Duration,
    /// How long the other side may be silent before the connection is given up.
    pub idle_timeout: Duration,
    /// Round trip assumed before one was seen: a handshake's first packet is repeated after three times this.
    pub initial_rtt: Duration,
    /// UDP payload to begin with, bytes; the path must take it.
    pub mtu_initial: u16,
    /// Largest UDP payload tried, bytes; held to [`MTU_MAX`].
    pub mtu_max: u16,
    /// Unacknowledged bytes that the other side may send on one stream.
    pub stream_window_bytes: u32,
    /// Unacknowledged bytes that the other side may send on all streams.
    pub receive_window_bytes: u32,
    /// Unacknowledged bytes that this side keeps for all streams.
    pub send_window_bytes: u64,
    /// One-way streams that the other side may have open.
    pub streams_uni_max: u32,
    /// Two-way streams that the other side may have open.
    pub streams_bi_max: u32,
    /// Datagrams kept in each direction, bytes.
    pub datagram_buffer_bytes: usize,
}

impl TransportSettings {
    /// For links between hosts: many sessions, much data.
    pub fn link() -> Self {
        Self {
            keep_alive: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(30),
            // After a partition a dial is often under way: what it repeats late keeps sessions waiting.
            initial_rtt: Duration::from_millis(100),
            mtu_initial: 1_452,
            mtu_max: MTU_MAX,
            stream_window_bytes: 8 << 20,
            receive_window_bytes: 256 << 20,
            send_window_bytes: 64 << 20,
            streams_uni_max: 65_536,
            streams_bi_max: 4_096,
            datagram_buffer_bytes: 4 << 20,
        }
    }

    /// For the directory: short requests, and a dead peer noticed soon.
    pub fn directory() -> Self {
        Self {
            keep_alive: Duration::from_secs(3),
            idle_timeout: Duration::from_secs(10),
            initial_rtt: Duration::from_millis(333),
            mtu_initial: 1_200,
            mtu_max: 1_452,
            stream_window_bytes: 1 << 20,
            receive_window_bytes: 8 << 20,
            send_window_bytes: 8 << 20,
            streams_uni_max: 0,
            streams_bi_max: 256,
            datagram_buffer_bytes: 0,
        }
    }

    /// The settings as quinn takes them.
    pub fn build(&self) -> Arc<quinn::TransportConfig> {
        let mut discovery = MtuDiscoveryConfig::default();
        let mtu_max = self.mtu_max.min(MTU_MAX);
        discovery.upper_bound(mtu_max);
        // A value outside of QUIC's range (2⁶² ms) stands for the longest.
        let idle = quinn::IdleTimeout::try_from(self.idle_timeout).unwrap_or(VarInt::MAX.into());
        let mut config = quinn::TransportConfig::default();
        config
            .keep_alive_interval(Some(self.keep_alive))
            .max_idle_timeout(Some(idle))
            .initial_rtt(self.initial_rtt)
            .initial_mtu(self.mtu_initial.min(mtu_max))
            .mtu_discovery_config(Some(discovery))
            .stream_receive_window(self.stream_window_bytes.into())
            .receive_window(self.receive_window_bytes.into())
            .send_window(self.send_window_bytes)
            .max_concurrent_uni_streams(self.streams_uni_max.into())
            .max_concurrent_bidi_streams(self.streams_bi_max.into())
            .datagram_receive_buffer_size(
                (self.datagram_buffer_bytes > 0).then_some(self.datagram_buffer_bytes),
            )
            .datagram_send_buffer_size(self.datagram_buffer_bytes);
        Arc::new(config)
    }
}

/// Opens a UDP socket with large buffers: by force where the process may, as far as `rmem_max` allows otherwise. An
/// unspecified IPv6 address takes IPv4 too.
///
/// # Errors
/// When the address cannot be bound.
pub fn udp_socket(address: SocketAddr, buffer_bytes: usize) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    if sockopt::set_socket_recv_buffer_size_force(&socket, buffer_bytes).is_err() {
        socket.set_recv_buffer_size(buffer_bytes)?;
    }
    if sockopt::set_socket_send_buffer_size_force(&socket, buffer_bytes).is_err() {
        socket.set_send_buffer_size(buffer_bytes)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Opens a QUIC endpoint on a socket; must be called inside a tokio runtime.
///
/// # Errors
/// When the socket cannot be used.
pub fn endpoint(socket: UdpSocket, server: Option<quinn::ServerConfig>) -> io::Result<quinn::Endpoint> {
    open(socket, server, quinn::EndpointConfig::default())
}

/// As [`endpoint`], for a server that may die and be started anew at the same address with the same secret: peers that
/// still believe in a connection to the old process learn from its first answer that it is gone (a stateless reset,
/// RFC 9000, section 10.3), and need not wait for the idle timeout.
///
/// # Errors
/// When the socket cannot be used.
pub fn restartable_endpoint(
    socket: UdpSocket,
    server: Option<quinn::ServerConfig>,
    secret: &[u8; 32],
) -> io::Result<quinn::Endpoint> {
    let mut config =
        quinn::EndpointConfig::new(Arc::new(ResetKey(blake3::derive_key(RESET_CONTEXT, secret))));
    // quinn's own generator marks its ids with a key of the process, and would not answer for those of another.
    config.cid_generator(|| Box::new(RandomIds));
    open(socket, server, config)
}

/// Separates this use of the secret from all others.
const RESET_CONTEXT: &str = "capsule 2026 QUIC stateless reset";

fn open(
    socket: UdpSocket,
    server: Option<quinn::ServerConfig>,
    mut config: quinn::EndpointConfig,
) -> io::Result<quinn::Endpoint> {
    // The other side probes no further than this, whatever its own limit is.
    config.max_udp_payload_size(MTU_MAX).map_err(io::Error::other)?;
    quinn::Endpoint::new(config, server, socket, Arc::new(quinn::TokioRuntime))
}

struct ResetKey([u8; 32]);

impl quinn::crypto::HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), quinn::crypto::CryptoError> {
        let given = <[u8; blake3::OUT_LEN]>::try_from(signature).map_err(|_| quinn::crypto::CryptoError)?;
        // blake3's comparison takes the same time wherever the difference is.
        match blake3::keyed_hash(&self.0, data) == blake3::Hash::from_bytes(given) {
            true => Ok(()),
            false => Err(quinn::crypto::CryptoError),
        }
    }
}

/// Connection ids without a mark.
struct RandomIds;

/// Bytes of a connection id: what quinn's own generators use.
const CONNECTION_ID_BYTES: usize = 8;

impl quinn::ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        let mut bytes = [0; CONNECTION_ID_BYTES];
        super::provider()
            .secure_random
            .fill(&mut bytes)
            .expect("the kernel has random numbers once TLS has used them");
        quinn::ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
