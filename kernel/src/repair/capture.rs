//! From a socket to a snapshot, and back to where it was.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::SockRef;

use super::snapshot::{Buffers, OwnFin, TcpSnapshot, VERSION, Window};
use super::{QUEUE_NONE, QUEUE_RECEIVE, QUEUE_SEND, RepairError, select_queue};
use crate::limits::{QUEUE_BYTES_MAX, SEGMENT_BYTES_MAX};
use crate::sockopt;
use crate::tcp::{self, TcpInfo, TcpState};

const REPAIR_OFF: i32 = 0;
const REPAIR_ON: i32 = 1;
const SO_BUF_LOCK: i32 = 72;
const OPTION_TIMESTAMPS: u8 = 1;
const OPTION_SACK: u8 = 2;
const OPTION_SCALES: u8 = 4;

/// Reads a connection out. The socket stays as it is, in repair mode: from there it is either closed, silently, or
/// goes on by [`resume`]. Its peek offset is kept. On failure it is out of repair mode again.
///
/// # Errors
/// [`RepairError::NoConnection`] when it is over or not open yet, and others as named there.
pub fn capture(fd: impl AsFd) -> Result<TcpSnapshot, RepairError> {
    let fd = fd.as_fd();
    tcp::set_repair(fd, REPAIR_ON).map_err(RepairError::at("enter repair mode"))?;
    read_out(fd).inspect_err(|_| {
        // The first error is the one to report.
        let _ = resume(fd);
    })
}

/// Takes a socket out of repair mode: the connection goes on where it was.
///
/// # Errors
/// Those of `setsockopt`.
pub fn resume(fd: impl AsFd) -> io::Result<()> {
    tcp::set_repair(fd.as_fd(), REPAIR_OFF)?;
    // Leaving repair mode cleared it.
    SockRef::from(&fd).set_reuse_address(true)
}

/// Puts a socket into repair mode, so that closing its last descriptor sends nothing.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN.
pub fn silence(fd: impl AsFd) -> io::Result<()> {
    tcp::set_repair(fd.as_fd(), REPAIR_ON)
}

/// Whether a socket is in repair mode.
///
/// # Errors
/// Those of `getsockopt`.
pub fn is_silent(fd: impl AsFd) -> io::Result<bool> {
    let mode: i32 = sockopt::get(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_REPAIR)?;
    Ok(mode == REPAIR_ON)
}

fn read_out(fd: BorrowedFd<'_>) -> Result<TcpSnapshot, RepairError> {
    let info = tcp::info(fd).map_err(RepairError::at("read TCP_INFO"))?;
    let own_fin = own_fin(&info)?;
    let peer_fin = info.state.fin_received();
    let (local, peer) = tcp::addresses(fd).map_err(RepairError::at("read the addresses"))?;

    let mut send_bytes = tcp::unacknowledged(fd).map_err(RepairError::at("read the send queue's length"))?;
    let mut unsent = tcp::unsent(fd).map_err(RepairError::at("read the unsent length"))?;
    if own_fin == OwnFin::Pending {
        // A FIN stands at the end of the queue, and counts as a byte.
        send_bytes = send_bytes.saturating_sub(1);
        unsent = unsent.saturating_sub(1);
    }
    let receive_bytes = tcp::queued(fd).map_err(RepairError::at("read the receive queue's length"))?;

    select_queue(fd, QUEUE_SEND)?;
    let send_end = sequence(fd)?.wrapping_sub(u32::from(own_fin != OwnFin::None));
    let send = read_send_queue(fd, send_bytes as usize)?;
    select_queue(fd, QUEUE_RECEIVE)?;
    let receive_end = sequence(fd)?.wrapping_sub(u32::from(peer_fin));
    let receive = read_receive_queue(fd, receive_bytes as usize)?;
    select_queue(fd, QUEUE_NONE)?;

    let scaled = info.options & OPTION_SCALES != 0;
    Ok(TcpSnapshot {
        version: VERSION,
        local,
        peer,
        send_sequence: send_end.wrapping_sub(send_bytes),
        send,
        unsent,
        own_fin,
        receive_sequence: receive_end.wrapping_sub(receive_bytes),
        receive,
        peer_fin,
        segment_bytes_max: number(fd, libc::TCP_MAXSEG, "read TCP_MAXSEG")?,
        scales: scaled.then_some((info.send_scale, info.receive_scale)),
        selective_acknowledgment: info.options & OPTION_SACK != 0,
        timestamps: info.options & OPTION_TIMESTAMPS != 0,
        timestamp: number(fd, libc::TCP_TIMESTAMP, "read TCP_TIMESTAMP")?,
        window: window(fd)?,
        buffers: buffers(fd).map_err(RepairError::at("read the buffer sizes"))?,
        urgent_in_line: SockRef::from(&fd)
            .out_of_band_inline()
            .map_err(RepairError::at("read SO_OOBINLINE"))?,
    })
}

