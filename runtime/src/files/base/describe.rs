//! What a host has under a path of its base.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};

use rustix::fs::{FileType, Statx};

use super::{BaseFile, BaseKind, elf};
use crate::files::tree::{Found, Tree, file_type, read_link};
use crate::files::{FilesError, limits};

/// Everything of an inode that changes when its content does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Identity {
    device: (u32, u32),
    inode: u64,
    size: u64,
    modified: (i64, u32),
    changed: (i64, u32),
}

#[derive(Debug, Clone)]
struct Content {
    digest: [u8; 32],
    build_id: Option<Vec<u8>>,
}

static CONTENTS: LazyLock<Mutex<HashMap<Identity, Content>>> = LazyLock::new(Mutex::default);

/// Describes a file that was found at `path`; its content is read unless it was before.
pub(super) fn describe(tree: &Tree, path: &Path, found: &Found) -> Result<BaseFile, FilesError> {
    let kind = kind(tree, path, found)?;
    let content = match kind {
        BaseKind::Regular => Some(content(tree, path, &found.stat)?),
        BaseKind::Directory | BaseKind::Symlink { .. } | BaseKind::Special => None,
    };
    Ok(BaseFile {
        path: path.to_path_buf(),
        size: if content.is_some() { found.stat.stx_size } else { 0 },
        kind,
        mode: permissions(&found.stat),
        uid: found.stat.stx_uid,
        gid: found.stat.stx_gid,
        modified: (found.stat.stx_mtime.tv_sec, found.stat.stx_mtime.tv_nsec),
        digest: content.as_ref().map(|content| content.digest),
        build_id: content.and_then(|content| content.build_id),
    })
}

pub(super) fn kind(tree: &Tree, path: &Path, found: &Found) -> Result<BaseKind, FilesError> {
    Ok(match file_type(&found.stat) {
        FileType::RegularFile => BaseKind::Regular,
        FileType::Directory => BaseKind::Directory,
        FileType::Symlink => BaseKind::Symlink { target: read_link(found, &tree.shown(path))? },
        _ => BaseKind::Special,
    })
}

pub(super) fn permissions(stat: &Statx) -> u32 {
    u32::from(stat.stx_mode) & 0o7777
}

/// The digest of a regular file's content.
pub(super) fn digest(tree: &Tree, path: &Path, stat: &Statx) -> Result<[u8; 32], FilesError> {
    Ok(content(tree, path, stat)?.digest)
}

fn content(tree: &Tree, path: &Path, stat: &Statx) -> Result<Content, FilesError> {
    let identity = Identity::of(stat);
    // A panic while the map was held leaves at worst an entry less.
    if let Some(content) = CONTENTS.lock().unwrap_or_else(PoisonError::into_inner).get(&identity) {
        return Ok(content.clone());
    }
    let failed = |error| FilesError::io("read", tree.shown(path), error);
    let mut file = File::from(tree.open(path)?);
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut file).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let content =
        Content { digest: *hasher.finalize().as_bytes(), build_id: elf::build_id(&file).map_err(failed)? };
    let mut contents = CONTENTS.lock().unwrap_or_else(PoisonError::into_inner);
    if contents.len() >= limits::DIGESTS_CACHED_MAX {
        contents.clear();
    }
    contents.insert(identity, content.clone());
    Ok(content)
}

impl Identity {
    fn of(stat: &Statx) -> Identity {
        Identity {
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            size: stat.stx_size,
            modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            changed: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        }
    }
}
