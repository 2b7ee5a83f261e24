//! Datagrams of a capsule's programs to foreign addresses, and from there.
//!
//! What they send comes out of one TPROXY socket for each family, whole and with both its addresses. What is for them
//! is injected as a packet: a socket that were bound to the foreign address and port would stand in the way of a
//! program that binds the same port.
#![allow(unsafe_code, reason = "recvmsg with control messages that rustix does not know")]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::{Domain, MsgHdr, Protocol, SockAddr, SockRef, Socket, Type};

use crate::inject::{Injector, quoted};
use crate::limits::{DATAGRAM_SOCKET_BYTES, INTERCEPT_V4, INTERCEPT_V6};
use crate::sockopt;

const SO_RCVBUFFORCE: i32 = 33;
const SO_MEMINFO: i32 = 55;
/// Numbers that SO_MEMINFO gives, and which of them is that of drops (linux/sock_diag.h).
const MEMINFO_NUMBERS: usize = 9;
const MEMINFO_DROPS: usize = 8;
/// Room for both control messages that are asked for.
const CONTROL_BYTES: usize = 128;

/// What came out of a TPROXY socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The program's address.
    pub source: SocketAddr,
    /// Where the program sent it.
    pub destination: SocketAddr,
    /// TOS of IPv4, traffic class of IPv6.
    pub traffic_class: u8,
    /// Bytes of the payload.
    pub length: usize,
}

/// Opens the TPROXY socket of one family. Only intercepted datagrams arrive there.
///
/// # Errors
/// EADDRINUSE when the namespace has one; EPERM without CAP_NET_ADMIN.
pub fn listen(v6: bool, port: u16) -> io::Result<OwnedFd> {
    let address = if v6 { IpAddr::V6(INTERCEPT_V6) } else { IpAddr::V4(INTERCEPT_V4) };
    let socket = socket_of(v6)?;
    match v6 {
        true => socket.set_ip_transparent_v6(true)?,
        false => socket.set_ip_transparent_v4(true)?,
    }
    // A program of the capsule that binds this port on all addresses must be able to.
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::new(address, port).into())?;
    Ok(socket.into())
}

/// Opens a socket for machines outside, at a port of all addresses of one family of the calling thread's namespace; 0 is
/// any port that is free.
///
/// # Errors
/// EADDRINUSE when the port is in use; EAFNOSUPPORT without that family.
pub fn listen_outside(v6: bool, port: u16) -> io::Result<OwnedFd> {
    let address = if v6 { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = socket_of(v6)?;
    socket.bind(&SocketAddr::new(address, port).into())?;
    Ok(socket.into())
}

/// A socket that tells where what it gets was sent to.
fn socket_of(v6: bool) -> io::Result<Socket> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    let fd = socket.as_fd();
    sockopt::set(fd, libc::SOL_SOCKET, SO_RCVBUFFORCE, &(DATAGRAM_SOCKET_BYTES as i32))?;
    if v6 {
        socket.set_only_v6(true)?;
        sockopt::set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVORIGDSTADDR, &1)?;
        sockopt::set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, &1)?;
    } else {
        sockopt::set(fd, libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR, &1)?;
        sockopt::set(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, &1)?;
    }
    Ok(socket)
}

