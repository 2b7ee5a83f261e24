use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::net::SocketFlags;
use shim::gate::{OPEN, REPORT};
use shim::{Reply, place, wire};

use super::Server;

/// The shim's side of a restore's gate: closing the connection shuts it for good.
pub(super) struct Gate {
    path: PathBuf,
    listener: OwnedFd,
    standing: Option<OwnedFd>,
    reported: bool,
}

impl Gate {
    pub(super) fn new(dir: &Path) -> io::Result<Gate> {
        let path = place::gate_socket(dir);
        Ok(Gate { listener: wire::listen(&path)?, path, standing: None, reported: false })
    }

    /// Takes the next step towards a restore that stands here; says whether it has just arrived.
    fn advance(&mut self) -> io::Result<bool> {
        let Some(standing) = &self.standing else {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            self.standing = Some(rustix::net::accept_with(&self.listener, flags)?);
            return Ok(false);
        };
        match wire::receive::<String>(standing, &mut Vec::new())? {
            Some(word) if word.message == REPORT && !self.reported => {
                self.reported = true;
                Ok(true)
            }
            Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "an unknown word from the gate")),
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the gate was left")),
        }
    }

    /// Says the word.
    pub(super) fn open(&self) -> io::Result<()> {
        match &self.standing {
            Some(standing) if self.reported => wire::send(standing, &OPEN, &[]),
            _ => Err(io::Error::new(io::ErrorKind::NotConnected, "nothing stands at the gate")),
        }
    }
}

impl AsFd for Gate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.standing.as_ref().unwrap_or(&self.listener).as_fd()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Server {
    /// Something happened at the gate.
    pub(super) fn gate_moved(&mut self) {
        let Some(gate) = &mut self.gate else { return };
        match gate.advance() {
            Ok(true) => {
                if let Some(client) = self.program.arrived_at_gate() {
                    self.clients.reply(client, &Reply::AtGate);
                }
            }
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // runc says in a moment why.
            Err(_) => self.gate = None,
        }
    }
}
