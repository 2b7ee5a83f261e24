use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::message::{Accepted, Reply, Request};
use crate::wire::{self, Received};

/// A connection to a shim: one request at a time, blocking until it is answered.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection failed.
    #[error("talking to the capsule's shim failed: {0}")]
    Io(#[from] io::Error),
    /// The shim has gone.
    #[error("the capsule's shim has gone")]
    Gone,
    /// The shim says why it did not do it.
    #[error("{what}{}{stderr_tail}", if stderr_tail.is_empty() { "" } else { ": " })]
    Failed {
        /// What failed.
        what: String,
        /// The end of what runc wrote.
        stderr_tail: String,
    },
    /// The answer belongs to another request.
    #[error("the capsule's shim answered {0:?}")]
    Unexpected(Reply),
}

impl Client {
    /// Connects to the socket at a path (see [`crate::place::socket`]).
    ///
    /// # Errors
    /// No shim listens there.
    pub fn connect(path: &Path) -> io::Result<Client> {
        Ok(Client { socket: wire::connect(path)?, buffer: Vec::new() })
    }

    /// Bounds the wait for an answer; the connection is of no use after a timeout.
    ///
    /// # Errors
    /// Those of `setsockopt`.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        Ok(set_socket_timeout(&self.socket, Timeout::Recv, timeout)?)
    }

    /// Sends a request with descriptors and waits for its answer, [`Reply::Failed`] among them.
    ///
    /// # Errors
    /// The connection broke.
    pub fn request(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Reply, ClientError> {
        wire::send(&self.socket, request, fds)?;
        Ok(self.answer()?.message)
    }

    /// As [`Client::request`], with [`Reply::Failed`] as an error.
    ///
    /// # Errors
    /// The connection broke, or the shim could not do it.
    pub fn ask(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Reply, ClientError> {
        match self.request(request, fds)? {
            Reply::Failed { what, stderr_tail } => Err(ClientError::Failed { what, stderr_tail }),
            reply => Ok(reply),
        }
    }

    /// Waits for the program's end.
    ///
    /// # Errors
    /// The connection broke, or there is no program.
    pub fn watch_exit(&mut self) -> Result<i32, ClientError> {
        match self.ask(&Request::WatchExit, &[])? {
            Reply::Exited { code } => Ok(code),
            other => Err(ClientError::Unexpected(other)),
        }
    }

    /// Takes duplicates of all sockets that the shim holds, with the names of their sessions.
    ///
    /// # Errors
    /// The connection broke.
    pub fn take_sockets(&mut self) -> Result<Vec<(String, OwnedFd)>, ClientError> {
        wire::send(&self.socket, &Request::TakeSockets, &[])?;
        let mut taken = Vec::new();
        loop {
            let Received { message, fds } = self.answer()?;
            match message {
                Reply::Sockets { sessions, last } => {
                    taken.extend(sessions.into_iter().zip(fds));
                    if last {
                        return Ok(taken);
                    }
                }
                other => return Err(ClientError::Unexpected(other)),
            }
        }
    }

    /// Accepts what waits at a listener that the shim holds; what was accepted is held already.
    ///
    /// # Errors
    /// The connection broke, or there is no such listener.
    pub fn accept(&mut self, listener: &str) -> Result<Vec<(Accepted, OwnedFd)>, ClientError> {
        wire::send(&self.socket, &Request::Accept { listener: listener.into() }, &[])?;
        let Received { message, fds } = self.answer()?;
        match message {
            Reply::Accepted { connections } => Ok(connections.into_iter().zip(fds).collect()),
            Reply::Failed { what, stderr_tail } => Err(ClientError::Failed { what, stderr_tail }),
            other => Err(ClientError::Unexpected(other)),
        }
    }

    /// The file in which the sidecar notes what it knows of the held sessions.
    ///
    /// # Errors
    /// The connection broke.
    pub fn table(&mut self) -> Result<OwnedFd, ClientError> {
        wire::send(&self.socket, &Request::Table, &[])?;
        let Received { message, fds } = self.answer()?;
        match (message, fds.into_iter().next()) {
            (Reply::Table, Some(file)) => Ok(file),
            (other, _) => Err(ClientError::Unexpected(other)),
        }
    }

    fn answer(&mut self) -> Result<Received<Reply>, ClientError> {
        wire::receive(&self.socket, &mut self.buffer)?.ok_or(ClientError::Gone)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
