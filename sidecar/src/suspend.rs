//! Suspending a capsule to a file and resuming it from there, on any host and at any time, with its connections open.
//!
//! ```text
//!  client             source                                     directory
//!    │     preflight quiesce hold pause settle lock snapshot dump     (as in a move)
//!    │ ◄── write ──── manifest, sessions, memory, files, base, log
//!   file: temporary, fsync, rename
//!    │ ─── stored ──→ commit ─────────────────────────────────→ suspend at g: g + 1
//!    │ ◄── result ─── release: destroys its copy
//!
//!  client             target                                     directory
//!   file ── transfer → checked whole; network, connections, processes up to the gate
//!                     claim ──────────────────────────────────→ resume at g + 1: g + 2
//!                     thaw, attach                                    (as in a move)
//! ```
//!
//! A takeover from a file (`recover.rs`) is a resume whose claim is a takeover: the capsule's host is gone, and a person
//! decides to go back to a file of the capsule's past.
//!
//! The file lies where the client is: the sidecar sends its bytes and gets them over the client's own stream, and never
//! opens a path that a client names. Encryption is the client's too, so that no key ever comes here.
//!
//! Guarantees. Suspend: on success the file is on disk, complete, and nothing of the capsule is left here; on failure it
//! runs on here and the client has no file. Resume: on success the capsule runs here, and no file resumes it again; on
//! failure nothing of it is left here, and the file is as good as before. Takeover: on success the capsule runs here as
//! it was in the file, on a refusal nothing is changed; if it can't run after the directory placed it here it is shown as
//! lost, and the file serves another takeover.

mod back;
mod pipe;
mod recover;
mod resume;
mod save;
mod sections;

use admin_api::ErrorView;
use admin_api::result::RmResult;
use directory_api::{ApiError, CapsuleRecord};

use crate::sidecar::Sidecar;

pub(crate) use back::put_back;
pub use recover::command as recover;
pub use resume::command as resume;
pub use save::command as save;

/// Removes a capsule for good that is on no host; its file, if it lies in one, is of no use then.
///
/// # Errors
/// The directory refuses or is away; it stays as it is.
pub async fn remove(sidecar: &Sidecar, record: &CapsuleRecord) -> Result<RmResult, ErrorView> {
    if let Err(error) = sidecar.places.directory().remove(record.id, record.generation).await {
        let next = match error.refusal() {
            Some(ApiError::Denied { .. }) => "run the command on a host with operator rights",
            _ => "try again when the directory answers",
        };
        return Err(ErrorView::new("rm/directory", format!("{} was not removed", record.name))
            .why(error)
            .next(next));
    }
    let (capsule, id) = (record.name.to_string(), Some(record.id.to_string()));
    Ok(RmResult { capsule, id, ..RmResult::default() })
}

/// Name and version of this program, as the manifest has it.
fn writer() -> String {
    format!("capsule {}", env!("CARGO_PKG_VERSION"))
}
