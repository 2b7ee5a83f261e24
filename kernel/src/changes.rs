//! The host's own addresses, and word of a change of its network.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;

use crate::netlink::{Answer, DUMP, Request, Socket, for_each_attribute, u32_at};

/// `RTM_GETLINK`.
const GET_LINK: u16 = 18;
/// `RTM_GETADDR`.
const GET_ADDRESS: u16 = 22;
/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_IFADDR`, `RTMGRP_IPV6_ROUTE`.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// Bytes of `struct ifinfomsg`, whose flags are at 8, and of `struct ifaddrmsg`, whose flags are at 2.
const LINK_BYTES: usize = 16;
const ADDRESS_BYTES: usize = 8;
/// `IFA_ADDRESS` and `IFA_LOCAL`: on a point-to-point interface the first one is the other side's.
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
/// `IFA_F_TENTATIVE | IFA_F_DADFAILED`: nothing can be sent from such an address.
const UNUSABLE: u8 = 0x40 | 0x08;
/// `IFF_LOWER_UP`: the cable is in.
const CARRIER: u32 = 1 << 16;

/// Word that interfaces, addresses or routes of a network namespace changed.
#[derive(Debug)]
pub struct Changes {
    socket: Socket,
}

impl Changes {
    /// Listens in the namespace of the calling thread. The descriptor becomes readable with each change.
    ///
    /// # Errors
    /// The kernel gives no netlink socket.
    pub fn listen() -> io::Result<Changes> {
        let socket = Socket::open(None)?;
        rustix::net::bind(socket.as_fd(), &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Changes { socket })
    }

    /// Takes all word that has come, and says whether there was any.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn take(&mut self) -> io::Result<bool> {
        let mut any = false;
        loop {
            match self.socket.receive() {
                Ok(Some(_)) => any = true,
                Ok(None) => return Ok(any),
                // More came than the socket keeps: what was lost is a change, too.
                Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => any = true,
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What of a network decides from where and whether packets leave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Addresses that packets can be sent from.
    pub addresses: BTreeSet<IpAddr>,
    /// Interfaces whose cable is in, by index.
    pub carriers: BTreeSet<u32>,
}

impl Network {
    /// The network of the calling thread's namespace as it is.
    ///
    /// # Errors
    /// Those of netlink.
    pub fn read() -> io::Result<Network> {
        let mut network = Network::default();
        let mut socket = Socket::open(None)?;
        dump(&mut socket, GET_LINK, LINK_BYTES, |link| {
            let (index, flags) = (u32_at(link, 4).unwrap_or(0), u32_at(link, 8).unwrap_or(0));
            if flags & CARRIER != 0 {
                network.carriers.insert(index);
            }
        })?;
        dump(&mut socket, GET_ADDRESS, ADDRESS_BYTES, |address| network.addresses.extend(usable(address)))?;
        Ok(network)
    }
}

/// The address from which the calling thread's namespace sends to `destination`, by its routes.
///
/// # Errors
/// There is no route.
pub fn source_towards(destination: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr =
        if destination.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(destination)?;
    Ok(socket.local_addr()?.ip())
}

fn dump(socket: &mut Socket, kind: u16, header_bytes: usize, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut request = Request::default();
    request.message("read the network", kind, DUMP, &vec![0; header_bytes], |_| {});
    socket.send(&request)?;
    // The kernel fills the next part of a dump while the one before is read: there is no waiting.
    while let Some(answers) = socket.receive()? {
        for answer in answers {
            match answer {
                Answer::Data { payload } => each(payload),
                Answer::Done => return Ok(()),
                Answer::Outcome { outcome, .. } => outcome?,
            }
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// The address in a message about one.
fn usable(message: &[u8]) -> Option<IpAddr> {
    if message.get(2)? & UNUSABLE != 0 {
        return None;
    }
    let (mut own, mut other) = (None, None);
    for_each_attribute(message.get(ADDRESS_BYTES..)?, |kind, value| {
        let address = match value.len() {
            4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
            16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
            _ => None,
        };
        match kind {
            LOCAL => own = address,
            ADDRESS => other = address,
            _ => {}
        }
    });
    own.or(other)
}
