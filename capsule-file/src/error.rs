//! Why a capsule file can't be read or written.

use std::io;

/// What is wrong with a file, or with the key.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is something else.
    #[error("it is no capsule file")]
    Foreign,
    /// It has no bytes.
    #[error("it is empty")]
    Empty,
    /// It was made by a newer capsule.
    #[error(
        "its format is version {found}, and this capsule knows up to {known}: resume it with a newer one"
    )]
    Newer {
        /// The file's version.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// A byte is not what was written.
    #[error("it is damaged: {what} at byte {at} is not what was written")]
    Damaged {
        /// Where the damaged part begins, counted in the file or in what was encrypted.
        at: u64,
        /// The part.
        what: &'static str,
    },
    /// Its end is missing.
    #[error("it is cut off after {at} bytes: its end is missing")]
    Truncated {
        /// How many bytes there are, in the file or in what was encrypted.
        at: u64,
    },
    /// Something follows its end.
    #[error("something follows its end at byte {at}")]
    Trailing {
        /// Where the end is.
        at: u64,
    },
    /// It is whole, and says what no capsule file says.
    #[error("it is whole but makes no sense: {0}")]
    Nonsense(String),
    /// It is encrypted and there is no key.
    #[error("it is encrypted: give --identity FILE or --passphrase-file FILE")]
    Encrypted,
    /// A key was given for a file that is not encrypted.
    #[error("it is not encrypted, and a key was given: somebody may have put another file in its place")]
    NotEncrypted,
    /// The key is not one of those that it was encrypted to.
    #[error("it is encrypted to another key")]
    WrongKey,
    /// The passphrase is not the one.
    #[error("the passphrase is not the one that it was encrypted with")]
    WrongPassphrase,
    /// It needs the other kind of key.
    #[error("it is encrypted {with}: give {needed}")]
    OtherKey {
        /// With what.
        with: &'static str,
        /// The flag needed.
        needed: &'static str,
    },
    /// A recipient, identity or passphrase can't be used.
    #[error("{0}")]
    Key(String),
    /// More than a file may hold.
    #[error("{what} is longer than {limit} bytes")]
    TooLong {
        /// What.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<FileError> for io::Error {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Io(error) => error,
            other => io::Error::other(other),
        }
    }
}

impl FileError {
    /// From an error of `Read` or `Write` that may have been a [`FileError`] before.
    pub fn from_io(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => error,
            Err(error) => Self::Io(error),
        }
    }
}
