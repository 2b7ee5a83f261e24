//! What is gone at the source, removed at the target by our own code. rsync would do it by comparing whole directories,
//! or by `--delete-missing-args`, which receivers with the security fixes of 2026 refuse as an invalid file mode.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, RawDir};
use rustix::io::Errno;

use super::listing::{DIRECTORY_BUFFER_BYTES, above};
use crate::files::tree::Tree;
use crate::files::{FilesError, limits};

/// The list of what is to be removed, in pieces for [`Remover::remove`].
pub fn pieces<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> impl Iterator<Item = Vec<u8>> {
    let mut paths = paths.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut piece = Vec::new();
        let fits = |piece: &[u8], path: &PathBuf| {
            piece.is_empty() || piece.len() + path.as_os_str().len() < limits::REMOVALS_PIECE_BYTES
        };
        while let Some(path) = paths.next_if(|path| fits(&piece, path)) {
            piece.extend_from_slice(path.as_os_str().as_bytes());
            piece.push(0);
        }
        (!piece.is_empty()).then_some(piece)
    })
}

/// Removes in a directory what another host names, and nothing outside of it, whatever that host says and whatever
/// symlinks it has sent before.
#[derive(Debug)]
pub struct Remover {
    tree: Tree,
    left: usize,
}

impl Remover {
    /// For one round, in the directory that [`super::rsync_receiver`] is to write into.
    pub fn of(directory: &Path) -> Result<Remover, FilesError> {
        Ok(Remover { tree: Tree::of_directory(directory)?, left: limits::REMOVALS_MAX })
    }

    /// Removes what a piece of the list names, with all that is below it. What is not there is no failure.
    ///
    /// # Errors
    /// Something can't be removed, or the piece is none that [`pieces`] makes; nothing that it names is removed then.
    pub fn remove(&mut self, piece: &[u8]) -> Result<(), FilesError> {
        if piece.len() > limits::REMOVALS_PIECE_BYTES {
            return Err(self.refused("a piece of it is too long"));
        }
        let Some(list) = piece.strip_suffix(&[0]) else {
            return Err(self.refused("a piece of it has no end"));
        };
        let mut paths = Vec::new();
        for path in list.split(|byte| *byte == 0) {
            if !is_plain(path) {
                return Err(self.refused(format!("{:?} is no path below it", OsStr::from_bytes(path))));
            }
            self.left = self.left.checked_sub(1).ok_or_else(|| self.refused("it is too long"))?;
            paths.push(Path::new(OsStr::from_bytes(path)));
        }
        paths.into_iter().try_for_each(|path| remove(&self.tree, path))
    }

    fn refused(&self, why: impl Into<String>) -> FilesError {
        FilesError::BadRemovals { path: self.tree.path().to_path_buf(), why: why.into() }
    }
}

/// Relative, and without a component that is empty, `.` or `..`.
fn is_plain(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').all(|name| !matches!(name, b"" | b"." | b".."))
}

/// Every directory is looked up from the root, so that neither memory nor open files grow with the depth, and a
/// directory that changes places meanwhile leads nowhere else.
fn remove(tree: &Tree, path: &Path) -> Result<(), FilesError> {
    if unlink(tree, path, AtFlags::empty())? {
        return Ok(());
    }
    let mut waiting = vec![(path.to_path_buf(), false)];
    while let Some((path, emptied)) = waiting.pop() {
        if emptied {
            unlink(tree, &path, AtFlags::REMOVEDIR)?;
        } else if let Some(directory) = tree.open_directory(&path)? {
            let below = empty(tree, &path, &directory)?;
            waiting.push((path, true));
            waiting.extend(below.into_iter().map(|directory| (directory, false)));
        }
    }
    Ok(())
}

/// Removes one name; false if that is a directory, which needs the flag.
fn unlink(tree: &Tree, path: &Path, flags: AtFlags) -> Result<bool, FilesError> {
    let Some(directory) = tree.open_directory(above(path))? else { return Ok(true) };
    let Some(name) = path.file_name() else { return Ok(true) };
    match rustix::fs::unlinkat(&directory, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(error) => Err(FilesError::io("remove", tree.shown(path), error)),
    }
}

/// Removes all that is in a directory but the directories, which it returns.
fn empty(tree: &Tree, path: &Path, directory: &OwnedFd) -> Result<Vec<PathBuf>, FilesError> {
    let mut buffer = vec![MaybeUninit::uninit(); DIRECTORY_BUFFER_BYTES];
    let mut names = RawDir::new(directory.as_fd(), &mut buffer);
    let mut below = Vec::new();
    while let Some(name) = names.next() {
        let name = name.map_err(|e| FilesError::io("list", tree.shown(path), e))?;
        let name = name.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let child = path.join(OsStr::from_bytes(name.to_bytes()));
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => below.push(child),
            Err(error) => return Err(FilesError::io("remove", tree.shown(&child), error)),
        }
    }
    Ok(below)
}

#[cfg(test)]
mod tests;
