//! The program's side of a half: a kernel TCP connection, or what is left of one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use bytes::{Buf, Bytes, BytesMut};
use kernel::tcp::{self, TcpState};
use overlay_proto::EndKind;
use tokio::io::Interest;

use crate::limits::{DISCARD_BYTES, UNSENT_BYTES};
use crate::watched::{Watched, watch};

/// Where a half's bytes come from and go to.
#[derive(Debug)]
pub enum Program {
    /// The kernel connection to the program.
    Socket(Socket),
    /// The program's side is gone.
    Gone(Remains),
}

/// A kernel connection whose receive queue is the replay buffer of the session.
#[derive(Debug)]
pub struct Socket {
    fd: Watched,
    /// Bytes of ours that the other half does not have: they come before all that the program sends.
    preamble: Bytes,
    /// A byte that was consumed before the other half had it (it opened the window of an orphan, see
    /// `kernel::tcp::flush_orphan`): it comes before everything in the receive queue.
    prefix: Option<u8>,
}

/// The bytes that a program left behind, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remains {
    /// Bytes that the other half does not have yet.
    pub bytes: Bytes,
    /// How the program's stream ended after them.
    pub ending: EndKind,
}

/// What a peek found.
#[derive(Debug, PartialEq, Eq)]
pub enum Peeked {
    /// More bytes of the program.
    Bytes(Bytes),
    /// The program's stream ended here.
    End(EndKind),
}

impl Remains {
    /// What is left when the program's side ended.
    pub fn new(bytes: Bytes, ending: EndKind) -> Self {
        Self { bytes, ending }
    }
}

impl Socket {
    /// Watches a nonblocking connection; must be called on the data plane's runtime.
    ///
    /// # Errors
    /// The runtime can't watch the descriptor.
    pub fn new(fd: OwnedFd, prefix: Option<u8>) -> io::Result<Self> {
        tcp::set_unsent_limit(&fd, UNSENT_BYTES)?;
        Ok(Self { fd: watch(fd)?, preamble: Bytes::new(), prefix })
    }

    /// The same, of which the other half gets these bytes before all that the program sends.
    #[must_use]
    pub fn after(mut self, preamble: Bytes) -> Self {
        self.preamble = preamble;
        self
    }

    /// Stops watching.
    pub fn into_parts(self) -> (OwnedFd, Option<u8>) {
        (self.fd.into_inner(), self.prefix)
    }

    /// The connection itself.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }

    /// The byte that comes before the receive queue, if there is one.
    pub fn prefix(&self) -> Option<u8> {
        self.prefix
    }

    /// Notes a byte that was consumed before the other half had it.
    pub fn set_prefix(&mut self, byte: u8) {
        self.prefix = Some(byte);
    }

    /// The bytes of ours that come before all that the program sends.
    pub(super) fn preamble(&self) -> &[u8] {
        &self.preamble
    }

    /// Bytes that come before the receive queue.
    fn before_queue(&self) -> u64 {
        self.preamble.len() as u64 + u64::from(self.prefix.is_some())
    }

    /// Those of them from `ahead` on; none when that is in the queue.
    fn peek_before_queue(&self, ahead: u64, bytes_max: usize) -> Option<Peeked> {
        let preamble = self.preamble.len();
        let bytes = match usize::try_from(ahead).unwrap_or(usize::MAX) {
            start if start < preamble => {
                self.preamble.slice(start..preamble.min(start.saturating_add(bytes_max)))
            }
            start if start == preamble => Bytes::copy_from_slice(&[self.prefix?]),
            _ => return None,
        };
        Some(Peeked::Bytes(bytes))
    }

    async fn peek(&self, ahead: u64, bytes_max: usize) -> io::Result<Peeked> {
        if let Some(peeked) = self.peek_before_queue(ahead, bytes_max) {
            return Ok(peeked);
        }
        loop {
            let mut ready = self.fd.readable().await?;
            // The buffer is made when there is something: thousands of idle sessions need none.
            match ready.try_io(|fd| peek_now(fd.get_ref(), bytes_max)) {
                Ok(peeked) => return peeked,
                Err(_would_block) => {}
            }
        }
    }

