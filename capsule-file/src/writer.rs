//! Writing, frame by frame.

use std::io::{self, Write};

use crate::frame::{Chain, Header, Kind, prologue};
use crate::limits::{CHUNK_BYTES, MANIFEST_BYTES_MAX, NAME_BYTES_MAX, ZSTD_LEVEL};
use crate::{FileError, Manifest, Section};

/// Writes a capsule file: the manifest at once, then sections, then the end.
///
/// A writer that is dropped before [`Writer::finish`] leaves what readers refuse as cut off.
pub struct Writer<W> {
    inner: W,
    chain: Chain,
    compressor: zstd::bulk::Compressor<'static>,
    written: u64,
    section: Option<Open>,
}

struct Open {
    section: Section,
    length: u64,
    hasher: blake3::Hasher,
    chunk: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins a file with its manifest.
    ///
    /// # Errors
    /// Writing fails, or the manifest is too long.
    pub fn begin(mut inner: W, manifest: &Manifest) -> Result<Self, FileError> {
        let text = serde_json::to_vec(manifest).map_err(|error| FileError::Nonsense(error.to_string()))?;
        if text.len() > MANIFEST_BYTES_MAX {
            return Err(FileError::TooLong { what: "the manifest", limit: MANIFEST_BYTES_MAX });
        }
        let prologue = prologue();
        inner.write_all(&prologue)?;
        let mut writer = Self {
            inner,
            chain: Chain::begin(&prologue),
            compressor: zstd::bulk::Compressor::new(ZSTD_LEVEL)?,
            written: prologue.len() as u64,
            section: None,
        };
        writer.section(Section::Manifest, "")?;
        writer.write_all(&text)?;
        writer.close()?;
        Ok(writer)
    }

    /// Begins a section; what is written from here on belongs to it.
    ///
    /// # Errors
    /// Writing fails, or the name is too long.
    ///
    /// # Panics
    /// When the section before was not closed.
    pub fn section(&mut self, section: Section, name: &str) -> Result<(), FileError> {
        assert!(self.section.is_none(), "the section before was closed");
        if name.len() > NAME_BYTES_MAX {
            return Err(FileError::TooLong { what: "the name of a section", limit: NAME_BYTES_MAX });
        }
        self.frame(Kind::Open, section.number(), 0, name.as_bytes())?;
        let chunk = Vec::with_capacity(CHUNK_BYTES);
        self.section = Some(Open { section, length: 0, hasher: blake3::Hasher::new(), chunk });
        Ok(())
    }

    /// Ends the section.
    ///
    /// # Errors
    /// Writing fails.
    pub fn close(&mut self) -> Result<(), FileError> {
        self.put_chunk()?;
        let Some(open) = self.section.take() else { return Ok(()) };
        let mut totals = open.length.to_be_bytes().to_vec();
        totals.extend(open.hasher.finalize().as_bytes());
        self.frame(Kind::Close, open.section.number(), 0, &totals)
    }

    /// Ends the file, and gives back what it was written to, flushed.
    ///
    /// # Errors
    /// Writing fails.
    pub fn finish(mut self) -> Result<W, FileError> {
        self.close()?;
        self.frame(Kind::End, 0, 0, &[])?;
        self.inner.flush()?;
        Ok(self.inner)
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    fn put_chunk(&mut self) -> Result<(), FileError> {
        let Some(open) = self.section.as_mut().filter(|open| !open.chunk.is_empty()) else { return Ok(()) };
        let section = open.section.number();
        let chunk = std::mem::take(&mut open.chunk);
        let length = u32::try_from(chunk.len()).expect("a chunk has a bounded length");
        let compressed = self.compressor.compress(&chunk)?;
        if compressed.len() < chunk.len() {
            self.frame(Kind::Compressed, section, length, &compressed)?;
        } else {
            self.frame(Kind::Plain, section, length, &chunk)?;
        }
        if let Some(open) = &mut self.section {
            open.chunk = chunk;
            open.chunk.clear();
        }
        Ok(())
    }

    fn frame(&mut self, kind: Kind, section: u8, length: u32, payload: &[u8]) -> Result<(), FileError> {
        let stored = u32::try_from(payload.len()).expect("a payload has a bounded length");
        let header = Header { kind, section, stored, length }.to_bytes();
        let hash = self.chain.next(&header, payload);
        self.inner.write_all(&header)?;
        self.inner.write_all(payload)?;
        self.inner.write_all(&hash)?;
        self.written += (header.len() + payload.len() + hash.len()) as u64;
        Ok(())
    }
}

impl<W: Write> Write for Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(open) = &mut self.section else {
            return Err(io::Error::other("no section of the capsule file is open"));
        };
        let taken = &bytes[..bytes.len().min(CHUNK_BYTES - open.chunk.len())];
        open.chunk.extend_from_slice(taken);
        open.hasher.update(taken);
        open.length += taken.len() as u64;
        if open.chunk.len() == CHUNK_BYTES {
            self.put_chunk()?;
        }
        Ok(taken.len())
    }

    /// Does nothing: a frame is written when it is full or its section ends.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
