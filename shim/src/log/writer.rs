use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Line, Stream, time};
use crate::limits::{CHUNK_BYTES, LOG_BYTES_MAX};
use crate::place;

/// Appends to a capsule's log.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
}

impl Writer {
    /// Opens the log in a capsule's directory, and goes on with one that is there.
    ///
    /// # Errors
    /// It cannot be opened or made.
    pub fn open(dir: &Path) -> io::Result<Writer> {
        Writer::with_limit(dir, LOG_BYTES_MAX)
    }

    pub(super) fn with_limit(dir: &Path, bytes_max: u64) -> io::Result<Writer> {
        let file = append_to(dir)?;
        let bytes = file.metadata()?.len();
        Ok(Writer { dir: dir.to_owned(), file, bytes, bytes_max })
    }

    /// Writes what came on a stream.
    ///
    /// # Errors
    /// Those of the file; a part may be written.
    pub fn append(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let now = time::rfc3339(SystemTime::now());
        for piece in bytes.chunks(CHUNK_BYTES) {
            let text: String = piece.iter().map(|byte| char::from(*byte)).collect();
            let line = Line { t: Cow::Borrowed(&now), s: stream, b: Cow::Owned(text) };
            let mut line = serde_json::to_vec(&line).map_err(io::Error::other)?;
            line.push(b'\n');
            self.make_room(line.len() as u64)?;
            self.file.write_all(&line)?;
            self.bytes += line.len() as u64;
        }
        Ok(())
    }

    fn make_room(&mut self, bytes: u64) -> io::Result<()> {
        if self.bytes == 0 || self.bytes + bytes <= self.bytes_max {
            return Ok(());
        }
        std::fs::rename(place::log(&self.dir), place::log_before(&self.dir))?;
        self.file = append_to(&self.dir)?;
        self.bytes = 0;
        Ok(())
    }
}

fn append_to(dir: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(place::log(dir))
}
