//! Reading: nothing is given out that was not checked.

use std::io::{self, Read};

use crate::frame::{
    Chain, HASH_BYTES, HEADER_BYTES, Header, Kind, PROLOGUE_BYTES, check_prologue, may_be_ours,
};
use crate::limits::{CHUNK_BYTES, MANIFEST_BYTES_MAX, NAME_BYTES_MAX};
use crate::{FileError, Manifest, Section};

/// Reads a capsule file: the manifest at once, then section after section.
///
/// Bytes of a section are given out as soon as their own frame was checked. That the file is whole is known only when
/// [`Reader::next`] has said that there are no more sections: nothing must be decided before.
pub struct Reader<R> {
    inner: R,
    chain: Chain,
    decompressor: zstd::bulk::Decompressor<'static>,
    at: u64,
    stored: Vec<u8>,
    chunk: Vec<u8>,
    chunk_at: usize,
    section: Option<Open>,
    ended: bool,
}

struct Open {
    section: Section,
    length: u64,
    hasher: blake3::Hasher,
}

impl<R: Read> Reader<R> {
    /// Reads beginning and manifest.
    ///
    /// # Errors
    /// It is no capsule file, or damaged, or newer than this version.
    pub fn open(inner: R) -> Result<(Manifest, Self), FileError> {
        let (prologue, inner) = read_prologue(inner)?;
        let mut reader = Self {
            inner,
            chain: Chain::begin(&prologue),
            decompressor: zstd::bulk::Decompressor::new()?,
            at: PROLOGUE_BYTES as u64,
            stored: Vec::new(),
            chunk: Vec::new(),
            chunk_at: 0,
            section: None,
            ended: false,
        };
        let Some((Section::Manifest, _)) = reader.next()? else {
            return Err(FileError::Nonsense("it does not begin with a manifest".into()));
        };
        let mut text = Vec::new();
        let limit = MANIFEST_BYTES_MAX as u64 + 1;
        (&mut reader).take(limit).read_to_end(&mut text).map_err(FileError::from_io)?;
        if text.len() > MANIFEST_BYTES_MAX {
            return Err(FileError::TooLong { what: "the manifest", limit: MANIFEST_BYTES_MAX });
        }
        let manifest = serde_json::from_slice(&text)
            .map_err(|error| FileError::Nonsense(format!("its manifest: {error}")))?;
        Ok((manifest, reader))
    }

    /// The next section with its name, past what is left of the present one; `None` when the file ended, whole.
    ///
    /// # Errors
    /// It is damaged or cut off.
    #[expect(clippy::should_implement_trait, reason = "an item borrows from nothing, and it can fail")]
    pub fn next(&mut self) -> Result<Option<(Section, String)>, FileError> {
        while self.section.is_some() {
            self.refill()?;
        }
        if self.ended {
            return Ok(None);
        }
        let at = self.at;
        let header = self.frame()?;
        match header.kind {
            Kind::Open if header.length == 0 && self.stored.len() <= NAME_BYTES_MAX => {
                let section = Section::from_number(header.section).ok_or_else(|| {
                    FileError::Nonsense(format!("a section of the unknown kind {}", header.section))
                })?;
                let name = String::from_utf8(self.stored.clone())
                    .map_err(|_| FileError::Nonsense("the name of a section is no text".into()))?;
                self.section = Some(Open { section, length: 0, hasher: blake3::Hasher::new() });
                Ok(Some((section, name)))
            }
            Kind::End if header.section == 0 && header.length == 0 && self.stored.is_empty() => {
                let mut rest = [0];
                match read_some(&mut self.inner, &mut rest, self.at)? {
                    0 => self.ended = true,
                    _ => return Err(FileError::Trailing { at: self.at }),
                }
                Ok(None)
            }
            _ => Err(FileError::Nonsense(format!("a frame out of order at byte {at}"))),
        }
    }

