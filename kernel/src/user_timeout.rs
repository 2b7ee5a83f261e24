//! A program's own TCP_USER_TIMEOUT (tcp(7)), reached from outside by a duplicate of the program's descriptor.
//!
//! The kernel ends a connection when bytes wait in it for longer than that, acknowledged by nobody or not taken by a
//! window that is shut. While a duplicate exists the program's `close` does not end the connection: keep it briefly.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::sockopt;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::tcp;

/// A program's end of an open TCP connection.
#[derive(Debug)]
pub struct ProgramSocket {
    fd: OwnedFd,
    /// The program's address.
    pub local: SocketAddr,
    /// The other end's address.
    pub peer: SocketAddr,
    /// The time-out as it was found, milliseconds; 0: none.
    pub timeout_ms: u32,
}

impl ProgramSocket {
    /// The time-out as it is at this moment, milliseconds; 0: none. Processes that share the socket are shown one after
    /// the other, and what was found may have been put aside for the first of them.
    ///
    /// # Errors
    /// Those of `getsockopt`.
    pub fn timeout_ms_at_present(&self) -> io::Result<u32> {
        Ok(sockopt::tcp_user_timeout(&self.fd)?)
    }

    /// Sets the time-out; 0 is none.
    ///
    /// # Errors
    /// Those of `setsockopt`.
    pub fn set_timeout_ms(&self, timeout_ms: u32) -> io::Result<()> {
        Ok(sockopt::set_tcp_user_timeout(&self.fd, timeout_ms)?)
    }

    /// Whether the kernel counts the time that bytes have waited in this connection: a time-out that is set counts from
    /// when they began to wait.
    ///
    /// # Errors
    /// Those of `getsockopt`.
    pub fn is_waiting(&self) -> io::Result<bool> {
        let info = tcp::info(&self.fd)?;
        Ok(info.backoff > 0 || info.retransmits_in_a_row > 0)
    }
}

/// Shows every open TCP connection of a process, one after the other. A process or descriptor that goes meanwhile is
/// passed over.
pub fn each_connection(pid: u32, mut show: impl FnMut(ProgramSocket)) {
    let Some(process) = Pid::from_raw(pid.cast_signed()) else { return };
    let Ok(process) = pidfd_open(process, PidfdFlags::empty()) else { return };
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return };
    for entry in entries.flatten() {
        let is_socket = std::fs::read_link(entry.path())
            .is_ok_and(|to| to.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if is_socket
            && let Ok(fd) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty())
            && let Some(connection) = connection(fd)
        {
            show(connection);
        }
    }
}

/// None for all sockets but those of TCP, and for those without a peer.
fn connection(fd: OwnedFd) -> Option<ProgramSocket> {
    let timeout_ms = sockopt::tcp_user_timeout(&fd).ok()?;
    let (local, peer) = tcp::addresses(&fd).ok()?;
    // A socket of a program that listens on both families shows IPv4 addresses in IPv6's form.
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    Some(ProgramSocket { fd, local: plain(local), peer: plain(peer), timeout_ms })
}
