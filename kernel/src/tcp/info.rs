//! TCP_INFO.

use std::io;
use std::os::fd::AsFd;

use crate::sockopt;

/// Bytes of `struct tcp_info` that are read (linux/tcp.h, up to `tcpi_snd_wnd`, Linux 5.4).
const INFO_BYTES: usize = 232;

/// States of a TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names of RFC 9293")]
pub enum TcpState {
    Established,
    SynSent,
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    Closed,
    CloseWait,
    LastAck,
    Listen,
    Closing,
}

impl TcpState {
    /// From the kernel's number; what is not a state of a connection is closed.
    #[must_use]
    pub(crate) fn from_kernel(number: u8) -> TcpState {
        match number {
            1 => TcpState::Established,
            2 => TcpState::SynSent,
            3 | 12 => TcpState::SynReceived,
            4 => TcpState::FinWait1,
            5 => TcpState::FinWait2,
            6 => TcpState::TimeWait,
            8 => TcpState::CloseWait,
            9 => TcpState::LastAck,
            10 => TcpState::Listen,
            11 => TcpState::Closing,
            _ => TcpState::Closed,
        }
    }

    /// Whether our FIN was written.
    #[must_use]
    pub fn fin_sent(self) -> bool {
        matches!(self, TcpState::FinWait1 | TcpState::FinWait2 | TcpState::Closing | TcpState::LastAck)
    }

    /// Whether the other end's FIN arrived.
    #[must_use]
    pub fn fin_received(self) -> bool {
        matches!(self, TcpState::CloseWait | TcpState::Closing | TcpState::LastAck)
    }
}

/// What the kernel tells about a connection.
#[derive(Clone, Copy, Debug)]
pub struct TcpInfo {
    /// State of the connection.
    pub state: TcpState,
    /// Bytes acknowledged by the other end; counts SYN (on the dialling side) and FIN, and what a rebuilt socket
    /// was given anew.
    pub bytes_acked: u64,
    /// Bytes that arrived in order; counts FIN.
    pub bytes_received: u64,
    /// Bytes of a segment that it sends, without headers and options.
    pub send_segment_bytes: u32,
    /// Smoothed round trip time, µs.
    pub rtt_us: u32,
    /// Bytes that were written and not yet sent.
    pub notsent_bytes: u32,
    /// The other end's window, bytes.
    pub send_window_bytes: u32,
    /// Retransmissions since something was last acknowledged.
    pub retransmits_in_a_row: u8,
    /// How often the time until the next retransmission or probe of a shut window was doubled.
    pub backoff: u8,
    /// Retransmissions in all.
    pub retransmits: u32,
    pub(crate) options: u8,
    pub(crate) send_scale: u8,
    pub(crate) receive_scale: u8,
}

/// Reads TCP_INFO.
///
/// # Errors
/// When this is not a TCP socket.
pub fn info(fd: impl AsFd) -> io::Result<TcpInfo> {
    let raw: [u8; INFO_BYTES] = sockopt::get(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_INFO)?;
    let u32_at =
        |offset: usize| u32::from_ne_bytes([raw[offset], raw[offset + 1], raw[offset + 2], raw[offset + 3]]);
    let u64_at = |offset: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&raw[offset..offset + 8]);
        u64::from_ne_bytes(bytes)
    };
    Ok(TcpInfo {
        state: TcpState::from_kernel(raw[0]),
        options: raw[5],
        // A bit field: the low half is the first.
        send_scale: raw[6] & 15,
        receive_scale: raw[6] >> 4,
        retransmits_in_a_row: raw[2],
        backoff: raw[4],
        send_segment_bytes: u32_at(16),
        rtt_us: u32_at(68),
        retransmits: u32_at(100),
        bytes_acked: u64_at(120),
        bytes_received: u64_at(128),
        notsent_bytes: u32_at(144),
        send_window_bytes: u32_at(228),
    })
}
