//! An open TCP connection as a value: captured from one socket, rebuilt as another, elsewhere.
//!
//! ```text
//!  capture ──(socket is in repair mode: silent when closed)── resume: as if nothing had been
//!     │
//!  TcpSnapshot
//!     │
//!  rebuild ──(repair mode: closing it is silent)── activate: the connection goes on
//! ```
//!
//! The namespace is locked from before `capture` until after `rebuild`, on both sides; the kernel would answer what
//! arrives in between. A rebuilt socket is brought to the true state of the connection: a FIN that the other end sent
//! is sent once more in its name by `activate`, and our own FIN is repeated, which the other end knows how to ignore.

use std::io;
use std::os::fd::AsFd;

use thiserror::Error;

use crate::tcp::TcpState;

mod capture;
mod rebuild;
mod snapshot;

pub use capture::{capture, is_silent, resume, silence};
pub use rebuild::{activate, rebuild};
pub use snapshot::{OwnFin, TcpSnapshot};

/// Why a connection could not be captured or rebuilt.
#[derive(Debug, Error)]
pub enum RepairError {
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no connection to capture: it is over, or not there yet.
    #[error("the socket is in state {0:?} and has no connection to capture")]
    NoConnection(TcpState),
    /// A queue gave another number of bytes than it said; something arrived, the namespace was not locked.
    #[error("the {queue} queue should have {expected} bytes and gave {found}")]
    Incomplete {
        /// `send` or `receive`.
        queue: &'static str,
        /// Bytes it should have.
        expected: usize,
        /// Bytes it gave.
        found: usize,
    },
    /// A queue is longer than anybody's buffer should be.
    #[error("the {queue} queue has {bytes} bytes, too many to carry")]
    TooLong {
        /// `send` or `receive`.
        queue: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// The snapshot was made by another version of this program.
    #[error("snapshot version {0} is not known")]
    Version(u32),
    /// The rebuilt socket did not take the other end's FIN.
    #[error("the rebuilt socket did not take the other end's FIN and is in state {0:?}")]
    FinNotTaken(TcpState),
}

impl RepairError {
    fn at(what: &'static str) -> impl FnOnce(io::Error) -> RepairError {
        move |source| RepairError::System { what, source }
    }
}

const QUEUE_NONE: i32 = 0;
const QUEUE_RECEIVE: i32 = 1;
const QUEUE_SEND: i32 = 2;

fn select_queue(fd: impl AsFd, queue: i32) -> Result<(), RepairError> {
    crate::sockopt::set(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_REPAIR_QUEUE, &queue)
        .map_err(RepairError::at("select a queue"))
}
