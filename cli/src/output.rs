//! Where a program's output goes: on to our own streams, or into the one JSON
//! document.

use std::io;

use bytes::Bytes;
use serde::Serialize;
use tokio::io::{AsyncWriteExt, Stderr, Stdout};

use crate::context::Context;

/// Most output of one stream that a JSON document carries, in bytes.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// A program's output.
pub(crate) enum Output {
    /// Goes on at once.
    Passed(Stdout, Stderr),
    /// Waits for the document.
    Kept(Kept),
}

/// Output kept for a document.
#[derive(Default)]
pub(crate) struct Kept {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    truncated: bool,
}

/// Output as a document shows it: text, with U+FFFD for what is none.
#[derive(Debug, Serialize)]
pub(crate) struct KeptText {
    stdout: String,
    stderr: String,
    /// More than the document carries was left out at the end.
    truncated: bool,
}

/// One piece of output.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Of the program's stdout.
    Stdout(Bytes),
    /// Of its stderr.
    Stderr(Bytes),
}

impl Piece {
    /// Its size.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Stdout(bytes) | Self::Stderr(bytes) => bytes.len(),
        }
    }
}

impl Output {
    /// As the global flags say.
    pub(crate) fn new(context: &Context) -> Self {
        if context.json {
            Self::Kept(Kept::default())
        } else {
            Self::Passed(tokio::io::stdout(), tokio::io::stderr())
        }
    }

    /// Writes pieces in their order.
    pub(crate) async fn write(&mut self, pieces: impl IntoIterator<Item = Piece>) -> io::Result<()> {
        match self {
            Self::Kept(kept) => {
                for piece in pieces {
                    kept.add(&piece);
                }
            }
            Self::Passed(stdout, stderr) => {
                for piece in pieces {
                    match piece {
                        Piece::Stdout(bytes) => stdout.write_all(&bytes).await?,
                        Piece::Stderr(bytes) => {
                            // Keeps the order where both go to the same place.
                            stdout.flush().await?;
                            stderr.write_all(&bytes).await?;
                            stderr.flush().await?;
                        }
                    }
                }
                stdout.flush().await?;
            }
        }
        Ok(())
    }

    /// What was kept; none when it was passed on.
    pub(crate) fn kept(self) -> Option<KeptText> {
        match self {
            Self::Passed(..) => None,
            Self::Kept(kept) => Some(KeptText {
                stdout: String::from_utf8_lossy(&kept.stdout).into_owned(),
                stderr: String::from_utf8_lossy(&kept.stderr).into_owned(),
                truncated: kept.truncated,
            }),
        }
    }
}

impl Kept {
    fn add(&mut self, piece: &Piece) {
        let (buffer, bytes) = match piece {
            Piece::Stdout(bytes) => (&mut self.stdout, bytes),
            Piece::Stderr(bytes) => (&mut self.stderr, bytes),
        };
        let room = KEPT_BYTES_MAX - buffer.len();
        let fits = bytes.len().min(room);
        buffer.extend_from_slice(&bytes[..fits]);
        self.truncated |= fits < bytes.len();
    }
}
