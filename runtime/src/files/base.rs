//! Files of the base that a capsule's processes have open or mapped: CRIU opens them again by name at the target
//! and refuses when their size, mode or build id is another (`--file-validation`, build-id by default), so they
//! are compared there before the freeze, and what differs is shipped into the private layer.
//!
//! Only what is open or mapped is covered. What a program will open later (a plugin, a locale, certificates) is
//! the target's own.

mod compare;
mod describe;
mod elf;
mod merge;
mod processes;
mod stage;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use compare::compare;
pub use merge::merge;
pub use processes::{named_base_files, open_base_files};
pub use stage::{Staged, stage};

/// What the processes of a capsule have open or mapped from the base.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenBase {
    /// To be compared at the target, by path.
    pub files: Vec<BaseFile>,
    /// Open or mapped, but removed by the capsule: their content travels in CRIU's image.
    pub unlinked: Vec<Unlinked>,
    /// Not movable.
    pub immovable: Vec<Immovable>,
}

/// A file of the base, as one host has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseFile {
    /// Absolute path inside the capsule.
    #[serde(with = "raw_path")]
    pub path: PathBuf,
    /// What it is.
    pub kind: BaseKind,
    /// Length in bytes; 0 for what is no regular file.
    pub size: u64,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds and nanoseconds of the last change of the content.
    pub modified: (i64, u32),
    /// BLAKE3 of the content of a regular file.
    pub digest: Option<[u8; 32]>,
    /// The GNU build id of an ELF file.
    pub build_id: Option<Vec<u8>>,
}

/// The kinds of files in a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BaseKind {
    /// A regular file.
    Regular,
    /// A directory: only itself, not what is in it.
    Directory,
    /// A symlink.
    Symlink {
        /// Where it leads.
        #[serde(with = "raw_path")]
        target: PathBuf,
    },
    /// A fifo, socket or device: it must be there, and can't be shipped.
    Special,
}

/// A base file that is open or mapped and has no name any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlinked {
    /// Its last name.
    pub path: PathBuf,
    /// Bytes, which CRIU's ghost limit must allow.
    pub size: u64,
}

/// A base file that stands in the way of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Immovable {
    /// Which.
    pub path: PathBuf,
    /// A process that has it.
    pub pid: u32,
    /// Why, and what to do.
    pub reason: String,
}

/// How the target's base differs in one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Absolute path inside the capsule.
    #[serde(with = "raw_path")]
    pub path: PathBuf,
    /// How.
    pub kind: DifferenceKind,
}

/// The ways to differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DifferenceKind {
    /// The target lacks it; it is shipped.
    Missing,
    /// The target has another; ours is shipped.
    Differs,
    /// It can't be shipped, for this reason.
    Blocked(String),
}

/// Paths are bytes, which most formats can't write as text.
mod raw_path {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_os_str().as_bytes().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Vec::<u8>::deserialize(deserializer).map(|bytes| PathBuf::from(OsString::from_vec(bytes)))
    }
}