fn own_fin(info: &TcpInfo) -> Result<OwnFin, RepairError> {
    match info.state {
        TcpState::Established | TcpState::CloseWait => Ok(OwnFin::None),
        TcpState::FinWait1 | TcpState::Closing | TcpState::LastAck => Ok(OwnFin::Pending),
        TcpState::FinWait2 => Ok(OwnFin::Acknowledged),
        state @ (TcpState::SynSent
        | TcpState::SynReceived
        | TcpState::TimeWait
        | TcpState::Closed
        | TcpState::Listen) => Err(RepairError::NoConnection(state)),
    }
}

/// Sequence number behind the selected queue's end.
fn sequence(fd: BorrowedFd<'_>) -> Result<u32, RepairError> {
    number(fd, libc::TCP_QUEUE_SEQ, "read a sequence number")
}

fn number(fd: BorrowedFd<'_>, option: i32, what: &'static str) -> Result<u32, RepairError> {
    sockopt::get(fd, libc::IPPROTO_TCP, option).map_err(RepairError::at(what))
}

fn read_send_queue(fd: BorrowedFd<'_>, length: usize) -> Result<Vec<u8>, RepairError> {
    if length == 0 {
        return Ok(Vec::new());
    }
    check_length("send", length)?;
    // The kernel hands out whole segments, and of the first a part may be acknowledged.
    let mut bytes =
        tcp::peek_new(fd, length + SEGMENT_BYTES_MAX).map_err(RepairError::at("peek at the send queue"))?;
    if bytes.len() < length {
        return Err(RepairError::Incomplete { queue: "send", expected: length, found: bytes.len() });
    }
    bytes.drain(..bytes.len() - length);
    Ok(bytes)
}

fn read_receive_queue(fd: BorrowedFd<'_>, length: usize) -> Result<Vec<u8>, RepairError> {
    if length == 0 {
        return Ok(Vec::new());
    }
    check_length("receive", length)?;
    let bytes = tcp::peek_front(fd, length).map_err(RepairError::at("peek at the receive queue"))?;
    if bytes.len() != length {
        return Err(RepairError::Incomplete { queue: "receive", expected: length, found: bytes.len() });
    }
    Ok(bytes)
}

fn check_length(queue: &'static str, bytes: usize) -> Result<(), RepairError> {
    if bytes > QUEUE_BYTES_MAX { Err(RepairError::TooLong { queue, bytes }) } else { Ok(()) }
}

fn window(fd: BorrowedFd<'_>) -> Result<Window, RepairError> {
    let [send_last_update, send_bytes, send_bytes_max, receive_bytes, receive_last_update]: [u32; 5] =
        sockopt::get(fd, libc::IPPROTO_TCP, libc::TCP_REPAIR_WINDOW)
            .map_err(RepairError::at("read the window"))?;
    Ok(Window { send_last_update, send_bytes, send_bytes_max, receive_bytes, receive_last_update })
}

fn buffers(fd: BorrowedFd<'_>) -> io::Result<Buffers> {
    Ok(Buffers {
        send_bytes: sockopt::get(fd, libc::SOL_SOCKET, libc::SO_SNDBUF)?,
        receive_bytes: sockopt::get(fd, libc::SOL_SOCKET, libc::SO_RCVBUF)?,
        // Kernels before 5.14 don't say; then they stay fixed.
        fixed: sockopt::get(fd, libc::SOL_SOCKET, SO_BUF_LOCK).unwrap_or(3),
    })
}
