//! The comparison at the target.

use std::path::{Component, Path, PathBuf};

use rustix::fs::FileType;

use super::{BaseFile, BaseKind, Difference, DifferenceKind, describe};
use crate::files::FilesError;
use crate::files::tree::{Found, Tree, file_type};

/// Says in which of `files` the base of this host differs. Times alone are no difference.
pub fn compare(base: &Path, files: &[BaseFile]) -> Result<Vec<Difference>, FilesError> {
    let tree = Tree::of_layer(base)?;
    let mut differences = Vec::new();
    for file in files {
        if let Some(kind) = difference(&tree, file)? {
            differences.push(Difference { path: file.path.clone(), kind });
        }
    }
    Ok(differences)
}

fn difference(tree: &Tree, file: &BaseFile) -> Result<Option<DifferenceKind>, FilesError> {
    // The paths come from another host.
    if !file.path.is_absolute() || file.path.components().any(|part| part == Component::ParentDir) {
        return Ok(Some(DifferenceKind::Blocked("its path is no plain absolute path".into())));
    }
    let Some(found) = tree.find(&file.path)? else {
        return Ok(Some(unless_in_the_way(tree, file, DifferenceKind::Missing)?));
    };
    if same(tree, file, &found)? {
        return Ok(None);
    }
    let here = describe::kind(tree, &file.path, &found)?;
    if std::mem::discriminant(&here) != std::mem::discriminant(&file.kind) {
        let reason = format!("it is {} at the target and {} at the source", name(&here), name(&file.kind));
        return Ok(Some(DifferenceKind::Blocked(reason)));
    }
    Ok(Some(unless_in_the_way(tree, file, DifferenceKind::Differs)?))
}

fn same(tree: &Tree, file: &BaseFile, found: &Found) -> Result<bool, FilesError> {
    let stat = &found.stat;
    let kind = describe::kind(tree, &file.path, found)?;
    if kind != file.kind || (stat.stx_uid, stat.stx_gid) != (file.uid, file.gid) {
        return Ok(false);
    }
    if !matches!(kind, BaseKind::Symlink { .. }) && describe::permissions(stat) != file.mode {
        return Ok(false);
    }
    if kind != BaseKind::Regular {
        return Ok(true);
    }
    Ok(stat.stx_size == file.size && Some(describe::digest(tree, &file.path, stat)?) == file.digest)
}

/// A file can be shipped when every directory above it is a directory here too, or missing: anything else would
/// be hidden, with all that leads through it, by the directory that the private layer would get.
fn unless_in_the_way(
    tree: &Tree,
    file: &BaseFile,
    kind: DifferenceKind,
) -> Result<DifferenceKind, FilesError> {
    if file.kind == BaseKind::Special {
        return Ok(DifferenceKind::Blocked("a device, fifo or socket of the base can't be shipped".into()));
    }
    let mut above = PathBuf::from("/");
    for component in file.path.parent().into_iter().flat_map(Path::components) {
        above.push(component);
        match tree.find_strictly(&above)? {
            None => break,
            Some(found) if file_type(&found.stat) == FileType::Directory => {}
            Some(found) => {
                let here = describe::kind(tree, &above, &found)?;
                let reason = format!("{} is {} at the target", above.display(), name(&here));
                return Ok(DifferenceKind::Blocked(reason));
            }
        }
    }
    Ok(kind)
}

fn name(kind: &BaseKind) -> &'static str {
    match kind {
        BaseKind::Regular => "a file",
        BaseKind::Directory => "a directory",
        BaseKind::Symlink { .. } => "a symlink",
        BaseKind::Special => "a device, fifo or socket",
    }
}
