//! A tree of files as one stream of bytes, and back: what a suspended capsule keeps of its private files.
//!
//! Unlike an archiver's, the stream has all that an upper layer of overlayfs is made of: whiteouts, attributes of
//! overlayfs, sockets, holes, links. The tree stands still while it is packed. Nothing is kept in memory but the names of
//! files that have more than one.
//!
//! ```text
//!  entry     length, postcard: what it is, its path, its attributes
//!  extent    offset, length, bytes; the last one has no bytes, and the file's size as its offset    (after a file)
//! ```
//! A directory comes before what is in it, and once more after it, for the times that are changed by filling it.

mod unpack;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, SeekFrom as Find, Statx};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::tree::{Found, Tree, file_type, read_link};
use super::{FilesError, xattr};

pub use unpack::unpack;

/// Bytes of a file in one extent, held in memory.
const EXTENT_BYTES_MAX: usize = 256 << 10;

/// Bytes of an entry: a path, a symlink's target and the attributes that a file system keeps, each bounded by the kernel.
const ENTRY_BYTES_MAX: usize = 1 << 20;

/// A file handle into the base of this host, which means nothing elsewhere.
const ORIGIN: &[u8] = b"trusted.overlay.origin";

/// Ends the extents of a file.
const NO_MORE: u64 = u64::MAX;

/// Why a tree can't be packed or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file can't be read or made.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The stream failed.
    #[error(transparent)]
    Stream(#[from] io::Error),
    /// The stream says what no tree says.
    #[error("the packed files make no sense: {0}")]
    Nonsense(String),
}

/// What was packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Packed {
    /// Everything that has a name.
    pub files: u64,
    /// Bytes of content, holes left out.
    pub bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
enum Entry {
    Directory { path: Vec<u8>, attributes: Attributes },
    File { path: Vec<u8>, attributes: Attributes },
    Symlink { path: Vec<u8>, target: Vec<u8>, attributes: Attributes },
    Special { path: Vec<u8>, kind: u32, major: u32, minor: u32, attributes: Attributes },
    Hard { path: Vec<u8>, to: Vec<u8> },
    Leave { path: Vec<u8>, modified: (i64, u32) },
    End,
}

#[derive(Debug, Serialize, Deserialize)]
struct Attributes {
    permissions: u32,
    uid: u32,
    gid: u32,
    modified: (i64, u32),
    extended: xattr::Extended,
}

/// Writes a tree.
///
/// # Errors
/// A file can't be read, or the stream fails.
pub fn pack(directory: &Path, out: &mut impl Write) -> Result<Packed, PackError> {
    let tree = Tree::of_directory(directory)?;
    let mut packer = Packer { tree, out, links: HashMap::new(), packed: Packed::default() };
    packer.directory(Path::new(""))?;
    packer.entry(&Entry::End)?;
    Ok(packer.packed)
}

struct Packer<'a, W> {
    tree: Tree,
    out: &'a mut W,
    links: HashMap<(u64, u64), PathBuf>,
    packed: Packed,
}

