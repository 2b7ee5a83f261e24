//! From a snapshot to a socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use socket2::Socket;

use super::snapshot::{OwnFin, TcpSnapshot, VERSION, Window};
use super::{QUEUE_NONE, QUEUE_RECEIVE, QUEUE_SEND, RepairError, resume, select_queue, silence};
use crate::inject::{FIN_ACK, Injector, Segment};
use crate::limits::{INJECT_WAIT_MS_MAX, PASS_LOCK_MARK};
use crate::sockopt;
use crate::tcp;

const SO_BUF_LOCK: i32 = 72;
const OPTION_SEGMENT: u32 = 2;
const OPTION_SCALES: u32 = 3;
const OPTION_SACK: u32 = 4;
const OPTION_TIMESTAMPS: u32 = 8;
/// Bookkeeping that the kernel counts against a buffer, beyond twice its bytes.
const BUFFER_SLACK_BYTES: usize = 256 << 10;

/// Makes the connection anew in the namespace of the calling thread, in repair mode: nothing is sent, and closing it
/// is silent. Queues, windows and options are in place; FINs and what was never sent come with [`activate`].
///
/// # Errors
/// EADDRNOTAVAIL when this very connection exists in the namespace.
pub fn rebuild(snapshot: &TcpSnapshot) -> Result<OwnedFd, RepairError> {
    if snapshot.version != VERSION {
        return Err(RepairError::Version(snapshot.version));
    }
    let socket = tcp::transparent_socket(snapshot.local.ip()).map_err(RepairError::at("make a socket"))?;
    let fd = socket.as_fd();
    silence(fd).map_err(RepairError::at("enter repair mode"))?;
    socket.set_out_of_band_inline(snapshot.urgent_in_line).map_err(RepairError::at("set SO_OOBINLINE"))?;
    for (queue, sequence) in
        [(QUEUE_RECEIVE, snapshot.receive_sequence), (QUEUE_SEND, snapshot.send_sequence)]
    {
        select_queue(fd, queue)?;
        set(fd, libc::TCP_QUEUE_SEQ, &sequence, "set a sequence number")?;
    }
    socket.bind(&snapshot.local.into()).map_err(RepairError::at("bind to the connection's address"))?;
    // In repair mode this sends nothing.
    socket.connect(&snapshot.peer.into()).map_err(RepairError::at("connect in repair mode"))?;
    set_options(fd, snapshot)?;
    fill_queues(&socket, snapshot)?;
    set_window(fd, snapshot)?;
    Ok(socket.into())
}

/// Lets a rebuilt connection go on: leaves repair mode, repeats the FINs of both sides, sends what was never sent.
/// The namespace's lock is off, and the other end is in its place.
///
/// # Errors
/// [`RepairError::FinNotTaken`] when the socket does not come to the state it should have.
pub fn activate(fd: impl AsFd, snapshot: &TcpSnapshot) -> Result<(), RepairError> {
    let fd = fd.as_fd();
    // Leaving repair mode sends a window probe, whose answer acknowledges what has arrived meanwhile.
    resume(fd).map_err(RepairError::at("leave repair mode"))?;
    if snapshot.peer_fin {
        repeat_peer_fin(fd, snapshot)?;
    }
    let mut rest = never_sent(snapshot);
    while !rest.is_empty() {
        let taken = tcp::send(fd, rest).map_err(RepairError::at("send what was never sent"))?;
        rest = &rest[taken..];
    }
    if snapshot.own_fin != OwnFin::None {
        tcp::shutdown_write(fd).map_err(RepairError::at("repeat our FIN"))?;
    }
    // Without them it is slower, no more.
    let _ = restore_buffers(fd, snapshot);
    Ok(())
}

fn set_options(fd: BorrowedFd<'_>, snapshot: &TcpSnapshot) -> Result<(), RepairError> {
    // struct tcp_repair_opt: code and value.
    let mut options = vec![OPTION_SEGMENT, snapshot.segment_bytes_max];
    if let Some((send, receive)) = snapshot.scales {
        options.extend([OPTION_SCALES, u32::from(send) | u32::from(receive) << 16]);
    }
    if snapshot.selective_acknowledgment {
        options.extend([OPTION_SACK, 0]);
    }
    if snapshot.timestamps {
        options.extend([OPTION_TIMESTAMPS, 0]);
    }
    sockopt::set_list(fd, libc::IPPROTO_TCP, libc::TCP_REPAIR_OPTIONS, &options)
        .map_err(RepairError::at("set the negotiated options"))?;
    set(fd, libc::TCP_TIMESTAMP, &snapshot.timestamp, "set the timestamp clock")
}

