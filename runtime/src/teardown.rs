//! Taking a capsule away from a host.

use crate::cgroup::Cgroup;
use crate::dir::CapsuleDir;
use crate::runc::Runc;
use crate::{RuntimeError, memory};

/// Ends a capsule's processes, none of which makes another step, and removes what runc, the mounts and the cgroup
/// hold. May be called again, and for a capsule that is only half there. Goes on past failures and returns them all.
///
/// Its network namespace goes with its shim; the files in its directory stay.
pub fn teardown(id: &str, dir: &CapsuleDir, runc: &Runc, cgroup: &Cgroup) -> Vec<RuntimeError> {
    let mut failures = Vec::new();
    failures.extend(cgroup.kill().err());
    failures.extend(runc.delete(id).err());
    for mount in [dir.root(), dir.shm(), dir.images()] {
        failures.extend(memory::unmount(&mount).err());
    }
    failures.extend(cgroup.remove());
    failures
}

/// Removes a capsule's directory and all files in it, after [`teardown`].
///
/// # Errors
/// Something is still mounted below it, or it can't be removed.
pub fn remove_files(dir: &CapsuleDir) -> Result<(), RuntimeError> {
    for mount in [dir.root(), dir.shm(), dir.images()] {
        if memory::is_mounted(&mount)? {
            let busy = std::io::Error::from(std::io::ErrorKind::ResourceBusy);
            return Err(RuntimeError::io("remove", dir.path(), busy));
        }
    }
    match std::fs::remove_dir_all(dir.path()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(RuntimeError::io("remove", dir.path(), error))
        }
        _ => Ok(()),
    }
}
