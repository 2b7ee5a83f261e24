//! `/run` of a capsule: the directories of the host's, which services expect to be there, and none of its files.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::stage::{Stage, like, make_directory};
use crate::RuntimeError;

/// Directories that are recreated.
const DIRECTORIES_MAX: usize = 512;
/// How deep below `/run`.
const DEPTH_MAX: usize = 4;
/// What belongs to the host alone: by the first one programs would think that systemd runs them.
const LEFT_OUT: [&str; 6] = ["systemd", "udev", "netns", "user", "credentials", "capsule"];

/// Recreates it in the private layer.
pub(super) fn recreate(stage: &Stage<'_>, model: &Path, private: &[PathBuf]) -> Result<(), RuntimeError> {
    let staged = stage.directory()?;
    if !model.is_dir() {
        return stage.put(&staged, Path::new("/run"));
    }
    let mut walk = Walk { private, left: DIRECTORIES_MAX };
    walk.copy(model, &staged, 0)?;
    stage.put(&staged, Path::new("/run"))
}

struct Walk<'a> {
    private: &'a [PathBuf],
    left: usize,
}

impl Walk<'_> {
    fn copy(&mut self, model: &Path, to: &Path, depth: usize) -> Result<(), RuntimeError> {
        like(to, model)?;
        let Ok(device) = std::fs::metadata(model).map(|metadata| metadata.dev()) else { return Ok(()) };
        // One that can't be listed, or went away meanwhile, is nothing that a capsule needs.
        for entry in std::fs::read_dir(model).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Ok(metadata) = entry.metadata() else { continue };
            let hidden = self.private.contains(&entry.path())
                || (depth == 0 && LEFT_OUT.iter().any(|left| name == *left));
            if !metadata.is_dir() || hidden || self.left == 0 {
                continue;
            }
            self.left -= 1;
            let below = to.join(&name);
            make_directory(&below)?;
            if metadata.dev() == device && depth + 1 < DEPTH_MAX {
                self.copy(&entry.path(), &below, depth + 1)?;
            } else {
                like(&below, &entry.path())?;
            }
        }
        Ok(())
    }
}