fn fill_queues(socket: &Socket, snapshot: &TcpSnapshot) -> Result<(), RepairError> {
    let fd = socket.as_fd();
    // Not before the connect, where it would bound the window for good.
    let room = |content: usize, captured: u32| (content + BUFFER_SLACK_BYTES).max(captured as usize / 2);
    tcp::set_receive_buffer(fd, room(snapshot.receive.len(), snapshot.buffers.receive_bytes))
        .map_err(RepairError::at("enlarge the receive buffer"))?;
    tcp::set_send_buffer(fd, room(snapshot.send.len(), snapshot.buffers.send_bytes))
        .map_err(RepairError::at("enlarge the send buffer"))?;
    fill(fd, QUEUE_RECEIVE, &snapshot.receive)?;
    fill(fd, QUEUE_SEND, flown(snapshot))?;
    select_queue(fd, QUEUE_NONE)
}

fn fill(fd: BorrowedFd<'_>, queue: i32, mut bytes: &[u8]) -> Result<(), RepairError> {
    select_queue(fd, queue)?;
    while !bytes.is_empty() {
        let taken = tcp::send(fd, bytes).map_err(RepairError::at("refill a queue"))?;
        bytes = &bytes[taken..];
    }
    Ok(())
}

fn set_window(fd: BorrowedFd<'_>, snapshot: &TcpSnapshot) -> Result<(), RepairError> {
    let Window {
        mut send_last_update,
        send_bytes,
        send_bytes_max,
        mut receive_bytes,
        mut receive_last_update,
    } = snapshot.window;
    let end = snapshot.receive_sequence.wrapping_add(snapshot.receive.len() as u32);
    if snapshot.peer_fin && is_after(receive_last_update, end) {
        // The FIN is still to come, so what it moved is moved back; the window's right edge stays.
        receive_bytes += receive_last_update.wrapping_sub(end);
        receive_last_update = end;
    }
    if is_after(send_last_update, end) {
        // The last word about the send window came with a segment that was itself not taken (it was out of order,
        // or there was no room). The kernel refuses such a number where our window is closed.
        send_last_update = end;
    }
    let window = [send_last_update, send_bytes, send_bytes_max, receive_bytes, receive_last_update];
    set(fd, libc::TCP_REPAIR_WINDOW, &window, "set the windows")
}

/// Whether sequence number `a` comes after `b`.
fn is_after(a: u32, b: u32) -> bool {
    b.wrapping_sub(a).cast_signed() < 0
}

/// Sends the other end's FIN to our socket in its name, and waits until it is taken.
fn repeat_peer_fin(fd: BorrowedFd<'_>, snapshot: &TcpSnapshot) -> Result<(), RepairError> {
    let injector = Injector::open(PASS_LOCK_MARK).map_err(RepairError::at("open raw sockets"))?;
    let deadline = Instant::now() + Duration::from_millis(INJECT_WAIT_MS_MAX);
    let scale = snapshot.scales.map_or(0, |(send, _)| send);
    loop {
        let info = tcp::info(fd).map_err(RepairError::at("read TCP_INFO"))?;
        if info.state.fin_received() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(RepairError::FinNotTaken(info.state));
        }
        let segment = Segment {
            source: snapshot.peer,
            destination: snapshot.local,
            sequence: snapshot.receive_sequence.wrapping_add(snapshot.receive.len() as u32),
            acknowledgment: snapshot.send_sequence,
            flags: FIN_ACK,
            window: u16::try_from(info.send_window_bytes >> scale).unwrap_or(u16::MAX),
        };
        injector.send_segment(&segment).map_err(RepairError::at("send a FIN segment"))?;
        wait_for_fin(fd).map_err(RepairError::at("read TCP_INFO"))?;
    }
}

/// A segment on `lo` arrives before `send` returns, or very soon after.
fn wait_for_fin(fd: BorrowedFd<'_>) -> io::Result<()> {
    for _ in 0..20 {
        if tcp::info(fd)?.state.fin_received() {
            break;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

/// Gives the buffers the captured sizes back, and their freedom to be tuned if they had it.
fn restore_buffers(fd: BorrowedFd<'_>, snapshot: &TcpSnapshot) -> io::Result<()> {
    tcp::set_receive_buffer(fd, snapshot.buffers.receive_bytes as usize / 2)?;
    tcp::set_send_buffer(fd, snapshot.buffers.send_bytes as usize / 2)?;
    // Kernels before 5.14 don't know it; then they stay fixed.
    let _ = sockopt::set(fd, libc::SOL_SOCKET, SO_BUF_LOCK, &snapshot.buffers.fixed);
    Ok(())
}

/// The part of the send queue that was sent at least once.
fn flown(snapshot: &TcpSnapshot) -> &[u8] {
    &snapshot.send[..snapshot.send.len().saturating_sub(snapshot.unsent as usize)]
}

fn never_sent(snapshot: &TcpSnapshot) -> &[u8] {
    &snapshot.send[flown(snapshot).len()..]
}

fn set<T: sockopt::Plain>(
    fd: BorrowedFd<'_>,
    option: i32,
    value: &T,
    what: &'static str,
) -> Result<(), RepairError> {
    sockopt::set(fd, libc::IPPROTO_TCP, option, value).map_err(RepairError::at(what))
}
