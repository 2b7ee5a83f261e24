//! The format of a capsule file: a suspended capsule as one stream of bytes. No network, no directory, no clock.
//!
//! ```text
//!  prologue    magic, version of the format, checksum of these                                    32 bytes
//!  frame       kind, section, two zeros, stored length, length, payload, BLAKE3                   12 + n + 32
//!    open        a section begins: its name
//!    data        bytes of the section, as they are or compressed with zstd
//!    close       the section's length and the BLAKE3 of its bytes
//!    end         nothing follows
//! ```
//!
//! * The hash of a frame is over the hash of the frame before, its header and its payload; the first one is over the
//!   hash of the prologue. So whatever is changed, left out, repeated or put elsewhere is noticed at that frame, before
//!   its payload is looked at.
//! * The manifest is the first section. A reader has it before anything else is read.
//! * Sections are of kinds that this version knows; others are refused by the version in the prologue, which is raised
//!   when a kind is added or changes its meaning.
//! * Neither side needs more memory than some frames, whatever the length of the file.
//!
//! An encrypted capsule file is an ordinary [age](https://age-encryption.org/v1) file with a capsule file in it: any
//! age opens it.

mod error;
mod frame;
pub mod limits;
mod manifest;
mod reader;
mod sealed;
mod writer;

pub use error::FileError;
pub use manifest::Manifest;
pub use reader::{Reader, verify};
pub use sealed::{Keys, Lock, Sealed, Unsealed, seal, unseal};
pub use writer::Writer;

/// The version of the format that this crate writes, and the newest that it reads.
pub const VERSION: u32 = 1;

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Section {
    /// Who it is and where it was; JSON.
    Manifest,
    /// The sidecar's ends of its connections.
    Sessions,
    /// One file of the image of its processes.
    Memory,
    /// Its private files.
    Files,
    /// Files of the base that its processes had open or mapped.
    Base,
    /// One file of its program's output.
    Log,
}

impl Section {
    const ALL: [Self; 6] = [Self::Manifest, Self::Sessions, Self::Memory, Self::Files, Self::Base, Self::Log];

    const fn number(self) -> u8 {
        match self {
            Self::Manifest => 1,
            Self::Sessions => 2,
            Self::Memory => 3,
            Self::Files => 4,
            Self::Base => 5,
            Self::Log => 6,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|section| section.number() == number)
    }

    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Sessions => "sessions",
            Self::Memory => "memory",
            Self::Files => "files",
            Self::Base => "base files",
            Self::Log => "log",
        }
    }
}
