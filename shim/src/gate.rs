//! The gate of a restore: CRIU runs it as its action script and lets the program go only when it ended well.
//!
//! At `post-restore` memory and sockets are back and no process has made a step. The gate then reports to the shim and
//! waits for its word. It opens on that word alone: a shim that dies, or that lets the connection go, shuts it for good
//! and the restore fails.

use std::io;
use std::path::Path;

use crate::{place, wire};

/// What the gate reports.
pub const REPORT: &str = "at-gate";
/// The word that opens it.
pub const OPEN: &str = "open";

/// The action script for a capsule's directory; CRIU calls it at every stage, so that all others must be cheap.
pub fn script(shim_binary: &Path, dir: &Path) -> String {
    format!(
        "#!/bin/sh\n[ \"$CRTOOLS_SCRIPT_ACTION\" = post-restore ] || exit 0\nexec {} gate {}\n",
        quoted(shim_binary),
        quoted(dir)
    )
}

/// Stands at the gate of a capsule's directory until the shim opens it.
///
/// # Errors
/// The shim is not there, went away or refused: the restore must fail.
pub fn wait(dir: &Path) -> io::Result<()> {
    let socket = wire::connect(&place::gate_socket(dir))?;
    wire::send(&socket, &REPORT, &[])?;
    match wire::receive::<String>(&socket, &mut Vec::new())? {
        Some(word) if word.message == OPEN => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::PermissionDenied, "the gate stays shut")),
    }
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', "'\\''"))
}
