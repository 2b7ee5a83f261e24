//! Which TCP sockets a namespace has, whether a process owns them, and what its UDP sockets have not read
//! (NETLINK_SOCK_DIAG).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::net::netlink::SOCK_DIAG;

use crate::limits::{INTERCEPT_V4, INTERCEPT_V6};
use crate::netlink::{Answer, DUMP, Request, Socket};
use crate::tcp::TcpState;

const BY_FAMILY: u16 = 20;
const ALL_STATES: u32 = u32::MAX;
const NO_COOKIE: [u8; 8] = [0xff; 8];
const MESSAGE_BYTES: usize = 72;

/// What the kernel knows about one TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketState {
    /// 0 when no process owns it: not accepted yet, or an orphan.
    pub inode: u32,
    /// State of the connection.
    pub state: TcpState,
    /// Bytes not yet read by the owner; of a listener: connections that wait for `accept`.
    pub receive_queue: u32,
    /// Bytes that the other end has not acknowledged; of a listener: its backlog.
    pub send_queue: u32,
}

/// A window on the sockets of the namespace it was opened in.
#[derive(Debug)]
pub struct Diag {
    socket: Socket,
}

impl Diag {
    /// Opens it in the namespace of the calling thread; afterwards any thread may use it.
    ///
    /// # Errors
    /// EPROTONOSUPPORT when the kernel has no socket diagnosis.
    pub fn open() -> io::Result<Diag> {
        Ok(Diag { socket: Socket::open(Some(SOCK_DIAG))? })
    }

    /// Looks one connection up, from the point of view of the socket asked for.
    ///
    /// # Errors
    /// Those of netlink; that there is no such socket is none.
    pub fn find(&mut self, local: SocketAddr, peer: SocketAddr) -> io::Result<Option<SocketState>> {
        let mut request = Request::default();
        request.message("find a socket", BY_FAMILY, 0, &question(libc::IPPROTO_TCP, local, peer), |_| {});
        self.socket.send(&request)?;
        let mut found = None;
        let mut failure = None;
        while let Some(answers) = self.socket.receive()? {
            for answer in answers {
                match answer {
                    Answer::Outcome { outcome: Err(error), .. }
                        if error.raw_os_error() != Some(libc::ENOENT) =>
                    {
                        failure = Some(error);
                    }
                    // Without a connection, the kernel answers with a listener that would take one.
                    Answer::Data { payload } => {
                        found = found.or(parse(payload).filter(|it| (it.0, it.1) == (local, peer)))
                    }
                    Answer::Outcome { .. } | Answer::Done => {}
                }
            }
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(found.map(|(_, _, state)| state)),
        }
    }

    /// All TCP sockets, both families, in all states.
    ///
    /// # Errors
    /// Those of netlink.
    pub fn all(&mut self) -> io::Result<Vec<(SocketAddr, SocketAddr, SocketState)>> {
        let mut sockets = Vec::new();
        for family in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            self.dump(libc::IPPROTO_TCP, SocketAddr::new(family, 0), &mut sockets)?;
        }
        Ok(sockets)
    }

    /// Memory that datagrams take which the programs have not read: the receive queues of all UDP sockets but those at
    /// the interception's own address.
    ///
    /// # Errors
    /// Those of netlink.
    pub fn datagrams_unread(&mut self) -> io::Result<u64> {
        let mut sockets = Vec::new();
        for family in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            self.dump(libc::IPPROTO_UDP, SocketAddr::new(family, 0), &mut sockets)?;
        }
        let ours = [IpAddr::from(INTERCEPT_V4), INTERCEPT_V6.into()];
        let theirs = sockets.iter().filter(|(local, ..)| !ours.contains(&local.ip()));
        Ok(theirs.map(|(.., socket)| u64::from(socket.receive_queue)).sum())
    }

    fn dump(
        &mut self,
        protocol: i32,
        any: SocketAddr,
        sockets: &mut Vec<(SocketAddr, SocketAddr, SocketState)>,
    ) -> io::Result<()> {
        let mut request = Request::default();
        request.message("list sockets", BY_FAMILY, DUMP, &question(protocol, any, any), |_| {});
        self.socket.send(&request)?;
        // The kernel fills the next part of a dump while the one before is read: there is no waiting.
        while let Some(answers) = self.socket.receive()? {
            for answer in answers {
                match answer {
                    Answer::Data { payload } => sockets.extend(parse(payload)),
                    Answer::Done => return Ok(()),
                    Answer::Outcome { outcome, .. } => outcome?,
                }
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// `struct inet_diag_req_v2`.
fn question(protocol: i32, local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let family = if local.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    let mut bytes = vec![family as u8, protocol as u8, 0, 0];
    bytes.extend_from_slice(&ALL_STATES.to_ne_bytes());
    bytes.extend_from_slice(&local.port().to_be_bytes());
    bytes.extend_from_slice(&peer.port().to_be_bytes());
    for address in [local.ip(), peer.ip()] {
        match address {
            IpAddr::V4(v4) => {
                bytes.extend_from_slice(&v4.octets());
                bytes.extend_from_slice(&[0; 12]);
            }
            IpAddr::V6(v6) => bytes.extend_from_slice(&v6.octets()),
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&NO_COOKIE);
    bytes
}

/// `struct inet_diag_msg`.
fn parse(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr, SocketState)> {
    let bytes: &[u8; MESSAGE_BYTES] = bytes.get(..MESSAGE_BYTES)?.try_into().ok()?;
    let v6 = i32::from(bytes[0]) == libc::AF_INET6;
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let number = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let address = |at: usize| -> IpAddr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&bytes[at..at + 16]);
        if v6 {
            // A socket of a program that listens on both families shows IPv4 addresses in this form.
            Ipv6Addr::from(octets).to_canonical()
        } else {
            Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]).into()
        }
    };
    let state = SocketState {
        state: TcpState::from_kernel(bytes[1]),
        receive_queue: number(56),
        send_queue: number(60),
        inode: number(68),
    };
    Some((SocketAddr::new(address(8), port(4)), SocketAddr::new(address(24), port(6)), state))
}
