//! The way back. What is read comes from a file that anybody may have made: no path leads out of the directory.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};

use super::{Attributes, ENTRY_BYTES_MAX, EXTENT_BYTES_MAX, Entry, NO_MORE, PackError};
use crate::files::FilesError;
use crate::files::tree::{Tree, file_type};

/// Makes the files of a packed tree in a directory, which is empty. Of those that `wanted` does not want, nothing is
/// made; it must want the directories above those that it wants.
///
/// # Errors
/// A file can't be made, the stream fails or makes no sense; what was made until then stays.
pub fn unpack(
    input: &mut impl Read,
    directory: &Path,
    wanted: impl Fn(&Path) -> bool,
) -> Result<(), PackError> {
    let tree = Tree::of_directory(directory)?;
    let mut unpacker = Unpacker { tree, input };
    while unpacker.next(&wanted)? {}
    Ok(())
}

struct Unpacker<'a, R> {
    tree: Tree,
    input: &'a mut R,
}

impl<R: Read> Unpacker<'_, R> {
    fn next(&mut self, wanted: &impl Fn(&Path) -> bool) -> Result<bool, PackError> {
        match self.entry()? {
            Entry::Directory { path, attributes } => {
                let path = plain(path)?;
                if path.as_os_str().is_empty() {
                    let opened = self.opened_directory(&path)?;
                    self.attribute(&opened, &path, &attributes)?;
                } else if wanted(&path) {
                    let (parent, name) = self.place(&path)?;
                    rustix::fs::mkdirat(&parent, &name, Mode::RWXU)
                        .map_err(|e| self.failed("make", &path, e))?;
                    let opened = self.opened_directory(&path)?;
                    self.attribute(&opened, &path, &attributes)?;
                }
            }
            Entry::File { path, attributes } => {
                let path = plain(path)?;
                let file = if wanted(&path) { Some(self.create(&path)?) } else { None };
                self.content(&path, file.as_ref())?;
                if let Some(file) = file {
                    self.attribute(&OwnedFd::from(file), &path, &attributes)?;
                }
            }
            Entry::Symlink { path, target, attributes } => {
                let path = plain(path)?;
                if wanted(&path) {
                    let (parent, name) = self.place(&path)?;
                    let target = text(target)?;
                    let made = rustix::fs::symlinkat(&target, &parent, &name);
                    made.map_err(|e| self.failed("make the symlink", &path, e))?;
                    self.own_by_name(&parent, &name, &path, &attributes)?;
                }
            }
            Entry::Special { path, kind, major, minor, attributes } => {
                let path = plain(path)?;
                let kind = FileType::from_raw_mode(kind);
                let special =
                    [FileType::Fifo, FileType::Socket, FileType::CharacterDevice, FileType::BlockDevice];
                if !special.contains(&kind) {
                    return Err(nonsense("a file of a kind that there is not"));
                }
                if wanted(&path) {
                    let (parent, name) = self.place(&path)?;
                    let device = rustix::fs::makedev(major, minor);
                    let mode = Mode::from_raw_mode(attributes.permissions & 0o7777);
                    let made = rustix::fs::mknodat(&parent, &name, kind, mode, device);
                    made.map_err(|e| self.failed("make", &path, e))?;
                    // Whatever the umask took away; a special file can't be a symlink.
                    let changed = rustix::fs::chmodat(&parent, &name, mode, AtFlags::empty());
                    changed.map_err(|e| self.failed("set the mode of", &path, e))?;
                    self.own_by_name(&parent, &name, &path, &attributes)?;
                    let changed = rustix::fs::chmodat(&parent, &name, mode, AtFlags::empty());
                    changed.map_err(|e| self.failed("set the mode of", &path, e))?;
                }
            }
            Entry::Hard { path, to } => {
                let (path, to) = (plain(path)?, plain(to)?);
                if wanted(&path) && wanted(&to) {
                    let ((parent, name), (first, first_name)) = (self.place(&path)?, self.place(&to)?);
                    let linked = rustix::fs::linkat(&first, &first_name, &parent, &name, AtFlags::empty());
                    linked.map_err(|e| self.failed("link", &path, e))?;
                }
            }
            Entry::Leave { path, modified } => {
                let path = plain(path)?;
                if path.as_os_str().is_empty() || wanted(&path) {
                    let opened = self.opened_directory(&path)?;
                    self.times(&opened, &path, modified)?;
                }
            }
            Entry::End => return Ok(false),
        }
        Ok(true)
    }

    fn entry(&mut self) -> Result<Entry, PackError> {
        let length = self.number::<4>()?;
        let length = u32::from_be_bytes(length) as usize;
        if length > ENTRY_BYTES_MAX {
            return Err(nonsense("an entry is too long"));
        }
        let mut body = vec![0; length];
        self.input.read_exact(&mut body)?;
        postcard::from_bytes(&body).map_err(|error| PackError::Nonsense(error.to_string()))
    }

    /// Fills a file, or passes its content by.
    fn content(&mut self, path: &Path, file: Option<&File>) -> Result<(), PackError> {
        let mut buffer = vec![0; EXTENT_BYTES_MAX];
        let mut end = 0;
        loop {
            let at = u64::from_be_bytes(self.number()?);
            let length = u64::from_be_bytes(self.number()?);
            if at < end {
                return Err(nonsense("the extents of a file overlap"));
            }
            if length == NO_MORE {
                if let Some(file) = file {
                    file.set_len(at).map_err(|e| self.failed("set the length of", path, e))?;
                }
                return Ok(());
            }
            let length = usize::try_from(length).ok().filter(|length| *length <= EXTENT_BYTES_MAX);
            let length = length.ok_or_else(|| nonsense("an extent is too long"))?;
            self.input.read_exact(&mut buffer[..length])?;
            end = at.checked_add(length as u64).ok_or_else(|| nonsense("an extent ends nowhere"))?;
            if let Some(mut file) = file {
                let written = file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(&buffer[..length]));
                written.map_err(|e| self.failed("write", path, e))?;
            }
        }
    }

    fn create(&self, path: &Path) -> Result<File, PackError> {
        let (parent, name) = self.place(path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&parent, &name, flags, Mode::RUSR | Mode::WUSR);
        Ok(made.map_err(|e| self.failed("create", path, e))?.into())
    }

    /// Owner first: a change of it takes capabilities and set-user-id away.
    fn attribute(&self, opened: &OwnedFd, path: &Path, attributes: &Attributes) -> Result<(), PackError> {
        let (uid, gid) = owner(attributes);
        rustix::fs::fchown(opened, Some(uid), Some(gid)).map_err(|e| self.failed("give away", path, e))?;
        for (name, value) in &attributes.extended {
            let name = text(name.clone())?;
            let set = rustix::fs::fsetxattr(opened, &name, value, XattrFlags::empty());
            set.map_err(|e| self.failed("set the attributes of", path, e))?;
        }
        let mode = Mode::from_raw_mode(attributes.permissions & 0o7777);
        rustix::fs::fchmod(opened, mode).map_err(|e| self.failed("set the mode of", path, e))?;
        self.times(opened, path, attributes.modified)
    }

    fn own_by_name(
        &self,
        parent: &OwnedFd,
        name: &CString,
        path: &Path,
        attributes: &Attributes,
    ) -> Result<(), PackError> {
        let (uid, gid) = owner(attributes);
        let given = rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
        given.map_err(|e| self.failed("give away", path, e))?;
        let times = times(attributes.modified);
        let set = rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW);
        set.map_err(|e| self.failed("set the times of", path, e))
    }

    fn times(&self, opened: &OwnedFd, path: &Path, modified: (i64, u32)) -> Result<(), PackError> {
        let set = rustix::fs::futimens(opened, &times(modified));
        set.map_err(|e| self.failed("set the times of", path, e))
    }

    fn opened_directory(&self, path: &Path) -> Result<OwnedFd, PackError> {
        self.tree.open_directory(path)?.ok_or_else(|| nonsense("a directory that was not made before"))
    }

    /// The directory in which a path is made, and the last component.
    fn place(&self, path: &Path) -> Result<(OwnedFd, CString), PackError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(nonsense("a file without a name"));
        };
        let found = self.tree.find_strictly(parent)?.ok_or_else(|| nonsense("a file in no directory"))?;
        if file_type(&found.stat) != FileType::Directory {
            return Err(nonsense("a file in what is no directory"));
        }
        Ok((found.fd, text(name.to_owned().into_vec())?))
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], PackError> {
        let mut number = [0; N];
        self.input.read_exact(&mut number)?;
        Ok(number)
    }

    fn failed(&self, action: &'static str, path: &Path, error: impl Into<std::io::Error>) -> PackError {
        FilesError::io(action, self.tree.shown(path), error).into()
    }
}

/// A path of nothing but names.
fn plain(bytes: Vec<u8>) -> Result<PathBuf, PackError> {
    let path = PathBuf::from(OsString::from_vec(bytes));
    if path.components().all(|component| matches!(component, Component::Normal(_))) {
        Ok(path)
    } else {
        Err(nonsense("a path leads elsewhere"))
    }
}

fn text(bytes: Vec<u8>) -> Result<CString, PackError> {
    CString::new(bytes).map_err(|_| nonsense("a zero in a name"))
}

fn owner(attributes: &Attributes) -> (Uid, Gid) {
    (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid))
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let modified = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: modified, last_modification: modified }
}

fn nonsense(what: &str) -> PackError {
    PackError::Nonsense(what.to_owned())
}