    fn peek_at_once(&self, ahead: u64, bytes_max: usize) -> io::Result<Peeked> {
        match self.peek_before_queue(ahead, bytes_max) {
            Some(peeked) => Ok(peeked),
            None => peek_now(self.fd.get_ref(), bytes_max),
        }
    }

    fn consume(&mut self, bytes: u64) -> io::Result<()> {
        let of_preamble = bytes.min(self.preamble.len() as u64);
        self.preamble.advance(usize::try_from(of_preamble).unwrap_or(usize::MAX));
        let mut left = bytes - of_preamble;
        if left > 0 && self.prefix.take().is_some() {
            left -= 1;
        }
        while left > 0 {
            let step = usize::try_from(left).unwrap_or(usize::MAX).min(1 << 30);
            let taken = tcp::consume(self.fd.get_ref(), step)?;
            if taken == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= taken as u64;
        }
        Ok(())
    }
}

impl Program {
    /// The descriptor, while there is a connection.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Socket(socket) => Some(socket.fd()),
            Self::Gone(_) => None,
        }
    }

    /// Sets where the next peek begins: `ahead` bytes after what was consumed.
    ///
    /// # Errors
    /// The kernel refuses, which it does for no open connection.
    pub fn seek(&self, ahead: u64) -> io::Result<()> {
        match self {
            Self::Socket(socket) => {
                let in_queue = ahead.saturating_sub(socket.before_queue());
                tcp::set_peek_offset(socket.fd.get_ref(), u32::try_from(in_queue).unwrap_or(u32::MAX))
            }
            Self::Gone(_) => Ok(()),
        }
    }

    /// Waits for bytes after the last peek, which ended `ahead` bytes after what was consumed, and returns up to
    /// `bytes_max` of them without consuming.
    ///
    /// # Errors
    /// The connection was reset; what was received before can still be peeked.
    pub async fn peek(&self, ahead: u64, bytes_max: usize) -> io::Result<Peeked> {
        match self {
            Self::Socket(socket) => socket.peek(ahead, bytes_max).await,
            Self::Gone(remains) if ahead < remains.bytes.len() as u64 => {
                let start = usize::try_from(ahead).unwrap_or(usize::MAX);
                let end = remains.bytes.len().min(start.saturating_add(bytes_max));
                Ok(Peeked::Bytes(remains.bytes.slice(start..end)))
            }
            Self::Gone(remains) => Ok(Peeked::End(remains.ending)),
        }
    }

    /// As [`Program::peek`], without waiting: after a [`Program::seek`] back there is something that the runtime was
    /// told of long ago.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; or the connection was reset.
    pub fn peek_at_once(&self, ahead: u64, bytes_max: usize) -> io::Result<Peeked> {
        match self {
            Self::Socket(socket) => socket.peek_at_once(ahead, bytes_max),
            Self::Gone(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Drops the oldest `bytes`, which the other half has.
    ///
    /// # Errors
    /// The connection does not have so many: a fault of the session's bookkeeping.
    pub fn consume(&mut self, bytes: u64) -> io::Result<()> {
        match self {
            Self::Socket(socket) => socket.consume(bytes),
            Self::Gone(remains) => {
                let count = usize::try_from(bytes).unwrap_or(usize::MAX).min(remains.bytes.len());
                remains.bytes.advance(count);
                Ok(())
            }
        }
    }

    /// Gives bytes to the program and takes what its connection accepted off the front of `bytes`.
    ///
    /// # Errors
    /// The connection was reset.
    pub async fn send(&self, bytes: &mut Bytes) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => loop {
                let mut ready = socket.fd.writable().await?;
                match ready.try_io(|fd| tcp::send(fd.get_ref(), bytes)) {
                    Ok(count) => {
                        let count = count?;
                        bytes.advance(count);
                        return Ok(count);
                    }
                    Err(_would_block) => {}
                }
            },
            Self::Gone(_) => {
                let count = bytes.len();
                bytes.clear();
                Ok(count)
            }
        }
    }

    /// Waits until the program's connection may take more.
    pub async fn writable(&self) {
        if let Self::Socket(socket) = self {
            let _ = socket.fd.writable().await;
        }
    }

    /// Reads and drops whatever the program sends, until its connection ends.
    pub async fn discard(&self) {
        let Self::Socket(socket) = self else { return };
        let take = |fd: &OwnedFd| tcp::consume(fd, DISCARD_BYTES);
        loop {
            // What was peeked before is there, though the runtime does not tell of it again.
            match take(socket.fd.get_ref()) {
                Ok(0) => return,
                Ok(_) => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
                Err(_) => {}
            }
            let Ok(mut ready) = socket.fd.readable().await else { return };
            if let Ok(Ok(0) | Err(_)) = ready.try_io(|fd| take(fd.get_ref())) {
                return;
            }
        }
    }

    /// Waits until the kernel reports an error of the connection.
    pub async fn error(&self) {
        let Self::Socket(socket) = self else { return std::future::pending().await };
        while let Ok(mut ready) = socket.fd.ready(Interest::ERROR).await {
            if is_reset(socket) {
                return;
            }
            ready.clear_ready();
        }
    }

    /// Bytes received from the program and not consumed.
    pub fn queued(&self) -> u64 {
        match self {
            Self::Socket(socket) => {
                socket.before_queue() + u64::from(tcp::queued(socket.fd.get_ref()).unwrap_or(0))
            }
            Self::Gone(remains) => remains.bytes.len() as u64,
        }
    }

    /// Memory that the receive buffer of the connection may take.
    pub fn receive_memory(&self) -> Option<u64> {
        match self {
            Self::Socket(socket) => tcp::receive_memory(socket.fd.get_ref()).ok(),
            Self::Gone(_) => None,
        }
    }

    /// Sets how much memory the receive buffer of the connection may take.
    pub fn set_receive_memory(&self, bytes: u64) {
        let half = usize::try_from(bytes / 2).unwrap_or(usize::MAX);
        if let Self::Socket(socket) = self
            && let Err(error) = tcp::set_receive_buffer(socket.fd.get_ref(), half)
        {
            tracing::debug!(%error, bytes, "the receive buffer of a session's socket can't be set");
        }
    }

    /// Bytes given to the connection that the program's kernel has not acknowledged.
    pub fn unacknowledged(&self) -> u32 {
        match self {
            Self::Socket(socket) => tcp::unacknowledged(socket.fd.get_ref()).unwrap_or(0),
            Self::Gone(_) => 0,
        }
    }

    /// Ends our direction after everything that was sent.
    pub fn shutdown(&self) {
        if let Self::Socket(socket) = self
            && let Err(error) = tcp::shutdown_write(socket.fd.get_ref())
        {
            tracing::debug!(%error, "shutdown of a session's socket");
        }
    }

    /// Resets the connection.
    pub fn reset(&mut self) {
        if let Self::Socket(socket) = self
            && let Err(error) = tcp::reset(socket.fd.get_ref())
        {
            tracing::debug!(%error, "reset of a session's socket");
        }
        *self = Self::Gone(Remains::new(Bytes::new(), EndKind::Reset));
    }

    /// True when the kernel has nothing more to do for this connection. What a closed one has not had acknowledged
    /// never will be.
    pub fn is_finished(&self) -> bool {
        match self {
            Self::Socket(socket) => match tcp::info(socket.fd.get_ref()) {
                Ok(info) => match info.state {
                    TcpState::Closed | TcpState::TimeWait => true,
                    TcpState::FinWait2 => self.unacknowledged() == 0,
                    _ => false,
                },
                Err(_) => true,
            },
            Self::Gone(_) => true,
        }
    }
}

fn peek_now(fd: &OwnedFd, bytes_max: usize) -> io::Result<Peeked> {
    let mut buffer = BytesMut::zeroed(bytes_max);
    match tcp::peek(fd, &mut buffer)? {
        0 => Ok(Peeked::End(EndKind::Fin)),
        count => {
            buffer.truncate(count);
            Ok(Peeked::Bytes(buffer.freeze()))
        }
    }
}

fn is_reset(socket: &Socket) -> bool {
    tcp::info(socket.fd.get_ref()).is_ok_and(|info| info.state == TcpState::Closed)
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests;
