//! Moving a capsule to another host while its connections stay open.
//!
//! ```text
//!  source                                     target
//!  preflight ── prepare ──────────────────→ examine: room, CPU, base files, volumes
//!  files     ── rsync rounds ─────────────→ private files; network made, locked
//!  quiesce hold │ peers stop sending, amounts agreed
//!  pause settle lock snapshot ── sessions ─→ sockets rebuilt, silent
//!  dump transfer ── image ────────────────→ restored, standing at the gate
//!  claim     ── key ──────────────────────→ claims at the directory: the commit
//!                                  running ← thaw: lock off, gate open
//!  release   source's copy destroyed         attach: sessions go on
//! ```
//! [`source`] runs the phases in one flat list and undoes them in reverse; [`target`] is the other end of the
//! conversation. Until the key is sent the source undoes alone; after that the directory decides (D7).
//!
//! Guarantees. Source: on success nothing of the capsule is left here; on failure it runs on here. Target: on
//! success the capsule runs here and its sessions attach; on failure nothing of it is left here.

pub(crate) mod anchored;
pub(crate) mod claimed;
pub(crate) mod conversation;
pub mod examine;
pub mod files;
pub(crate) mod image;
pub mod journal;
pub(crate) mod landing;
mod log;
pub(crate) mod phases;
mod sockets;
pub mod source;
pub(crate) mod standstill;
pub(crate) mod superseded;
pub mod target;
pub(crate) mod verdict;

pub use phases::Phase;
pub(crate) use sockets::Arriving;
pub use source::{How, command, preflight};
pub use target::Arrivals;

/// Removes what an earlier sidecar left of moves under way: their conversations ended with it.
pub(crate) fn clear(data: &std::path::Path) {
    let moves = data.join("moves");
    if let Err(error) = std::fs::remove_dir_all(&moves)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %moves.display(), %error, "files of earlier moves were left behind");
    }
}