    /// Bytes read so far, of the file or of what was encrypted.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Takes the next chunk of the open section; its end closes it.
    fn refill(&mut self) -> Result<(), FileError> {
        let at = self.at;
        let header = self.frame()?;
        let out_of_order = || FileError::Nonsense(format!("a frame out of order at byte {at}"));
        let open = self.section.as_mut().ok_or_else(out_of_order)?;
        if header.section != open.section.number() {
            return Err(out_of_order());
        }
        let length = header.length as usize;
        self.chunk_at = 0;
        match header.kind {
            Kind::Plain if length == self.stored.len() && (1..=CHUNK_BYTES).contains(&length) => {
                std::mem::swap(&mut self.chunk, &mut self.stored);
            }
            Kind::Compressed if (1..=CHUNK_BYTES).contains(&length) => {
                self.chunk.resize(length, 0);
                let decompressed =
                    self.decompressor.decompress_to_buffer(&self.stored, self.chunk.as_mut_slice());
                if !decompressed.is_ok_and(|found| found == length) {
                    return Err(FileError::Nonsense(format!("what was compressed at byte {at} is not")));
                }
            }
            Kind::Close if length == 0 => {
                self.chunk.clear();
                let mut totals = open.length.to_be_bytes().to_vec();
                totals.extend(open.hasher.finalize().as_bytes());
                if self.stored != totals {
                    let what = open.section.word();
                    return Err(FileError::Nonsense(format!("the section of its {what} is not all there")));
                }
                self.section = None;
                return Ok(());
            }
            _ => return Err(out_of_order()),
        }
        open.length += length as u64;
        open.hasher.update(&self.chunk);
        Ok(())
    }

    /// Reads and checks a frame; its payload is in `stored`.
    fn frame(&mut self) -> Result<Header, FileError> {
        let at = self.at;
        let mut bytes = [0; HEADER_BYTES];
        self.fill(&mut bytes)?;
        let header = Header::from_bytes(bytes, at)?;
        let mut stored = std::mem::take(&mut self.stored);
        stored.resize(header.stored as usize, 0);
        self.fill(&mut stored)?;
        let mut hash = [0; HASH_BYTES];
        self.fill(&mut hash)?;
        if self.chain.next(&bytes, &stored) != hash {
            let what = match self.section.as_ref().map(|open| open.section) {
                Some(section) => section.word(),
                None => "a frame",
            };
            return Err(FileError::Damaged { at, what });
        }
        self.stored = stored;
        Ok(header)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), FileError> {
        let found = read_some(&mut self.inner, bytes, self.at)?;
        self.at += found as u64;
        if found < bytes.len() { Err(FileError::Truncated { at: self.at }) } else { Ok(()) }
    }
}

impl<R: Read> Read for Reader<R> {
    /// Bytes of the open section; 0 at its end.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.section.is_some() && self.chunk_at == self.chunk.len() {
            self.refill()?;
        }
        let taken = out.len().min(self.chunk.len() - self.chunk_at);
        out[..taken].copy_from_slice(&self.chunk[self.chunk_at..self.chunk_at + taken]);
        self.chunk_at += taken;
        Ok(taken)
    }
}

/// Reads a whole file and checks every byte of it.
///
/// # Errors
/// Says what is wrong with it.
pub fn verify(inner: impl Read) -> Result<Manifest, FileError> {
    let (manifest, mut reader) = Reader::open(inner)?;
    while reader.next()?.is_some() {}
    Ok(manifest)
}

fn read_prologue<R: Read>(mut inner: R) -> Result<([u8; PROLOGUE_BYTES], R), FileError> {
    let mut prologue = [0; PROLOGUE_BYTES];
    let found = read_some(&mut inner, &mut prologue, 0)?;
    match found {
        0 => return Err(FileError::Empty),
        PROLOGUE_BYTES => {}
        _ if may_be_ours(&prologue[..found]) => return Err(FileError::Truncated { at: found as u64 }),
        _ => return Err(FileError::Foreign),
    }
    check_prologue(&prologue)?;
    Ok((prologue, inner))
}

/// Reads until `bytes` is full or nothing follows.
fn read_some(inner: &mut impl Read, bytes: &mut [u8], at: u64) -> Result<usize, FileError> {
    let mut found = 0;
    while found < bytes.len() {
        match inner.read(&mut bytes[found..]) {
            Ok(0) => break,
            Ok(count) => found += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(match FileError::from_io(error) {
                    // What is below says that a byte is wrong, not where in here.
                    FileError::Damaged { what, .. } => FileError::Damaged { at: at + found as u64, what },
                    FileError::Truncated { .. } => FileError::Truncated { at: at + found as u64 },
                    other => other,
                });
            }
        }
    }
    Ok(found)
}
