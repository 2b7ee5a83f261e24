//! Who changed what: one line of JSON for each fact that a command changed, in `DIR/audit.log`.
//!
//! Lines are written before the change is committed, so that none is made without one; should the commit fail, a line says
//! that too. They outlive the process, and as the store's own `fsync` follows them, a loss of power as a rule.
//!
//! ```text
//!  audit.log   the newest lines; renamed to audit.1.log when it is full
//!  audit.1.log … audit.7.log   older ones; the oldest is dropped
//! ```

mod entry;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::data::owner::hand_over;
use crate::limits::{AUDIT_FILE_BYTES_MAX, AUDIT_FILES_MAX};

pub use entry::{AskedBy, By, Entry, entries, owners};

/// The log of one data directory, open for writing.
#[derive(Debug)]
pub struct Log {
    directory: PathBuf,
    file: File,
    bytes: u64,
    /// The last line may have been cut: it is ended before another one is written.
    torn: bool,
}

impl Log {
    /// Opens the log in a data directory, or makes it.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let file = open(&path(directory, 0))?;
        hand_over(&file, directory)?;
        let bytes = file.metadata()?.len();
        // Whoever wrote last may have died in the middle of a line. An empty line is no entry, and does no harm.
        Ok(Self { directory: directory.to_owned(), file, bytes, torn: bytes > 0 })
    }

    /// Writes entries, all with one system call.
    ///
    /// # Errors
    /// When they could not be written.
    pub fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        if self.bytes >= AUDIT_FILE_BYTES_MAX {
            self.turn_over()?;
        }
        let mut text = if self.torn { vec![b'\n'] } else { Vec::new() };
        for entry in entries {
            serde_json::to_writer(&mut text, entry)?;
            text.push(b'\n');
        }
        self.torn = true;
        self.file.write_all(&text)?;
        self.torn = false;
        self.bytes += u64::try_from(text.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// Begins a fresh file. Whoever dies in between leaves a gap in the numbers and loses nothing.
    fn turn_over(&mut self) -> io::Result<()> {
        for number in (0..AUDIT_FILES_MAX - 1).rev() {
            match fs::rename(path(&self.directory, number), path(&self.directory, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        self.file = open(&path(&self.directory, 0))?;
        hand_over(&self.file, &self.directory)?;
        (self.bytes, self.torn) = (0, false);
        Ok(())
    }
}

/// Reads the last `count` entries of a data directory, oldest first; also while a directory serves it. What is no entry,
/// such as a line that was cut by a full disk, is left out.
///
/// # Errors
/// When a file is there and cannot be read.
pub fn read(directory: &Path, count: usize) -> io::Result<Vec<Entry>> {
    let mut newest_first: Vec<Entry> = Vec::new();
    for number in 0..AUDIT_FILES_MAX {
        let file = match File::open(path(directory, number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let mut lines = Vec::new();
        for line in BufReader::new(file).split(b'\n') {
            lines.extend(serde_json::from_slice::<Entry>(&line?).ok());
        }
        newest_first.extend(lines.into_iter().rev());
        if newest_first.len() >= count {
            break;
        }
    }
    newest_first.truncate(count);
    newest_first.reverse();
    Ok(newest_first)
}

fn path(directory: &Path, number: usize) -> PathBuf {
    match number {
        0 => directory.join("audit.log"),
        number => directory.join(format!("audit.{number}.log")),
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests;