/// Sends a datagram from one of the host's addresses.
///
/// # Errors
/// `WouldBlock` when the socket has no room; EINVAL when the host has that address no more; those of the network.
pub fn send_from(
    fd: impl AsFd,
    source: IpAddr,
    destination: SocketAddr,
    traffic_class: u8,
    payload: &[u8],
) -> io::Result<()> {
    let class = i32::from(traffic_class).to_ne_bytes();
    let control = match source {
        IpAddr::V4(v4) => {
            let info = [&[0; 4][..], &v4.octets(), &[0; 4]].concat();
            let said = control_message(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            [said, control_message(libc::IPPROTO_IP, libc::IP_TOS, &class)].concat()
        }
        IpAddr::V6(v6) => {
            let info = [&v6.octets()[..], &[0; 4]].concat();
            let said = control_message(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            [said, control_message(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &class)].concat()
        }
    };
    let (to, payload) = (SockAddr::from(destination), [io::IoSlice::new(payload)]);
    let message = MsgHdr::new().with_addr(&to).with_buffers(&payload).with_control(&control);
    SockRef::from(&fd).sendmsg(&message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).map(drop)
}

/// `struct cmsghdr` with its data, padded as the next one wants it.
fn control_message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
    let length = 2 * size_of::<i32>() + size_of::<usize>() + data.len();
    let mut bytes = [&length.to_ne_bytes()[..], &level.to_ne_bytes(), &kind.to_ne_bytes(), data].concat();
    bytes.resize(length.next_multiple_of(size_of::<usize>()), 0);
    bytes
}

/// Datagrams that a socket had no room for, since it was opened; the count begins anew after 2³².
///
/// # Errors
/// Those of `getsockopt`.
pub fn dropped(fd: impl AsFd) -> io::Result<u32> {
    let numbers: [u32; MEMINFO_NUMBERS] = sockopt::get(fd.as_fd(), libc::SOL_SOCKET, SO_MEMINFO)?;
    Ok(numbers[MEMINFO_DROPS])
}

/// Takes the next datagram into `buffer`; `None` when there is none.
///
/// # Errors
/// Those of the socket.
pub fn receive(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<Received>> {
    let (mut destination, mut traffic_class) = (None, 0);
    let taken = take(fd.as_fd(), buffer, 0, |level, kind, data| match (level, kind) {
        (libc::IPPROTO_IP, libc::IP_ORIGDSTADDR) => {
            // SAFETY: the kernel put a sockaddr_in there.
            destination = Some(v4(&unsafe { data.cast::<libc::sockaddr_in>().read_unaligned() }));
        }
        (libc::IPPROTO_IPV6, libc::IPV6_ORIGDSTADDR) => {
            // SAFETY: the kernel put a sockaddr_in6 there.
            destination = Some(v6(&unsafe { data.cast::<libc::sockaddr_in6>().read_unaligned() }));
        }
        // SAFETY: the kernel put a byte there.
        (libc::IPPROTO_IP, libc::IP_TOS) => traffic_class = unsafe { data.read() },
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
            // SAFETY: the kernel put an int there.
            traffic_class = unsafe { data.cast::<libc::c_int>().read_unaligned() } as u8;
        }
        _ => {}
    })?;
    let Some((source, length)) = taken else { return Ok(None) };
    let (source, destination) = source.zip(destination).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Some(Received { source, destination, traffic_class, length }))
}

/// What the network said of a datagram that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported {
    /// Where it was to go.
    pub destination: SocketAddr,
    /// Type of the ICMP message.
    pub kind: u8,
    /// Its code.
    pub code: u8,
}

/// Has the kernel keep what ICMP says of datagrams that a socket sends.
///
/// # Errors
/// Those of `setsockopt`.
pub fn keep_reports(fd: impl AsFd, v6: bool) -> io::Result<()> {
    let (level, option) =
        if v6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) } else { (libc::IPPROTO_IP, libc::IP_RECVERR) };
    sockopt::set(fd.as_fd(), level, option, &1)
}

/// Takes the next of what [`keep_reports`] keeps; `None` when there is none.
///
/// # Errors
/// Those of the socket.
pub fn report(fd: impl AsFd) -> io::Result<Option<Reported>> {
    loop {
        let mut said = None;
        let taken = take(fd.as_fd(), &mut [], libc::MSG_ERRQUEUE, |level, kind, data| {
            if matches!(
                (level, kind),
                (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
            ) {
                // SAFETY: the kernel put a sock_extended_err there.
                said = Some(unsafe { data.cast::<libc::sock_extended_err>().read_unaligned() });
            }
        })?;
        let Some((destination, _)) = taken else { return Ok(None) };
        if let (Some(destination), Some(said)) = (destination, said)
            && matches!(said.ee_origin, libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6)
        {
            return Ok(Some(Reported { destination, kind: said.ee_type, code: said.ee_code }));
        }
    }
}

/// The ICMP message that says that a datagram did not get to its destination, for reasons of the network or none that is
/// known.
#[must_use]
pub fn unreachable(source: SocketAddr, destination: SocketAddr, why: Option<(u8, u8)>) -> Vec<u8> {
    let (kind, code) = why.unwrap_or(if destination.is_ipv6() { (1, 3) } else { (3, 1) });
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&quoted(source, destination, 0));
    message
}

