//! Putting staged base files into the private layer at the target.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{FileType, Statx};
use rustix::io::Errno;

use super::stage::{inside, set_owner_and_mode, set_times};
use crate::files::private::Listing;
use crate::files::tree::{Tree, file_type};
use crate::files::{FilesError, xattr};

/// Moves what was staged into the private layer, on the same file system, and leaves what the layer has already
/// as it is: what a capsule wrote is its own. May be done again after a failure. To be called when the first
/// round is complete and before the last; says how many files were put in.
pub fn merge(staged: &Path, upper: &Path) -> Result<u64, FilesError> {
    let from = Tree::of_directory(staged)?;
    let into = Tree::of_directory(upper)?;
    let mut moved = 0;
    let mut touched = Vec::new();
    // A directory comes before what is in it.
    for path in Listing::of(staged)?.paths() {
        let path = path.as_path();
        if path == Path::new(".") || !parent_is_directory(&into, path)? {
            continue;
        }
        let Some(found) = from.find_strictly(path)? else { continue };
        let there = into.find_strictly(path)?;
        if file_type(&found.stat) == FileType::Directory {
            if there.is_none() {
                remember(&into, path, &mut touched)?;
                make_directory(&from, path, &found.stat, upper)?;
                touched.push((path.to_path_buf(), found.stat));
            }
        } else if there.is_none() {
            remember(&into, path, &mut touched)?;
            rename(&inside(staged, path), &inside(upper, path))?;
            moved += 1;
        }
    }
    for (path, stat) in touched.iter().rev() {
        set_times(&inside(upper, path), stat)?;
    }
    Ok(moved)
}

/// Notes the times of the directory that something is put into, to be set back.
fn remember(
    into: &Tree,
    path: &Path,
    touched: &mut Vec<(std::path::PathBuf, Statx)>,
) -> Result<(), FilesError> {
    let parent = path.parent().unwrap_or(Path::new(""));
    if touched.iter().any(|(known, _)| known == parent) {
        return Ok(());
    }
    if let Some(found) = into.find_strictly(parent)? {
        touched.push((parent.to_path_buf(), found.stat));
    }
    Ok(())
}

fn parent_is_directory(into: &Tree, path: &Path) -> Result<bool, FilesError> {
    let parent = into.find_strictly(path.parent().unwrap_or(Path::new("")))?;
    Ok(parent.is_some_and(|found| file_type(&found.stat) == FileType::Directory))
}

fn make_directory(from: &Tree, path: &Path, stat: &Statx, upper: &Path) -> Result<(), FilesError> {
    let to = inside(upper, path);
    std::fs::create_dir(&to).map_err(|e| FilesError::io("make the directory", &to, e))?;
    let directory = File::open(&to).map_err(|e| FilesError::io("open", &to, e))?;
    set_owner_and_mode(&directory, stat, &to)?;
    xattr::copy(from.open(path)?.as_fd(), directory.as_fd(), &to)
}

fn rename(from: &Path, to: &Path) -> Result<(), FilesError> {
    match rustix::fs::rename(from, to) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(FilesError::io("put in place", to, error)),
    }
}
