//! How much room a private layer takes, and how much there is.

use std::collections::HashSet;
use std::path::Path;

use super::FilesError;
use super::private::Listing;

/// Room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes.
    pub bytes: u64,
    /// Inodes. A file system that makes them as needed (btrfs) has `u64::MAX` free.
    pub inodes: u64,
}

/// The room that a move of this private layer takes at its target: what it holds (hard links once, holes not),
/// and its largest file once more, which rsync writes beside the old one when it changes between rounds.
pub fn disk_needed(upper: &Path) -> Result<Space, FilesError> {
    let listing = Listing::of(upper)?;
    let mut seen = HashSet::new();
    let mut needed = Space { bytes: 0, inodes: 0 };
    let mut largest = 0;
    for (_, entry) in listing.entries() {
        if entry.links > 1 && !entry.is_directory() && !seen.insert((entry.device, entry.inode)) {
            continue;
        }
        needed.inodes += 1;
        needed.bytes += entry.allocated_bytes;
        largest = largest.max(entry.allocated_bytes);
    }
    needed.bytes += largest;
    Ok(needed)
}

/// The room left in a directory's file system for root.
pub fn free_space(directory: &Path) -> Result<Space, FilesError> {
    let stat =
        rustix::fs::statvfs(directory).map_err(|e| FilesError::io("ask the free space of", directory, e))?;
    let inodes = if stat.f_files == 0 { u64::MAX } else { stat.f_ffree };
    Ok(Space { bytes: stat.f_bfree.saturating_mul(stat.f_frsize), inodes })
}
