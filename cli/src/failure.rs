//! Why a verb did not do what it was asked.

use std::{fmt::Display, io};

use admin_api::ErrorView;

/// The exit code when a program could not be started or was lost sight of.
pub(crate) const NOT_STARTED: i32 = 125;

const FAILED: i32 = 1;

/// The exit code of a program whose reader went away (128 + SIGPIPE).
const OUTPUT_CLOSED: i32 = 141;

/// Why a verb ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It failed; here is what to tell.
    Told {
        /// In words.
        error: Box<ErrorView>,
        /// The exit code.
        exit: i32,
    },
    /// Nobody reads stdout any more: nothing to tell.
    OutputClosed,
}

impl Failure {
    /// A failure found here, with its cause.
    pub(crate) fn local(code: &str, what: impl Into<String>, why: impl Display) -> Self {
        ErrorView::new(code, what).why(why).into()
    }

    /// The same failure, seen by `run` or `exec`: their codes up to 124 belong
    /// to the program.
    pub(crate) fn not_started(self) -> Self {
        match self {
            Self::Told { error, exit: _ } => Self::Told { error, exit: NOT_STARTED },
            Self::OutputClosed => Self::OutputClosed,
        }
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> i32 {
        match self {
            Self::Told { exit, .. } => *exit,
            Self::OutputClosed => OUTPUT_CLOSED,
        }
    }
}

impl From<ErrorView> for Failure {
    fn from(error: ErrorView) -> Self {
        Self::Told { error: Box::new(error), exit: FAILED }
    }
}

impl From<Box<ErrorView>> for Failure {
    fn from(error: Box<ErrorView>) -> Self {
        Self::Told { error, exit: FAILED }
    }
}

/// Failures to write to stdout; everything else is turned into words where it
/// happens.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::OutputClosed
        } else {
            Self::local("output/failed", "can't write to stdout", error)
        }
    }
}
