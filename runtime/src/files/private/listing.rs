//! What a private layer holds at a moment, and what is different at a later one.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, RawDir, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;
use rustix::time::ClockId;

use crate::files::tree::{Tree, file_type, stat_fd};
use crate::files::{FilesError, limits};

/// Directory entries read by one system call, in bytes.
pub(super) const DIRECTORY_BUFFER_BYTES: usize = 64 << 10;

/// TMPFS_MAGIC and RAMFS_MAGIC of statfs(2).
const MEMORY_FILE_SYSTEMS: [rustix::fs::FsWord; 2] = [0x0102_1994, 0x8584_58f6];

/// A point in time in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(i128);

/// One file of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// File type and permissions.
    pub mode: u16,
    /// Device that holds the file.
    pub device: (u32, u32),
    /// Inode on it.
    pub inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// When the content was changed, or what a program set.
    pub modified: Stamp,
    /// When anything of the inode was changed.
    pub changed: Stamp,
    /// Hard links.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device that a device node stands for.
    pub stands_for: (u32, u32),
    /// Bytes on disk.
    pub allocated_bytes: u64,
}

/// What a private layer holds, by path relative to it; the layer's root is `.`.
#[derive(Debug, Clone)]
pub struct Listing {
    entries: BTreeMap<Vec<u8>, Entry>,
    began: Stamp,
    /// False on file systems that don't stamp a file when a mapped page is written.
    stamps_mapped_writes: bool,
}

impl Listing {
    /// Lists a tree. Files that come and go meanwhile are listed or not.
    pub fn of(upper: &Path) -> Result<Listing, FilesError> {
        Listing::made(upper, false)
    }

    /// Writes everything out and lists then, so that later writes through mapped pages stamp their files again.
    pub fn synced(upper: &Path) -> Result<Listing, FilesError> {
        Listing::made(upper, true)
    }

    fn made(upper: &Path, sync: bool) -> Result<Listing, FilesError> {
        let before = Stamp::now();
        let tree = Tree::of_directory(upper)?;
        let root = tree.open_directory(Path::new("."))?.ok_or_else(|| gone(upper))?;
        if sync {
            rustix::fs::syncfs(&root)
                .map_err(|e| FilesError::io("write out the file system of", upper, e))?;
        }
        let system =
            rustix::fs::fstatfs(&root).map_err(|e| FilesError::io("ask the file system of", upper, e))?;
        let entries = walk(&tree)?;
        Ok(Listing {
            entries,
            // A clock that was set back meanwhile would make new stamps look older than the start.
            began: before.min(Stamp::now()),
            stamps_mapped_writes: !MEMORY_FILE_SYSTEMS.contains(&system.f_type),
        })
    }

    /// The number of entries, the root included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True of a listing that was never made; even an empty layer has its root.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All entries by relative path.
    pub fn entries(&self) -> impl Iterator<Item = (&Path, &Entry)> {
        self.entries.iter().map(|(path, entry)| (Path::new(OsStr::from_bytes(path)), entry))
    }

    /// All paths.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.entries.keys().map(|path| path_of(path)).collect()
    }

    /// What must be sent to one who holds `previous`: paths that appeared, differ or may have been written since that
    /// listing began, those of `sent` (what was named to rsync since) that it may have missed, and their hard links.
    pub(super) fn changed_since<'a>(
        &self,
        previous: &Listing,
        sent: impl Iterator<Item = &'a Path>,
    ) -> Vec<PathBuf> {
        let renamed = self.directories_renamed_since(previous);
        let missed = sent.map(|path| path.as_os_str().as_bytes());
        let missed =
            missed.filter(|path| directories_above(path).any(|directory| renamed.contains(directory)));
        let missed = missed.filter_map(|path| self.entries.get_key_value(path));
        let differ = self.entries.iter();
        let differ =
            differ.filter(|(path, entry)| self.may_differ(entry, previous.entries.get(*path), previous));
        let mut changed: Vec<&[u8]> = Vec::new();
        let mut linked = HashSet::new();
        for (path, entry) in differ.chain(missed) {
            changed.push(path);
            if entry.has_other_names() {
                linked.insert((entry.device, entry.inode));
            }
        }
        // rsync knows only those links whose names it is told together.
        if !linked.is_empty() {
            let names = self.entries.iter().filter(|(_, entry)| entry.has_other_names());
            changed.extend(
                names.filter(|(_, e)| linked.contains(&(e.device, e.inode))).map(|(path, _)| &path[..]),
            );
        }
        changed.sort_unstable();
        changed.dedup();
        changed.into_iter().map(path_of).collect()
    }

    /// What one who may hold `held` must remove to hold nothing that is not listed: the topmost paths. What stands
    /// below a file now is not named, since the file takes the place of its directory.
    pub(super) fn lacks<'a>(&self, held: impl Iterator<Item = &'a Path>) -> BTreeSet<PathBuf> {
        held.filter_map(|path| self.topmost_missing(path.as_os_str().as_bytes())).map(path_of).collect()
    }

    fn topmost_missing<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        let mut missing = path;
        while !self.entries.contains_key(parent(missing)) && missing != b"." {
            missing = parent(missing);
        }
        (!self.entries.contains_key(path) && self.has_directory(parent(missing))).then_some(missing)
    }

    /// Directories that may have been elsewhere in between, so that rsync met nothing at the paths below, or
    /// something else. To rename one changes it and the directory that it is in, but nothing below it.
    fn directories_renamed_since(&self, previous: &Listing) -> HashSet<&[u8]> {
        let changed = |path: &[u8]| {
            self.entries.get(path).is_some_and(|entry| entry.changed.may_follow(previous.began))
        };
        let directories = self.entries.iter().filter(|(_, entry)| entry.is_directory());
        let paths = directories.map(|(path, _)| &path[..]).filter(|path| *path != b".");
        paths.filter(|path| changed(path) && changed(parent(path))).collect()
    }

    fn may_differ(&self, now: &Entry, before: Option<&Entry>, previous: &Listing) -> bool {
        let Some(before) = before else { return true };
        // Overlayfs links one inode for all its whiteouts, so that each new one would mark all as changed.
        if now.is_whiteout() && before.is_whiteout() {
            return false;
        }
        now.differs_from(before)
            || now.changed.may_follow(previous.began)
            || (!self.stamps_mapped_writes && now.is_regular() && now.size > 0)
    }

    fn has_directory(&self, path: &[u8]) -> bool {
        self.entries.get(path).is_some_and(Entry::is_directory)
    }
}

