//! A host whose disk is small.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use testkit::Host;

/// Gives a host that has not joined a data directory on a disk of its own. The mesh takes it away with the host.
///
/// # Panics
/// When it can't be mounted: it needs root.
#[track_caller]
pub fn small_disk(host: &Host, bytes: u64) {
    let data = host.data();
    fs::create_dir_all(&data).expect("the mesh's folder is ours");
    let (size, place) = (format!("size={bytes},mode=0700"), data.display().to_string());
    host.run(["mount", "-t", "tmpfs", "-o", &size, "tmpfs", &place]).ok();
    let mode = fs::metadata(&data).expect("just mounted").permissions().mode() & 0o777;
    assert_eq!(mode, 0o700);
}
