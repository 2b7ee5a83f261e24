//! Looking into processes for what they have from the base.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxFlags};
use rustix::io::Errno;

use super::{BaseFile, BaseKind, Immovable, OpenBase, Unlinked, describe};
use crate::files::tree::{Tree, file_type, is_whiteout};
use crate::files::{FilesError, limits};

const DELETED: &[u8] = b" (deleted)";

/// Overlayfs may put the number of a layer into the highest bits of an inode number (`xino`).
const INODE_MASK: u64 = (1 << 56) - 1;

/// What a process has open, mapped, or as its directory, in its root's mount.
struct Sighting {
    pid: u32,
    /// The path as the kernel writes it, " (deleted)" included.
    text: PathBuf,
    stat: Statx,
}

/// Collects what these processes have from the base: all processes of a capsule, or what the others have is not
/// seen. Processes that end meanwhile are left out.
///
/// # Errors
/// Where a process can't be looked into, or a file of the base can't be read.
pub fn open_base_files(pids: &[u32], base: &Path, upper: &Path) -> Result<OpenBase, FilesError> {
    let base = Tree::of_layer(base)?;
    let upper = Tree::of_directory(upper)?;
    let mut sightings = BTreeMap::new();
    for pid in pids {
        let mut seen = |sighting: Sighting| {
            sightings.entry((sighting.text.clone(), sighting.stat.stx_ino)).or_insert(sighting);
        };
        match look_into(*pid, &mut seen) {
            Err(FilesError::Process { source, .. }) if ended(&source) => {}
            result => result?,
        }
    }
    let mut open = OpenBase::default();
    for sighting in sightings.into_values() {
        classify(&sighting, &base, &upper, &mut open)?;
    }
    open.files.dedup_by(|a, b| a.path == b.path);
    Ok(open)
}

/// Describes files of the base that processes don't have open but will need, with the symlinks through which
/// their paths lead; what lies in the upper layer or doesn't exist is left out.
pub fn named_base_files(base: &Path, upper: &Path, paths: &[PathBuf]) -> Result<Vec<BaseFile>, FilesError> {
    let base = Tree::of_layer(base)?;
    let upper = Tree::of_directory(upper)?;
    let mut names = BTreeSet::new();
    for path in paths {
        follow(&base, path, &mut names)?;
    }
    let mut files = Vec::new();
    for path in names {
        if upper.find_strictly(&path)?.is_some() {
            continue;
        }
        if let Some(found) = base.find_strictly(&path)? {
            files.push(describe::describe(&base, &path, &found)?);
        }
    }
    Ok(files)
}

/// Collects each symlink on the way of a path, and the path that it leads to in the end.
fn follow(base: &Tree, path: &Path, names: &mut BTreeSet<PathBuf>) -> Result<(), FilesError> {
    let mut rest: Vec<PathBuf> = parts(path);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part == Path::new("..") {
            at.pop();
            continue;
        }
        at.push(&part);
        let Some(found) = base.find_strictly(&at)? else { return Ok(()) };
        let BaseKind::Symlink { target } = describe::kind(base, &at, &found)? else { continue };
        links += 1;
        if links > limits::SYMLINKS_MAX {
            return Err(FilesError::TooManySymlinks { path: path.to_path_buf() });
        }
        names.insert(at.clone());
        if target.is_absolute() {
            at = PathBuf::from("/");
        } else {
            at.pop();
        }
        rest.extend(parts(&target));
    }
    names.insert(at);
    Ok(())
}

/// The components of a path, the first one last; the root and "." left out.
fn parts(path: &Path) -> Vec<PathBuf> {
    use std::path::Component;
    let parts = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    parts.rev().map(|part| PathBuf::from(part.as_os_str())).collect()
}

