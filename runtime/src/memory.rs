//! Directories in memory.

use std::ffi::CString;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::RuntimeError;

/// Mounts a tmpfs, unless something is mounted there.
///
/// # Errors
/// The kernel refuses.
pub fn mount(at: &Path, mode: u32) -> Result<(), RuntimeError> {
    if is_mounted(at)? {
        return Ok(());
    }
    let options = CString::new(format!("mode={mode:o}")).unwrap_or_default();
    rustix::mount::mount("capsule", at, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())
        .map_err(|error| RuntimeError::io("mount", at, error))
}

/// Unmounts whatever is mounted there, all layers of it; nothing is no failure.
///
/// # Errors
/// The kernel refuses.
pub fn unmount(at: &Path) -> Result<(), RuntimeError> {
    loop {
        match rustix::mount::unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(RuntimeError::io("unmount", at, error)),
        }
    }
}

/// Whether something is mounted at a path.
///
/// # Errors
/// The table of mounts can't be read.
pub fn is_mounted(at: &Path) -> Result<bool, RuntimeError> {
    const TABLE: &str = "/proc/self/mountinfo";
    let table = std::fs::read_to_string(TABLE).map_err(|error| RuntimeError::io("read", TABLE, error))?;
    Ok(table.lines().any(|line| line.split(' ').nth(4).is_some_and(|point| Path::new(point) == at)))
}
