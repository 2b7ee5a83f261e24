use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Chunk, Line};
use crate::limits::{CHUNK_BYTES, LOG_LINE_BYTES_MAX};
use crate::place;

/// Reads a capsule's log from its beginning, and on as it grows.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    current: Option<Source>,
}

#[derive(Debug)]
struct Source {
    file: File,
    inode: u64,
    /// Read and not yet parsed: `pending[start..]`.
    pending: Vec<u8>,
    start: usize,
}

impl Reader {
    /// Starts with the oldest line that is kept; there may be no log yet.
    ///
    /// # Errors
    /// The log is there and cannot be opened.
    pub fn open(dir: &Path) -> io::Result<Reader> {
        let current = match Source::open(&place::log_before(dir))? {
            Some(source) => Some(source),
            None => Source::open(&place::log(dir))?,
        };
        Ok(Reader { dir: dir.to_owned(), current })
    }

    /// The next chunk; `None` when there is no more for the time being: ask again later to follow.
    ///
    /// # Errors
    /// Reading failed, or a line is none of the log's.
    pub fn next_chunk(&mut self) -> io::Result<Option<Chunk>> {
        loop {
            let Some(source) = &mut self.current else {
                self.current = Source::open(&place::log(&self.dir))?;
                if self.current.is_none() {
                    return Ok(None);
                }
                continue;
            };
            // Asked before the read: what is written after it to a log put aside meanwhile is then read first.
            let following = following(&self.dir, source.inode)?;
            if let Some(chunk) = source.next_chunk()? {
                return Ok(Some(chunk));
            }
            if following.is_none() {
                return Ok(None);
            }
            self.current = following;
        }
    }
}

/// The log that comes after the one with this inode.
fn following(dir: &Path, inode: u64) -> io::Result<Option<Source>> {
    match std::fs::metadata(place::log(dir)) {
        Ok(now) if now.ino() != inode => {
            // Two rotations may lie between: then the one put aside comes first.
            match Source::open(&place::log_before(dir))? {
                Some(before) if before.inode != inode => Ok(Some(before)),
                _ => Source::open(&place::log(dir)),
            }
        }
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Source {
    fn open(path: &Path) -> io::Result<Option<Source>> {
        match File::open(path) {
            Ok(file) => {
                let inode = file.metadata()?.ino();
                Ok(Some(Source { file, inode, pending: Vec::new(), start: 0 }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn next_chunk(&mut self) -> io::Result<Option<Chunk>> {
        loop {
            let unread = self.pending.get(self.start..).unwrap_or_default();
            if let Some(length) = unread.iter().position(|byte| *byte == b'\n') {
                let chunk = parse(unread.get(..length).unwrap_or_default())?;
                self.start += length + 1;
                return Ok(Some(chunk));
            }
            if unread.len() > LOG_LINE_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line of the log is too long"));
            }
            self.pending.drain(..self.start);
            self.start = 0;
            let read =
                Read::by_ref(&mut self.file).take(CHUNK_BYTES as u64).read_to_end(&mut self.pending)?;
            if read == 0 {
                return Ok(None);
            }
        }
    }
}

fn parse(line: &[u8]) -> io::Result<Chunk> {
    let bad = |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("a line of the log: {why}"));
    let line: Line<'_> = serde_json::from_slice(line).map_err(|error| bad(error.to_string()))?;
    let bytes: Result<Vec<u8>, _> = line.b.chars().map(|c| u8::try_from(u32::from(c))).collect();
    let bytes = bytes.map_err(|_| bad("a character above U+00FF".into()))?;
    Ok(Chunk { time: line.t.into_owned(), stream: line.s, bytes })
}