fn classify(sighting: &Sighting, base: &Tree, upper: &Tree, open: &mut OpenBase) -> Result<(), FilesError> {
    let immovable = |path: &Path, reason: &str| Immovable {
        path: path.to_path_buf(),
        pid: sighting.pid,
        reason: reason.to_owned(),
    };
    let path = &sighting.text;
    if path == Path::new("/") {
        return Ok(());
    }
    if let Some(private) = upper.find_strictly(path)?
        && !is_whiteout(&private.stat)
    {
        return Ok(());
    }
    if let Some(found) = base.find_strictly(path)? {
        if same_inode(&found.stat, &sighting.stat) {
            open.files.push(describe::describe(base, path, &found)?);
        } else {
            let reason = "it was replaced in the base while in use; restart the program that has it";
            open.immovable.push(immovable(path, reason));
        }
        return Ok(());
    }
    let Some(name) = path.as_os_str().as_bytes().strip_suffix(DELETED) else {
        let reason = "it was removed from the base while in use; restart the program that has it";
        open.immovable.push(immovable(path, reason));
        return Ok(());
    };
    // A file of the upper layer that has no name any more is nobody's business here: CRIU carries it.
    let name = Path::new(OsStr::from_bytes(name));
    if base.find_strictly(name)?.is_some_and(|found| same_inode(&found.stat, &sighting.stat)) {
        open.unlinked.push(Unlinked { path: name.to_path_buf(), size: sighting.stat.stx_size });
    }
    Ok(())
}

fn same_inode(base: &Statx, seen: &Statx) -> bool {
    if file_type(base) != file_type(seen) {
        return false;
    }
    // Overlayfs gives directories inode numbers of its own when its layers lie on different file systems.
    file_type(base) == FileType::Directory || base.stx_ino & INODE_MASK == seen.stx_ino & INODE_MASK
}

fn look_into(pid: u32, seen: &mut impl FnMut(Sighting)) -> Result<(), FilesError> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let failed = |what| move |source: io::Error| FilesError::Process { pid, what, source };
    let root = stat(&process.join("root")).map_err(failed("root"))?;
    let mut look = |link: &Path| -> io::Result<()> {
        // A kernel thread or a zombie has no exe; descriptors and mappings come and go.
        let stat = match stat(link) {
            Ok(stat) => stat,
            Err(error) if ended(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        if stat.stx_mnt_id != root.stx_mnt_id {
            return Ok(());
        }
        let text = match rustix::fs::readlinkat(CWD, link, Vec::new()) {
            Ok(text) => PathBuf::from(OsStr::from_bytes(text.as_bytes())),
            Err(Errno::NOENT | Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if text.is_absolute() {
            seen(Sighting { pid, text, stat });
        }
        Ok(())
    };
    for name in ["exe", "cwd", "root"] {
        look(&process.join(name)).map_err(failed("links"))?;
    }
    for entry in std::fs::read_dir(process.join("fd")).map_err(failed("fd"))? {
        look(&entry.map_err(failed("fd"))?.path()).map_err(failed("fd"))?;
    }
    let maps = std::fs::read(process.join("maps")).map_err(failed("maps"))?;
    for range in mapped_ranges(&maps) {
        look(&process.join("map_files").join(range)).map_err(failed("map_files"))?;
    }
    Ok(())
}

/// One range per mapped file, named as in `/proc/PID/map_files`.
fn mapped_ranges(maps: &[u8]) -> Vec<PathBuf> {
    let mut files = HashSet::new();
    let mut ranges = Vec::new();
    for line in maps.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ').filter(|field| !field.is_empty());
        let (Some(range), Some(device), Some(inode)) = (fields.next(), fields.nth(2), fields.next()) else {
            continue;
        };
        let name: Vec<&[u8]> = fields.collect();
        if inode == b"0" || !files.insert((device, inode, name)) {
            continue;
        }
        // maps pads addresses to eight digits, map_files does not.
        let ends = range.split(|byte| *byte == b'-').map(|end| {
            let zeros = end.iter().take_while(|digit| **digit == b'0').count();
            &end[zeros.min(end.len().saturating_sub(1))..]
        });
        let name = ends.collect::<Vec<_>>().join(&b'-');
        ranges.push(PathBuf::from(std::ffi::OsString::from_vec(name)));
    }
    ranges
}

fn stat(link: &Path) -> io::Result<Statx> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    Ok(rustix::fs::statx(CWD, link, AtFlags::empty(), mask)?)
}

fn ended(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    [Errno::NOENT, Errno::SRCH].iter().any(|gone| errno == Some(gone.raw_os_error()))
}