impl Entry {
    /// Whether this is a directory.
    pub fn is_directory(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    /// Whether this is a regular file.
    pub fn is_regular(&self) -> bool {
        self.file_type() == FileType::RegularFile
    }

    /// Whether this is overlayfs' mark for "removed here".
    pub fn is_whiteout(&self) -> bool {
        self.file_type() == FileType::CharacterDevice && self.stands_for == (0, 0)
    }

    fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode.into())
    }

    fn has_other_names(&self) -> bool {
        self.links > 1 && !self.is_directory() && !self.is_whiteout()
    }

    fn differs_from(&self, before: &Entry) -> bool {
        // Blocks are given when dirty pages are written out, which changes no content.
        Entry { allocated_bytes: 0, ..*self } != Entry { allocated_bytes: 0, ..*before }
    }
}

impl From<&Statx> for Entry {
    fn from(stat: &Statx) -> Entry {
        Entry {
            mode: stat.stx_mode,
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            size: stat.stx_size,
            modified: Stamp::from(stat.stx_mtime),
            changed: Stamp::from(stat.stx_ctime),
            links: stat.stx_nlink,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            stands_for: (stat.stx_rdev_major, stat.stx_rdev_minor),
            allocated_bytes: stat.stx_blocks.saturating_mul(512),
        }
    }
}

impl Stamp {
    /// The clock that files are stamped from: it stands still between ticks, and no stamp made after it was read
    /// is older.
    fn now() -> Stamp {
        let now = rustix::time::clock_gettime(ClockId::RealtimeCoarse);
        Stamp(i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec))
    }

    /// Whether a stamp may have been made after a clock was read.
    fn may_follow(self, began: Stamp) -> bool {
        let whole_seconds = self.0 % 1_000_000_000 == 0;
        let slack = if whole_seconds {
            limits::STAMP_SLACK_WHOLE_SECONDS_NANOSECONDS
        } else {
            limits::STAMP_SLACK_NANOSECONDS
        };
        self.0 + slack >= began.0
    }
}

impl From<StatxTimestamp> for Stamp {
    fn from(time: StatxTimestamp) -> Stamp {
        Stamp(i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec))
    }
}

fn walk(tree: &Tree) -> Result<BTreeMap<Vec<u8>, Entry>, FilesError> {
    let mut entries = BTreeMap::new();
    let mut waiting = vec![b".".to_vec()];
    let mut buffer = vec![MaybeUninit::uninit(); DIRECTORY_BUFFER_BYTES];
    while let Some(path) = waiting.pop() {
        let directory_path = Path::new(OsStr::from_bytes(&path));
        let Some(directory) = tree.open_directory(directory_path)? else { continue };
        if path == b"." {
            let stat = stat_fd(directory.as_fd()).map_err(|e| FilesError::io("stat", tree.path(), e))?;
            entries.insert(path.clone(), Entry::from(&stat));
        }
        let mut names = RawDir::new(&directory, &mut buffer);
        while let Some(name) = names.next() {
            let name = match name {
                Ok(name) => name,
                // The directory was removed while it was read.
                Err(Errno::NOENT) => break,
                Err(error) => return Err(FilesError::io("list", tree.shown(directory_path), error)),
            };
            let name = name.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let child = below(&path, name.to_bytes());
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            let stat = match rustix::fs::statx(&directory, name, flags, StatxFlags::BASIC_STATS) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(FilesError::io("stat", tree.shown(&path_of(&child)), error)),
            };
            if file_type(&stat) == FileType::Directory {
                waiting.push(child.clone());
            }
            entries.insert(child, Entry::from(&stat));
            if entries.len() > limits::LISTING_ENTRIES_MAX {
                let path = tree.path().to_path_buf();
                return Err(FilesError::TooManyFiles { path, max: limits::LISTING_ENTRIES_MAX });
            }
        }
    }
    Ok(entries)
}

/// All directories that a path goes through, the root left out.
fn directories_above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(parent(path)), |path| Some(parent(path))).take_while(|path| *path != b".")
}

fn below(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory == b"." { name.to_vec() } else { [directory, b"/", name].concat() }
}

fn parent(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => &path[..slash],
        None => b".",
    }
}

/// The directory that a path is in.
pub(super) fn above(path: &Path) -> &Path {
    Path::new(OsStr::from_bytes(parent(path.as_os_str().as_bytes())))
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()))
}

fn gone(path: &Path) -> FilesError {
    FilesError::io("open", path, std::io::Error::from(std::io::ErrorKind::NotFound))
}
