//! Prologue and frames as bytes.

use crate::limits::STORED_BYTES_MAX;
use crate::{FileError, VERSION};

/// Begins every capsule file. The first byte is none of any text, the line ends show a transfer that changes them.
const MAGIC: [u8; 8] = *b"\x89CAPS\r\n\n";
pub(crate) const PROLOGUE_BYTES: usize = 32;
pub(crate) const HEADER_BYTES: usize = 12;
pub(crate) const HASH_BYTES: usize = 32;

/// What a frame does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Open,
    Plain,
    Compressed,
    Close,
    End,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Open, Self::Plain, Self::Compressed, Self::Close, Self::End];

    const fn number(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Plain => 2,
            Self::Compressed => 3,
            Self::Close => 4,
            Self::End => 5,
        }
    }
}

/// A frame without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) section: u8,
    pub(crate) stored: u32,
    pub(crate) length: u32,
}

impl Header {
    pub(crate) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = self.kind.number();
        bytes[1] = self.section;
        bytes[4..8].copy_from_slice(&self.stored.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// The header; the damage may be in it, so nothing of it is believed but the bound of its payload.
    pub(crate) fn from_bytes(bytes: [u8; HEADER_BYTES], at: u64) -> Result<Self, FileError> {
        let damaged = FileError::Damaged { at, what: "the header of a frame" };
        let [kind, section, 0, 0, s0, s1, s2, s3, l0, l1, l2, l3] = bytes else { return Err(damaged) };
        let stored = u32::from_be_bytes([s0, s1, s2, s3]);
        let kind = Kind::ALL.into_iter().find(|known| known.number() == kind);
        match kind {
            Some(kind) if stored as usize <= STORED_BYTES_MAX => {
                Ok(Self { kind, section, stored, length: u32::from_be_bytes([l0, l1, l2, l3]) })
            }
            _ => Err(damaged),
        }
    }
}

/// The chain of hashes.
#[derive(Debug, Clone)]
pub(crate) struct Chain([u8; HASH_BYTES]);

impl Chain {
    pub(crate) fn begin(prologue: &[u8; PROLOGUE_BYTES]) -> Self {
        Self(*blake3::hash(prologue).as_bytes())
    }

    /// The hash of the next frame.
    pub(crate) fn next(&mut self, header: &[u8; HEADER_BYTES], payload: &[u8]) -> [u8; HASH_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(header).update(payload);
        self.0 = *hasher.finalize().as_bytes();
        self.0
    }
}

pub(crate) fn prologue() -> [u8; PROLOGUE_BYTES] {
    let mut bytes = [0; PROLOGUE_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_be_bytes());
    let checksum = checksum(&bytes);
    bytes[16..].copy_from_slice(&checksum);
    bytes
}

/// Whether a file that begins like this may be a capsule file: all there is of the magic is right.
pub(crate) fn may_be_ours(begin: &[u8]) -> bool {
    let length = begin.len().min(MAGIC.len());
    length > 0 && begin[..length] == MAGIC[..length]
}

pub(crate) fn check_prologue(bytes: &[u8; PROLOGUE_BYTES]) -> Result<(), FileError> {
    if !may_be_ours(bytes) {
        return Err(FileError::Foreign);
    }
    if bytes[16..] != checksum(bytes) {
        return Err(FileError::Damaged { at: 0, what: "its beginning" });
    }
    let found = u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    if found > VERSION {
        return Err(FileError::Newer { found, known: VERSION });
    }
    if found == 0 {
        return Err(FileError::Nonsense("its format has no version".into()));
    }
    Ok(())
}

fn checksum(bytes: &[u8; PROLOGUE_BYTES]) -> [u8; 16] {
    let mut checksum = [0; 16];
    checksum.copy_from_slice(&blake3::hash(&bytes[..16]).as_bytes()[..16]);
    checksum
}

#[cfg(test)]
pub(crate) fn prologue_of_version(version: u32) -> [u8; PROLOGUE_BYTES] {
    let mut bytes = prologue();
    bytes[8..12].copy_from_slice(&version.to_be_bytes());
    let checksum = checksum(&bytes);
    bytes[16..].copy_from_slice(&checksum);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_version_is_told_from_damage() {
        assert!(check_prologue(&prologue()).is_ok());
        let newer = check_prologue(&prologue_of_version(VERSION + 1));
        assert!(matches!(newer, Err(FileError::Newer { found, known }) if found == known + 1));
        assert!(matches!(check_prologue(&prologue_of_version(0)), Err(FileError::Nonsense(_))));
        for at in 0..PROLOGUE_BYTES {
            let mut bytes = prologue();
            bytes[at] ^= 1;
            let refused = check_prologue(&bytes);
            match at {
                0..8 => assert!(matches!(refused, Err(FileError::Foreign)), "{at}: {refused:?}"),
                _ => assert!(matches!(refused, Err(FileError::Damaged { at: 0, .. })), "{at}: {refused:?}"),
            }
        }
    }
}
