//! The log of a capsule: what its program wrote, in order, with times.
//!
//! A line is a JSON object `{"t":"2026-11-23T19:02:11.042Z","s":"out","b":"text"}`. Every character of `b` stands for
//! one byte (U+0000 to U+00FF), so that any bytes come back as they were and plain text stays readable. A log that
//! grew too long is put aside as `log.1`, in the place of the one put aside before.

use serde::{Deserialize, Serialize};

pub use reader::Reader;
pub use writer::Writer;

mod reader;
mod time;
mod writer;

/// Which of the program's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// What came at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// When the shim read it, RFC 3339, UTC.
    pub time: String,
    /// The stream it came on.
    pub stream: Stream,
    /// The bytes.
    pub bytes: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    t: std::borrow::Cow<'a, str>,
    s: Stream,
    b: std::borrow::Cow<'a, str>,
}

#[cfg(test)]
mod tests;