/// One `recvmsg`: the address, and bytes of the payload; `each` gets level, type and data of every control message.
fn take(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: libc::c_int,
    mut each: impl FnMut(libc::c_int, libc::c_int, *const u8),
) -> io::Result<Option<(Option<SocketAddr>, usize)>> {
    let mut name = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut control = Control([0; CONTROL_BYTES]);
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all-zero is a valid msghdr without buffers.
    let mut message = unsafe { MaybeUninit::<libc::msghdr>::zeroed().assume_init() };
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES;
    // SAFETY: every pointer in `message` leads to as many writable bytes as it says, and all outlive the call.
    let taken = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags | libc::MSG_DONTWAIT) };
    let Ok(length) = usize::try_from(taken) else {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
    };
    // SAFETY: the kernel filled in the control buffer and its length.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: `header` was given by CMSG_FIRSTHDR or CMSG_NXTHDR, and CONTROL_BYTES has room for what was asked for.
        let (level, kind, data) =
            unsafe { ((*header).cmsg_level, (*header).cmsg_type, libc::CMSG_DATA(header)) };
        each(level, kind, data);
        // SAFETY: as for CMSG_FIRSTHDR.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    // SAFETY: it was zeroed, and the kernel wrote an address.
    Ok(Some((address(unsafe { name.assume_init_ref() }), length)))
}

/// Puts datagrams and ICMP messages from foreign addresses into the namespace that it was opened in.
#[derive(Debug)]
pub struct Deliverer {
    injector: Injector,
    identification: AtomicU32,
}

impl Deliverer {
    /// Opens it in the namespace of the calling thread; afterwards any thread may use it.
    ///
    /// # Errors
    /// EPERM without CAP_NET_RAW.
    pub fn open() -> io::Result<Deliverer> {
        Ok(Deliverer { injector: Injector::open(0)?, identification: AtomicU32::new(1) })
    }

    /// Opens it in the namespace of the calling thread, for what leaves the host from there: machines outside get it, in
    /// packets that every network carries.
    ///
    /// # Errors
    /// As for [`Deliverer::open`].
    pub fn open_outside() -> io::Result<Deliverer> {
        Ok(Deliverer { injector: Injector::open_outside()?, identification: AtomicU32::new(1) })
    }

    /// Delivers a datagram. When this returns it is in the receive queue of a socket, or the namespace's kernel has
    /// answered that there is none, or there was no room.
    ///
    /// # Errors
    /// It is longer than a datagram can be, or its addresses are of two families.
    pub fn datagram(
        &self,
        source: SocketAddr,
        destination: SocketAddr,
        traffic_class: u8,
        payload: &[u8],
    ) -> io::Result<()> {
        let identification = self.identification.fetch_add(1, Ordering::Relaxed);
        self.injector.send_datagram(source, destination, traffic_class, payload, identification)
    }

    /// Delivers an ICMP message, from its type on.
    ///
    /// # Errors
    /// It is no message, or its addresses are of two families.
    pub fn icmp(&self, source: IpAddr, destination: IpAddr, message: &[u8]) -> io::Result<()> {
        let identification = self.identification.fetch_add(1, Ordering::Relaxed);
        self.injector.send_icmp(source, destination, message.to_vec(), identification)
    }

    /// Tells a program that the host which it sent a datagram to can't be reached.
    ///
    /// # Errors
    /// The addresses are of two families.
    pub fn unreachable(
        &self,
        source: SocketAddr,
        destination: SocketAddr,
        payload_bytes: usize,
    ) -> io::Result<()> {
        let packet = quoted(source, destination, payload_bytes);
        self.injector.send_unreachable(destination.ip(), source.ip(), &packet)
    }

    /// Tells a program that the host which it sent an ICMP message to can't be reached.
    ///
    /// # Errors
    /// The addresses are of two families.
    pub fn icmp_unreachable(&self, source: IpAddr, destination: IpAddr, message: &[u8]) -> io::Result<()> {
        let packet = crate::icmp::quoted(source, destination, message);
        self.injector.send_unreachable(destination, source, &packet)
    }
}

/// Control messages want to be aligned as their header is.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

fn address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let storage = std::ptr::from_ref(storage);
    // SAFETY: a sockaddr_storage is large enough for, and aligned as, either; the family says which it is.
    match unsafe { i32::from((*storage).ss_family) } {
        // SAFETY: as above.
        libc::AF_INET => Some(v4(unsafe { &*storage.cast::<libc::sockaddr_in>() })),
        // SAFETY: as above.
        libc::AF_INET6 => Some(v6(unsafe { &*storage.cast::<libc::sockaddr_in6>() })),
        _ => None,
    }
}

fn v4(address: &libc::sockaddr_in) -> SocketAddr {
    let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
    SocketAddr::new(ip.into(), u16::from_be(address.sin_port))
}

fn v6(address: &libc::sockaddr_in6) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(address.sin6_addr.s6_addr).into(), u16::from_be(address.sin6_port))
}
