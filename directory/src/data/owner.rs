//! Whose the files are. The directory often runs as a user of its own, and root runs commands on its data: what they write
//! must stay readable to it.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::fchown;
use rustix::process::{Gid, Uid, geteuid};

/// Gives a file that root has just made to the owner of the directory that it is in.
pub(crate) fn hand_over(file: &File, directory: &Path) -> io::Result<()> {
    let owner = directory.metadata()?;
    if !geteuid().is_root() || owner.uid() == file.metadata()?.uid() {
        return Ok(());
    }
    Ok(fchown(file, Some(Uid::from_raw(owner.uid())), Some(Gid::from_raw(owner.gid())))?)
}