impl<W: Write> Packer<'_, W> {
    fn directory(&mut self, path: &Path) -> Result<(), PackError> {
        let found = self.find(path)?;
        let Some(opened) = self.tree.open_directory(path)? else { return Err(self.changed(path)) };
        let attributes = self.attributes(path, &found.stat, Some(opened.as_fd()))?;
        let modified = attributes.modified;
        self.entry(&Entry::Directory { path: bytes(path), attributes })?;
        let mut names = Vec::new();
        let listing = |error: Errno| FilesError::io("list", self.tree.shown(path), error);
        for entry in Dir::read_from(&opened).map_err(listing)? {
            let entry = entry.map_err(listing)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        drop(opened);
        names.sort();
        for name in names {
            self.any(&path.join(name))?;
        }
        self.entry(&Entry::Leave { path: bytes(path), modified })
    }

    fn any(&mut self, path: &Path) -> Result<(), PackError> {
        let found = self.find(path)?;
        let kind = file_type(&found.stat);
        self.packed.files += 1;
        if kind == FileType::Directory {
            return self.directory(path);
        }
        if found.stat.stx_nlink > 1 {
            let device = u64::from(found.stat.stx_dev_major) << 32 | u64::from(found.stat.stx_dev_minor);
            match self.links.get(&(device, found.stat.stx_ino)) {
                Some(first) => {
                    let entry = Entry::Hard { path: bytes(path), to: bytes(first) };
                    return self.entry(&entry);
                }
                None => drop(self.links.insert((device, found.stat.stx_ino), path.to_owned())),
            }
        }
        match kind {
            FileType::RegularFile => self.file(path, &found.stat),
            FileType::Symlink => {
                let target = read_link(&found, &self.tree.shown(path))?;
                let attributes = self.attributes(path, &found.stat, None)?;
                self.entry(&Entry::Symlink { path: bytes(path), target: bytes(&target), attributes })
            }
            _ => {
                let attributes = self.attributes(path, &found.stat, None)?;
                let (major, minor) = (found.stat.stx_rdev_major, found.stat.stx_rdev_minor);
                let kind = kind.as_raw_mode();
                self.entry(&Entry::Special { path: bytes(path), kind, major, minor, attributes })
            }
        }
    }

    fn file(&mut self, path: &Path, stat: &Statx) -> Result<(), PackError> {
        let mut file = File::from(self.tree.open(path)?);
        let attributes = self.attributes(path, stat, Some(file.as_fd()))?;
        self.entry(&Entry::File { path: bytes(path), attributes })?;
        let failed = |error: io::Error| FilesError::io("read", self.tree.shown(path), error);
        let (mut at, size) = (0, stat.stx_size);
        let mut buffer = vec![0; EXTENT_BYTES_MAX];
        while let Some((begin, end)) = next_data(&file, at, size).map_err(|error| failed(error.into()))? {
            at = begin;
            file.seek(SeekFrom::Start(begin)).map_err(failed)?;
            while at < end {
                let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(EXTENT_BYTES_MAX);
                file.read_exact(&mut buffer[..want]).map_err(failed)?;
                self.out.write_all(&at.to_be_bytes())?;
                self.out.write_all(&(want as u64).to_be_bytes())?;
                self.out.write_all(&buffer[..want])?;
                at += want as u64;
                self.packed.bytes += want as u64;
            }
        }
        self.out.write_all(&size.to_be_bytes())?;
        self.out.write_all(&NO_MORE.to_be_bytes())?;
        Ok(())
    }

    fn attributes(
        &self,
        path: &Path,
        stat: &Statx,
        opened: Option<std::os::fd::BorrowedFd<'_>>,
    ) -> Result<Attributes, PackError> {
        let mut extended = match opened {
            Some(opened) => xattr::all(opened, &self.tree.shown(path))?,
            // Of symlinks, sockets and devices none means anything here.
            None => Vec::new(),
        };
        extended.retain(|(name, _)| name != ORIGIN);
        Ok(Attributes {
            permissions: u32::from(stat.stx_mode) & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            extended,
        })
    }

    fn find(&self, path: &Path) -> Result<Found, PackError> {
        match self.tree.find_strictly(path)? {
            Some(found) => Ok(found),
            None => Err(self.changed(path)),
        }
    }

    /// Whoever works in the layer of a frozen capsule is no part of it.
    fn changed(&self, path: &Path) -> PackError {
        FilesError::io("pack", self.tree.shown(path), io::ErrorKind::NotFound).into()
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), PackError> {
        let body = postcard::to_stdvec(entry).map_err(|error| PackError::Nonsense(error.to_string()))?;
        let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= ENTRY_BYTES_MAX);
        let length = length.ok_or_else(|| PackError::Nonsense("a file has too many attributes".into()))?;
        self.out.write_all(&length.to_be_bytes())?;
        self.out.write_all(&body)?;
        Ok(())
    }
}

/// The next piece of a file that is no hole, from `at` on.
fn next_data(file: &File, at: u64, size: u64) -> rustix::io::Result<Option<(u64, u64)>> {
    if at >= size {
        return Ok(None);
    }
    match rustix::fs::seek(file, Find::Data(at)) {
        Ok(begin) => {
            let end = rustix::fs::seek(file, Find::Hole(begin))?;
            Ok(Some((begin, end.min(size))))
        }
        Err(Errno::NXIO) => Ok(None),
        // A file system without holes.
        Err(Errno::INVAL) => Ok(Some((at, size))),
        Err(error) => Err(error),
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}
