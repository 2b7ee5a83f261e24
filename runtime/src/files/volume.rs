//! Volumes that belong to one capsule: copied into its private layer before it starts.

#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FileType, Gid, Mode, Statx, Uid};

use super::tree::{Found, Tree, file_type, is_whiteout, read_link};
use super::{FilesError, limits, xattr};

/// Copies `source` (a directory or a file, never changed) to where a capsule will see it as `destination`. What
/// stands there already is not seen any more. Holes, hard links, attributes and owners stay; on file systems
/// that can, the blocks are shared until one side writes.
///
/// Call it before the capsule's root is mounted: overlayfs does not expect its layers to change.
///
/// # Errors
/// On a failure the private layer is left half filled and is to be thrown away.
pub fn copy_into(source: &Path, base: &Path, upper: &Path, destination: &Path) -> Result<(), FilesError> {
    let source = source.canonicalize().map_err(|e| FilesError::io("find the volume", source, e))?;
    let upper = upper.canonicalize().map_err(|e| FilesError::io("find the private layer", upper, e))?;
    if upper.starts_with(&source) {
        return Err(FilesError::SourceContainsUpper { source_path: source, upper });
    }
    let place = Merged::of(base, &upper)?.place(destination)?;
    let to = upper.join(&place);
    remove(&to)?;
    copy(&source, &to)?;
    if source.is_dir() {
        let directory = File::open(&to).map_err(|e| FilesError::io("open", &to, e))?;
        xattr::make_opaque(directory.as_fd()).map_err(|e| FilesError::io("mark as opaque", &to, e))?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), FilesError> {
    let removed = match path.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
    };
    removed.map_err(|e| FilesError::io("replace", path, e))
}

fn copy(source: &Path, to: &Path) -> Result<(), FilesError> {
    let mut command = Command::new("cp");
    command.args(["-a", "-T", "--sparse=auto", "--reflink=auto", "--"]).arg(source).arg(to);
    command.env("LC_ALL", "C").stdin(Stdio::null());
    let output = command.output().map_err(|e| FilesError::io("start cp for", source, e))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " | ");
    Err(FilesError::Command { command: "cp", path: source.to_path_buf(), status: output.status, stderr })
}

/// Both layers as the capsule will see them together.
struct Merged {
    base: Tree,
    upper: Tree,
}

/// A name in the merged view.
enum Seen {
    Nothing,
    Upper(Found),
    Base(Found),
}

impl Merged {
    fn of(base: &Path, upper: &Path) -> Result<Merged, FilesError> {
        Ok(Merged { base: Tree::of_layer(base)?, upper: Tree::of_directory(upper)? })
    }

    /// Resolves a destination as the capsule would, makes the directories above it in the upper layer, and says
    /// the path in it.
    fn place(&self, destination: &Path) -> Result<PathBuf, FilesError> {
        let mut rest = parts(destination);
        if !destination.is_absolute() || rest.is_empty() {
            return Err(FilesError::BadDestination { path: destination.to_path_buf() });
        }
        let mut at = PathBuf::new();
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == Path::new("..") {
                at.pop();
                continue;
            }
            at.push(&part);
            let seen = self.look(&at)?;
            if let Some((found, shown)) = self.symlink(&seen, &at) {
                links += 1;
                if links > limits::SYMLINKS_MAX {
                    return Err(FilesError::TooManySymlinks { path: destination.to_path_buf() });
                }
                let target = read_link(found, &shown)?;
                if target.is_absolute() {
                    at = PathBuf::new();
                } else {
                    at.pop();
                }
                rest.extend(parts(&target));
            } else if !rest.is_empty() {
                self.enter(&at, &seen, destination)?;
            }
        }
        if at.as_os_str().is_empty() {
            return Err(FilesError::BadDestination { path: destination.to_path_buf() });
        }
        // A name that ended in ".." or a link to a directory above may not have been entered as a directory.
        let above: Vec<&Path> = at.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
        for directory in above.into_iter().rev() {
            self.enter(directory, &self.look(directory)?, destination)?;
        }
        Ok(at)
    }

    fn look(&self, path: &Path) -> Result<Seen, FilesError> {
        if let Some(found) = self.upper.find_strictly(path)? {
            return Ok(if is_whiteout(&found.stat) { Seen::Nothing } else { Seen::Upper(found) });
        }
        for above in path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
            let Some(found) = self.upper.find_strictly(above)? else { continue };
            if file_type(&found.stat) != FileType::Directory {
                return Ok(Seen::Nothing);
            }
            let directory = self.upper.open(above)?;
            let opaque = xattr::is_opaque(directory.as_fd());
            if opaque.map_err(|e| FilesError::io("read the attributes of", self.upper.shown(above), e))? {
                return Ok(Seen::Nothing);
            }
        }
        Ok(self.base.find_strictly(path)?.map_or(Seen::Nothing, Seen::Base))
    }

    fn symlink<'a>(&self, seen: &'a Seen, path: &Path) -> Option<(&'a Found, PathBuf)> {
        let (found, shown) = match seen {
            Seen::Nothing => return None,
            Seen::Upper(found) => (found, self.upper.shown(path)),
            Seen::Base(found) => (found, self.base.shown(path)),
        };
        (file_type(&found.stat) == FileType::Symlink).then_some((found, shown))
    }

    /// Makes sure that the upper layer has a directory, like the one that the base has.
    fn enter(&self, path: &Path, seen: &Seen, destination: &Path) -> Result<(), FilesError> {
        let in_the_way = || FilesError::NotADirectory {
            path: destination.to_path_buf(),
            component: Path::new("/").join(path),
        };
        let to = self.upper.shown(path);
        match seen {
            Seen::Upper(found) if file_type(&found.stat) == FileType::Directory => Ok(()),
            Seen::Upper(_) => Err(in_the_way()),
            Seen::Base(found) if file_type(&found.stat) != FileType::Directory => Err(in_the_way()),
            Seen::Base(found) => {
                let directory = make_directory(&to)?;
                owned_like(&directory, &found.stat, &to)?;
                xattr::copy(self.base.open(path)?.as_fd(), directory.as_fd(), &to)
            }
            Seen::Nothing => {
                remove(&to)?;
                make_directory(&to).map(drop)
            }
        }
    }
}

fn make_directory(path: &Path) -> Result<File, FilesError> {
    std::fs::create_dir(path).map_err(|e| FilesError::io("make the directory", path, e))?;
    let directory = File::open(path).map_err(|e| FilesError::io("open", path, e))?;
    rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o755))
        .map_err(|e| FilesError::io("set the mode of", path, e))?;
    Ok(directory)
}

fn owned_like(directory: &File, stat: &Statx, shown: &Path) -> Result<(), FilesError> {
    let failed = |error| FilesError::io("set the owner and mode of", shown, error);
    let (uid, gid) = (Uid::from_raw(stat.stx_uid), Gid::from_raw(stat.stx_gid));
    rustix::fs::fchown(directory, Some(uid), Some(gid)).map_err(failed)?;
    rustix::fs::fchmod(directory, Mode::from_raw_mode(u32::from(stat.stx_mode) & 0o7777)).map_err(failed)
}

/// The components of a path, the first one last; the root and "." left out.
fn parts(path: &Path) -> Vec<PathBuf> {
    let keep = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    path.components().filter(keep).map(|part| PathBuf::from(part.as_os_str() as &OsStr)).rev().collect()
}
