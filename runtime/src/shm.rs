//! The memory file system that a capsule sees as `/dev/shm`.
//!
//! Were it a tmpfs of runc's, CRIU would pack it with tar and gzip at every dump (12 ms when it is empty). It is a
//! tmpfs of ours instead, bound into the capsule, which CRIU takes for external; what lies in it rides as one more
//! file beside the images.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{RuntimeError, memory};

/// As every `/dev/shm`: anybody may make files, only the owner remove them.
const MODE: u32 = 0o1777;

/// Mounts it, unless it is mounted.
///
/// # Errors
/// The kernel refuses.
pub fn mount(at: &Path) -> Result<(), RuntimeError> {
    memory::mount(at, MODE)
}

/// Packs its content among the images; the capsule is frozen. Costs nothing when it is empty.
///
/// # Errors
/// It can't be packed.
pub fn save(at: &Path, images: &Path) -> Result<(), RuntimeError> {
    let mut entries = std::fs::read_dir(at).map_err(|error| RuntimeError::io("list", at, error))?;
    if entries.next().is_none() {
        return Ok(());
    }
    tar(
        Command::new("tar")
            .args(["--create", "--sparse", "--xattrs", "--file"])
            .arg(pack(images))
            .arg("-C")
            .arg(at)
            .arg("."),
        at,
    )
}

/// Fills it from among the images, before a restore.
///
/// # Errors
/// It can't be unpacked.
pub fn load(images: &Path, at: &Path) -> Result<(), RuntimeError> {
    let pack = pack(images);
    if !pack.exists() {
        return Ok(());
    }
    let mut command = Command::new("tar");
    command.args(["--extract", "--numeric-owner", "--preserve-permissions", "--xattrs", "--file"]);
    tar(command.arg(pack).arg("-C").arg(at), at)
}

fn pack(images: &Path) -> PathBuf {
    images.join("shm.tar")
}

fn tar(command: &mut Command, at: &Path) -> Result<(), RuntimeError> {
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| RuntimeError::io("pack", at, error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(RuntimeError::io("pack", at, std::io::Error::other(said)))
}
