//! Copying what the target lacks into a tree of its own.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, Statx, Timespec, Timestamps, Uid};

use super::{BaseKind, Difference, DifferenceKind, describe};
use crate::files::tree::{Found, Tree};
use crate::files::{FilesError, xattr};

/// What was staged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Staged {
    /// Files, symlinks and directories that differ; directories on the way not counted.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
}

/// Copies from the source's base what is missing or differs at the target into `staging`, an empty directory,
/// with owners, modes, times and attributes, and with the directories above. Blocked differences are left out:
/// who has such a one doesn't move.
pub fn stage(base: &Path, differences: &[Difference], staging: &Path) -> Result<Staged, FilesError> {
    let base = Tree::of_layer(base)?;
    let mut staged = Staged::default();
    let mut directories = BTreeSet::new();
    for difference in differences {
        match difference.kind {
            DifferenceKind::Missing | DifferenceKind::Differs => {}
            DifferenceKind::Blocked(_) => continue,
        }
        let path = difference.path.as_path();
        for above in path.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
            if above != Path::new("/") {
                make_directory(&base, above, staging, &mut directories)?;
            }
        }
        let found = find(&base, path)?;
        staged.files += 1;
        match describe::kind(&base, path, &found)? {
            BaseKind::Directory => make_directory(&base, path, staging, &mut directories)?,
            BaseKind::Regular => staged.bytes += copy_file(&base, path, &found, staging)?,
            BaseKind::Symlink { target } => copy_symlink(path, &target, &found.stat, staging)?,
            BaseKind::Special => staged.files -= 1,
        }
    }
    // Deepest first, after everything was put into them.
    for path in directories.iter().rev() {
        let found = find(&base, path)?;
        set_times(&inside(staging, path), &found.stat)?;
    }
    Ok(staged)
}

fn make_directory(
    base: &Tree,
    path: &Path,
    staging: &Path,
    made: &mut BTreeSet<PathBuf>,
) -> Result<(), FilesError> {
    if !made.insert(path.to_path_buf()) {
        return Ok(());
    }
    let to = inside(staging, path);
    let found = find(base, path)?;
    std::fs::create_dir(&to).map_err(|e| FilesError::io("make the directory", &to, e))?;
    let directory = File::open(&to).map_err(|e| FilesError::io("open", &to, e))?;
    let from = base.open(path)?;
    set_owner_and_mode(&directory, &found.stat, &to)?;
    xattr::copy(from.as_fd(), directory.as_fd(), &to)
}

fn copy_file(base: &Tree, path: &Path, found: &Found, staging: &Path) -> Result<u64, FilesError> {
    let to = inside(staging, path);
    let mut from = File::from(base.open(path)?);
    let mut file = File::create_new(&to).map_err(|e| FilesError::io("create", &to, e))?;
    let bytes = std::io::copy(&mut from, &mut file).map_err(|e| FilesError::io("write", &to, e))?;
    set_owner_and_mode(&file, &found.stat, &to)?;
    // After the owner: a change of owner takes file capabilities away.
    xattr::copy(from.as_fd(), file.as_fd(), &to)?;
    set_times(&to, &found.stat)?;
    Ok(bytes)
}

fn copy_symlink(path: &Path, target: &Path, stat: &Statx, staging: &Path) -> Result<(), FilesError> {
    let to = inside(staging, path);
    std::os::unix::fs::symlink(target, &to).map_err(|e| FilesError::io("make the symlink", &to, e))?;
    std::os::unix::fs::lchown(&to, Some(stat.stx_uid), Some(stat.stx_gid))
        .map_err(|e| FilesError::io("give away", &to, e))?;
    set_times(&to, stat)
}

fn find(base: &Tree, path: &Path) -> Result<Found, FilesError> {
    let gone = || FilesError::io("stage", base.shown(path), std::io::ErrorKind::NotFound);
    base.find(path)?.ok_or_else(gone)
}

pub(super) fn set_owner_and_mode(file: &File, stat: &Statx, shown: &Path) -> Result<(), FilesError> {
    let failed = |error| FilesError::io("set the owner and mode of", shown, error);
    let (uid, gid) = (Uid::from_raw(stat.stx_uid), Gid::from_raw(stat.stx_gid));
    rustix::fs::fchown(file, Some(uid), Some(gid)).map_err(failed)?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(describe::permissions(stat))).map_err(failed)
}

/// Sets the times to the nanosecond, of a symlink itself.
pub(super) fn set_times(path: &Path, stat: &Statx) -> Result<(), FilesError> {
    let modified = Timespec { tv_sec: stat.stx_mtime.tv_sec, tv_nsec: stat.stx_mtime.tv_nsec.into() };
    let times = Timestamps { last_access: modified, last_modification: modified };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| FilesError::io("set the times of", path, e))
}

/// A path of the capsule inside a directory of this host.
pub(super) fn inside(directory: &Path, path: &Path) -> PathBuf {
    directory.join(path.strip_prefix("/").unwrap_or(path))
}
