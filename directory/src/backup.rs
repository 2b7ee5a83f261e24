//! Everything that a directory must not lose, in one file.
//!
//! ```text
//!  magic (16) │ version (4) │ length (4) │ head │ length (8) │ body │ BLAKE3 of all before (32)
//!                                          │                   └─ facts of the store, files of the data directory;
//!                                          │                      an age file when it is sealed
//!                                          └─ whose it is, of when, what it holds: readable in both cases
//! ```
//!
//! Numbers are big-endian, head and body are `prost` messages with tagged fields.

pub mod file;
pub mod socket;
mod wire;

use std::time::SystemTime;

use crate::sealed::{self, Passphrase};
use crate::store::Contents;

pub use wire::{decode_facts, encode_facts};

/// With what a backup begins. Its last bytes are broken by whatever changes the ends of lines.
const MAGIC: &[u8; 16] = b"CAPSDIRBACKUP\r\n\x1a";

/// Version of the format.
const VERSION: u32 = 1;

/// Bytes of the BLAKE3 hash at the end.
const HASH_BYTES: usize = blake3::OUT_LEN;

/// A backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// What can be read of it without a passphrase.
    pub head: Head,
    /// The facts of the store.
    pub facts: Contents,
    /// Files of the data directory.
    pub files: Vec<KeptFile>,
}

/// Whose a backup is, and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The mesh's zone.
    pub zone: String,
    /// BLAKE3 of the root's certificate: which mesh of that name.
    pub ca_hash: [u8; 32],
    /// When it was made.
    pub taken_at: SystemTime,
    /// The revision of the facts.
    pub revision: u64,
    /// How many capsules it has.
    pub capsules: u64,
    /// How many hosts it has.
    pub hosts: u64,
    /// Whether a passphrase is needed.
    pub sealed: bool,
    /// The names of its files.
    pub files: Vec<String>,
}

/// A file of the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptFile {
    /// Its name.
    pub name: String,
    /// What is in it.
    pub content: Vec<u8>,
}

/// Why something is no backup that can be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It begins otherwise.
    #[error("this is no backup of a directory")]
    Foreign,
    /// Made by a later version.
    #[error(
        "a newer capsule-directory made it (format {found}, this one reads {VERSION}): restore with that one"
    )]
    Newer {
        /// Its format.
        found: u32,
    },
    /// Shorter than it says.
    #[error("it is cut off: {bytes} bytes are there, more are missing; use another copy")]
    CutOff {
        /// How many are there.
        bytes: usize,
    },
    /// The hash is another one.
    #[error("it is damaged: its checksum does not fit; use another copy")]
    Damaged,
    /// The hash fits, and the content makes no sense.
    #[error("its {what} cannot be read: a faulty program made it")]
    Unreadable {
        /// Which part.
        what: &'static str,
    },
    /// A passphrase is needed.
    #[error("it is sealed: --passphrase-file FILE")]
    Sealed,
    /// A passphrase that is not needed means that another file was meant.
    #[error("it is not sealed, and a passphrase was given: is it the right file?")]
    NotSealed,
    /// Sealing or opening failed.
    #[error("{0}")]
    Passphrase(String),
}

impl Backup {
    /// Puts a backup together.
    pub fn new(
        zone: String,
        ca_hash: [u8; 32],
        taken_at: SystemTime,
        facts: Contents,
        files: Vec<KeptFile>,
    ) -> Self {
        let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        let head = Head {
            zone,
            ca_hash,
            taken_at,
            revision: facts.revision,
            capsules: count(facts.capsules.len()),
            hosts: count(facts.hosts.len()),
            sealed: false,
            files: files.iter().map(|file| file.name.clone()).collect(),
        };
        Self { head, facts, files }
    }

    /// The backup as a file.
    ///
    /// # Errors
    /// When it cannot be sealed.
    pub fn encode(&self, passphrase: Option<&Passphrase>) -> Result<Vec<u8>, BackupError> {
        let body = wire::encode_body(&self.facts, &self.files);
        let body = match passphrase {
            Some(passphrase) => sealed::seal(body, passphrase)
                .map_err(|error| BackupError::Passphrase(format!("{error:#}")))?,
            None => body,
        };
        let head = wire::encode_head(&Head { sealed: passphrase.is_some(), ..self.head.clone() });
        let mut bytes = Vec::with_capacity(MAGIC.len() + 16 + head.len() + body.len() + HASH_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        bytes.extend_from_slice(&u32::try_from(head.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&u64::try_from(body.len()).unwrap_or(u64::MAX).to_be_bytes());
        bytes.extend_from_slice(&body);
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        Ok(bytes)
    }

    /// Reads a backup, all of it or nothing.
    ///
    /// # Errors
    /// Says why it is none, or cannot be used.
    pub fn decode(bytes: &[u8], passphrase: Option<&Passphrase>) -> Result<Self, BackupError> {
        let (head, body) = split(bytes)?;
        let head = wire::decode_head(head)?;
        let opened;
        let body = match (head.sealed, passphrase) {
            (true, None) => return Err(BackupError::Sealed),
            (false, Some(_)) => return Err(BackupError::NotSealed),
            (false, None) => body,
            (true, Some(passphrase)) => {
                opened = sealed::unseal_bytes(body, passphrase)
                    .map_err(|error| BackupError::Passphrase(format!("{error:#}")))?;
                opened.as_slice()
            }
        };
        let (facts, files) = wire::decode_body(body)?;
        Ok(Self { head: Head { sealed: false, ..head }, facts, files })
    }
}

/// Takes head and body out of the frame, when it is whole.
fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), BackupError> {
    let cut_off = || BackupError::CutOff { bytes: bytes.len() };
    let begin = bytes.get(..MAGIC.len()).unwrap_or(bytes);
    if !MAGIC.starts_with(begin) || begin.is_empty() {
        return Err(BackupError::Foreign);
    }
    let rest = bytes.get(MAGIC.len()..).ok_or_else(cut_off)?;
    let (version, rest) = rest.split_first_chunk::<4>().ok_or_else(cut_off)?;
    let version = u32::from_be_bytes(*version);
    if version > VERSION {
        return Err(BackupError::Newer { found: version });
    }
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(cut_off)?;
    let (head, rest) = take(rest, u64::from(u32::from_be_bytes(*length))).ok_or_else(cut_off)?;
    let (length, rest) = rest.split_first_chunk::<8>().ok_or_else(cut_off)?;
    let (body, rest) = take(rest, u64::from_be_bytes(*length)).ok_or_else(cut_off)?;
    let (hash, rest) = rest.split_first_chunk::<HASH_BYTES>().ok_or_else(cut_off)?;
    let before = &bytes[..bytes.len() - HASH_BYTES - rest.len()];
    if !rest.is_empty() || blake3::hash(before) != blake3::Hash::from_bytes(*hash) {
        return Err(BackupError::Damaged);
    }
    Ok((head, body))
}

fn take(bytes: &[u8], length: u64) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(usize::try_from(length).ok()?)
}

#[cfg(test)]
mod tests;
