//! Lookups that cannot leave a tree: whatever symlinks it holds, they are taken relative to its own root.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use super::{FilesError, limits};

/// A directory taken as the root of everything below it.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    path: PathBuf,
}

/// What a lookup found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) fd: OwnedFd,
    pub(crate) stat: Statx,
}

impl Tree {
    /// Opens a layer as overlayfs sees it: without what is mounted on top of it.
    pub(crate) fn of_layer(path: &Path) -> Result<Tree, FilesError> {
        // A private clone of the mount has no mounts below it, which is what overlayfs makes of a layer too.
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        match rustix::mount::open_tree(CWD, path, flags) {
            Ok(root) => Ok(Tree { root, path: path.to_path_buf() }),
            Err(error) => Err(FilesError::io("open the layer", path, error)),
        }
    }

    /// Opens a plain directory.
    pub(crate) fn of_directory(path: &Path) -> Result<Tree, FilesError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|e| FilesError::io("open", path, e))?;
        Ok(Tree { root, path: path.to_path_buf() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a path of the tree is for a person who reads a message.
    pub(crate) fn shown(&self, path: &Path) -> PathBuf {
        self.path.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Finds what a path names, the last component not followed. `None`: there is no such thing.
    pub(crate) fn find(&self, path: &Path) -> Result<Option<Found>, FilesError> {
        self.look(path, ResolveFlags::empty())
    }

    /// Like `find`, but a symlink on the way counts as nothing found.
    pub(crate) fn find_strictly(&self, path: &Path) -> Result<Option<Found>, FilesError> {
        self.look(path, ResolveFlags::NO_SYMLINKS)
    }

    fn look(&self, path: &Path, resolve: ResolveFlags) -> Result<Option<Found>, FilesError> {
        let fd = match self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW, resolve) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Ok(None),
            Err(error) => return Err(FilesError::io("look up", self.shown(path), error)),
        };
        let stat = stat_fd(fd.as_fd()).map_err(|e| FilesError::io("stat", self.shown(path), e))?;
        Ok(Some(Found { fd, stat }))
    }

    /// Opens for reading, symlinks on the way taken inside the tree.
    pub(crate) fn open(&self, path: &Path) -> Result<OwnedFd, FilesError> {
        // Without NONBLOCK the opening of a fifo would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        self.open_at(path, flags, ResolveFlags::empty())
            .map_err(|e| FilesError::io("open", self.shown(path), e))
    }

    /// Opens a directory to list it. `None`: it is gone, or no directory any more.
    pub(crate) fn open_directory(&self, path: &Path) -> Result<Option<OwnedFd>, FilesError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        match self.open_at(path, flags, ResolveFlags::NO_SYMLINKS) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
            Err(error) => Err(FilesError::io("open the directory", self.shown(path), error)),
        }
    }

    fn open_at(&self, path: &Path, flags: OFlags, resolve: ResolveFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let mut attempts = 0;
        loop {
            match rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN) if attempts < limits::LOOKUP_ATTEMPTS_MAX => attempts += 1,
                result => return result,
            }
        }
    }
}

/// The attributes behind a descriptor, also of one opened with `O_PATH`.
pub(crate) fn stat_fd(fd: BorrowedFd<'_>) -> rustix::io::Result<Statx> {
    rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
}

/// The type in a mode.
pub(crate) fn file_type(stat: &Statx) -> FileType {
    FileType::from_raw_mode(stat.stx_mode.into())
}

/// Whether this is overlayfs' mark for "removed here": a character device 0/0.
pub(crate) fn is_whiteout(stat: &Statx) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.stx_rdev_major == 0 && stat.stx_rdev_minor == 0
}

/// The target of a symlink that was opened with `O_PATH`.
pub(crate) fn read_link(found: &Found, shown: &Path) -> Result<PathBuf, FilesError> {
    let target = rustix::fs::readlinkat(&found.fd, "", Vec::new())
        .map_err(|e| FilesError::io("read the link", shown, e))?;
    Ok(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
}
