//! The sidecar's own ends of TCP connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{RecvFlags, SendFlags};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::limits::{
    INTERCEPT_V4, INTERCEPT_V6, LISTEN_BACKLOG, ORPHAN_BUFFER_BYTES, OUTSIDE_PROBE_PAUSE, OUTSIDE_PROBES,
    OUTSIDE_QUIET,
};
use crate::sockopt;

mod info;

pub use info::{TcpInfo, TcpState, info};

// linux/tcp.h, asm-generic/socket.h and linux/sockios.h; not all of them are in libc for every target.
const TCP_REPAIR_OFF: i32 = 0;
const TCP_REPAIR_ON: i32 = 1;
const SO_RCVBUFFORCE: i32 = 33;
const SO_SNDBUFFORCE: i32 = 32;
const SO_PEEK_OFF: i32 = 42;
const TCP_NOTSENT_LOWAT: i32 = 25;
const SIOCINQ: libc::Ioctl = 0x541B;
const SIOCOUTQ: libc::Ioctl = 0x5411;
const SIOCOUTQNSD: libc::Ioctl = 0x894B;

/// Opens the TPROXY listener of one family. Only intercepted connections arrive there.
///
/// # Errors
/// EADDRINUSE when the namespace has one; EPERM without CAP_NET_ADMIN.
pub fn listen(v6: bool, port: u16) -> io::Result<OwnedFd> {
    let address = if v6 { IpAddr::V6(INTERCEPT_V6) } else { IpAddr::V4(INTERCEPT_V4) };
    let socket = transparent_socket(address)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::new(address, port).into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// Opens the TPROXY listener of one family for what machines outside send to locators: a machine that is gone without a word
/// is found out.
///
/// # Errors
/// As for [`listen`].
pub fn listen_routed(v6: bool, port: u16) -> io::Result<OwnedFd> {
    let listener = listen(v6, port)?;
    ask_when_quiet(&SockRef::from(&listener))?;
    Ok(listener)
}

/// Opens a listener for machines outside, in the namespace of the calling thread.
///
/// # Errors
/// EADDRINUSE when something listens there; EAFNOSUPPORT without that family.
pub fn listen_outside(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = outside_socket(address.ip())?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// Starts to connect to a machine outside, from an address of the namespace of the calling thread. [`dial_result`] says
/// how it ended.
///
/// # Errors
/// ENETUNREACH and the like. A refusal can come here already.
pub fn dial_outside(destination: SocketAddr) -> io::Result<OwnedFd> {
    let socket = outside_socket(destination.ip())?;
    match socket.connect(&destination.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// Takes an intercepted connection: our descriptor, the address that the program dialled, and the program's own.
/// `None` when there is none.
///
/// # Errors
/// EMFILE and the like; a connection that died while waiting is passed over.
pub fn accept(listener: impl AsFd) -> io::Result<Option<(OwnedFd, SocketAddr, SocketAddr)>> {
    use rustix::net::{SocketFlags, accept_with};
    loop {
        match accept_with(&listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(fd) => match addresses(&fd) {
                Ok((local, peer)) => return Ok(Some((fd, local, peer))),
                // It was reset while it waited.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                Err(error) => return Err(error),
            },
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Starts to connect to a program from a foreign address and port. [`dial_result`] says how it ended.
///
/// # Errors
/// EADDRNOTAVAIL when this very connection exists. A refusal can come here already.
pub fn dial(source: SocketAddr, destination: SocketAddr) -> io::Result<OwnedFd> {
    let socket = transparent_socket(source.ip())?;
    // A program may listen on the source's port on all addresses. Binding in repair mode passes that by.
    set_repair(socket.as_fd(), TCP_REPAIR_ON)?;
    socket.bind(&source.into())?;
    set_repair(socket.as_fd(), TCP_REPAIR_OFF)?;
    // Leaving repair mode cleared it; without it a program could not listen on that port afterwards.
    socket.set_reuse_address(true)?;
    match socket.connect(&destination.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// How a [`dial`] ended: connected, not yet known (`None`), or the error.
///
/// # Errors
/// What `connect` would say: ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH…
pub fn dial_result(fd: impl AsFd) -> io::Result<Option<()>> {
    if let Some(error) = SockRef::from(&fd).take_error()? {
        return Err(error);
    }
    match info(&fd)?.state {
        TcpState::SynSent => Ok(None),
        TcpState::Closed => Err(io::ErrorKind::ConnectionReset.into()),
        _ => Ok(Some(())),
    }
}

/// The local port of a socket.
///
/// # Errors
/// Those of `getsockname`.
pub fn local_port(fd: impl AsFd) -> io::Result<u16> {
    let local = SockRef::from(&fd).local_addr()?.as_socket();
    Ok(local.ok_or(io::ErrorKind::Unsupported)?.port())
}

/// Local and peer address of a connection.
///
/// # Errors
/// ENOTCONN when it is over.
pub fn addresses(fd: impl AsFd) -> io::Result<(SocketAddr, SocketAddr)> {
    let socket = SockRef::from(&fd);
    let local = socket.local_addr()?.as_socket();
    let peer = socket.peer_addr()?.as_socket();
    local.zip(peer).ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Turns peeking ahead on: the next [`peek`] begins `offset` bytes behind what was consumed.
///
/// # Errors
/// EOPNOTSUPP on kernels before 6.9.
pub fn set_peek_offset(fd: impl AsFd, offset: u32) -> io::Result<()> {
    let offset = i32::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    put_peek_offset(fd.as_fd(), offset)
}

pub(crate) fn put_peek_offset(fd: BorrowedFd<'_>, offset: i32) -> io::Result<()> {
    sockopt::set(fd, libc::SOL_SOCKET, SO_PEEK_OFF, &offset)
}

/// Where the next [`peek`] begins; negative when peeking ahead is off.
///
/// # Errors
/// Those of `getsockopt`.
pub fn peek_offset(fd: impl AsFd) -> io::Result<i32> {
    sockopt::get(fd.as_fd(), libc::SOL_SOCKET, SO_PEEK_OFF)
}

/// Copies what comes next in the receive queue and leaves it there. 0 is the end of the stream.
///
/// # Errors
/// `WouldBlock` when all was peeked; ECONNRESET and others, once, when the connection broke.
pub fn peek(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let (_, length) = rustix::net::recv(&fd, buffer, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
    Ok(length)
}

/// Copies the whole receive queue and leaves it there. The peek offset stays. Works after the connection broke, too:
/// what is left is the last that the program said.
///
/// # Errors
/// Those of the socket.
pub fn read_queue(fd: impl AsFd) -> io::Result<Vec<u8>> {
    let length = queued(&fd)? as usize;
    if length == 0 { Ok(Vec::new()) } else { peek_front(fd.as_fd(), length) }
}

/// Peeks at the front of the receive queue, wherever the peek offset is. With the offset anywhere else, a peek in
/// repair mode would be short.
pub(crate) fn peek_front(fd: BorrowedFd<'_>, length: usize) -> io::Result<Vec<u8>> {
    let offset = peek_offset(fd)?;
    if offset < 0 {
        return peek_new(fd, length);
    }
    put_peek_offset(fd, 0)?;
    let bytes = peek_new(fd, length);
    put_peek_offset(fd, offset)?;
    bytes
}

/// Peeks into a new buffer.
pub(crate) fn peek_new(fd: BorrowedFd<'_>, capacity: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(capacity);
    let buffer = rustix::buffer::spare_capacity(&mut bytes);
    rustix::net::recv(fd, buffer, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
    Ok(bytes)
}

/// Removes up to `bytes` from the front of the receive queue, without copying; says how many there were.
///
/// # Errors
/// `WouldBlock` when the queue is empty.
pub fn consume(fd: impl AsFd, bytes: usize) -> io::Result<usize> {
    sockopt::discard(fd.as_fd(), bytes)
}

/// Hands bytes to the program's kernel; says how many were taken.
///
/// # Errors
/// `WouldBlock` when the send queue is full; EPIPE and ECONNRESET when nobody will read them.
pub fn send(fd: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(&fd, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
}

/// Bytes that arrived and were not consumed.
///
/// # Errors
/// EINVAL on a listener.
pub fn queued(fd: impl AsFd) -> io::Result<u32> {
    sockopt::ioctl_int(fd.as_fd(), SIOCINQ)
}

/// Bytes written that the other end has not acknowledged (a FIN counts as one).
///
/// # Errors
/// EINVAL on a listener.
pub fn unacknowledged(fd: impl AsFd) -> io::Result<u32> {
    sockopt::ioctl_int(fd.as_fd(), SIOCOUTQ)
}

/// Bytes written that were never sent (a FIN counts as one).
///
/// # Errors
/// EINVAL on a listener.
pub fn unsent(fd: impl AsFd) -> io::Result<u32> {
    sockopt::ioctl_int(fd.as_fd(), SIOCOUTQNSD)
}

/// Breaks the connection with RST, whoever else holds a duplicate of the descriptor.
///
/// # Errors
/// Those of `connect`.
pub fn reset(fd: impl AsFd) -> io::Result<()> {
    // A socket in repair mode would be dissolved without a word.
    set_repair(fd.as_fd(), TCP_REPAIR_OFF)?;
    sockopt::disconnect(fd.as_fd())
}

/// Sends FIN behind what was written.
///
/// # Errors
/// ENOTCONN when the connection is over.
pub fn shutdown_write(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::shutdown(&fd, rustix::net::Shutdown::Write)?)
}

/// Makes the receive buffer hold `bytes`, past the system's limit. (The kernel doubles it for its bookkeeping.)
///
/// # Errors
/// EPERM without CAP_NET_ADMIN.
pub fn set_receive_buffer(fd: impl AsFd, bytes: usize) -> io::Result<()> {
    sockopt::set(fd.as_fd(), libc::SOL_SOCKET, SO_RCVBUFFORCE, &buffer_value(bytes))
}

/// Memory that the receive buffer may take, as the kernel counts it: twice what [`set_receive_buffer`] was told.
///
/// # Errors
/// Those of `getsockopt`.
pub fn receive_memory(fd: impl AsFd) -> io::Result<u64> {
    let bytes: u32 = sockopt::get(fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF)?;
    Ok(u64::from(bytes))
}

/// Has the send queue take no more while `bytes` wait in it unsent, because the other end's window is shut. What is on
/// its way is not limited by it.
///
/// # Errors
/// Those of `setsockopt`.
pub fn set_unsent_limit(fd: impl AsFd, bytes: u32) -> io::Result<()> {
    sockopt::set(fd.as_fd(), libc::IPPROTO_TCP, TCP_NOTSENT_LOWAT, &bytes)
}

/// Makes the send buffer hold `bytes`, past the system's limit. (The kernel doubles it for its bookkeeping.)
///
/// # Errors
/// EPERM without CAP_NET_ADMIN.
pub fn set_send_buffer(fd: impl AsFd, bytes: usize) -> io::Result<()> {
    sockopt::set(fd.as_fd(), libc::SOL_SOCKET, SO_SNDBUFFORCE, &buffer_value(bytes))
}

/// Draws all that a closed program's socket still has to send into our receive queue.
///
/// Only a window update makes that socket send, and only consuming makes ours send one. So one byte is consumed:
/// `keep` gets it first, and nothing is consumed when `keep` fails. `None` when the queue is empty. Whether all is
/// here is seen by [`info`]: the state is then `CloseWait`. The peek offset stays at the same byte of the stream.
///
/// # Errors
/// Those of the socket, and that of `keep`.
pub fn flush_orphan(fd: impl AsFd, keep: impl FnOnce(u8) -> io::Result<()>) -> io::Result<Option<u8>> {
    let fd = fd.as_fd();
    set_receive_buffer(fd, ORPHAN_BUFFER_BYTES)?;
    if queued(fd)? == 0 {
        return Ok(None);
    }
    let byte = *peek_front(fd, 1)?.first().ok_or(io::ErrorKind::UnexpectedEof)?;
    keep(byte)?;
    consume(fd, 1)?;
    Ok(Some(byte))
}

/// A non-blocking TCP socket that may have any local address, with urgent data in line.
pub(crate) fn transparent_socket(local: IpAddr) -> io::Result<Socket> {
    let domain = if local.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_ip_transparent_v6(true)?;
    } else {
        socket.set_ip_transparent_v4(true)?;
    }
    // An urgent byte that is out of line would be peeked twice.
    socket.set_out_of_band_inline(true)?;
    Ok(socket)
}

/// What is asked of a machine outside has to be asked by the kernel: it may have gone without a word.
fn outside_socket(family_of: IpAddr) -> io::Result<Socket> {
    let domain = if family_of.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if family_of.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_out_of_band_inline(true)?;
    ask_when_quiet(&SockRef::from(&socket))?;
    Ok(socket)
}

/// Has the kernel ask a machine outside whether it is still there.
fn ask_when_quiet(socket: &SockRef<'_>) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(OUTSIDE_QUIET)
        .with_interval(OUTSIDE_PROBE_PAUSE)
        .with_retries(OUTSIDE_PROBES);
    socket.set_tcp_keepalive(&keepalive)
}

/// Switches repair mode.
pub(crate) fn set_repair(fd: BorrowedFd<'_>, mode: i32) -> io::Result<()> {
    sockopt::set(fd, libc::IPPROTO_TCP, libc::TCP_REPAIR, &mode)
}

fn buffer_value(bytes: usize) -> i32 {
    // The kernel doubles the value and keeps it in an int.
    i32::try_from(bytes).unwrap_or(i32::MAX).min(i32::MAX / 2)
}
