//! What a capsule is to the OCI runtime and to CRIU.
//!
//! ```text
//!  ProgramSpec ──▶ bundle (config.json) ─┐
//!  base, masks ──▶ root (overlay) ───────┼─▶ Runc: command lines for the shim, checkpoint
//!  CRIU options, gate ───────────────────┘        │
//!  cgroup: freeze, thaw, kill          image ◀────┘
//! ```
//!
//! Everything here is synchronous; the sidecar calls it where it may block. Nothing here decides when a capsule moves.
//! [`dir`] has the layout of a capsule's directory, [`bundle`] and [`root`] make a capsule, [`runc`] runs, captures and
//! restores it, [`teardown`] takes all of it away, and [`files`] moves its files.

pub mod bundle;
pub mod cgroup;
pub mod criu;
pub mod dir;
pub mod expedite;
pub mod files;
pub mod memory;
pub mod root;
pub mod runc;
pub mod shm;
pub mod teardown;
pub mod user;

mod error;

pub use error::RuntimeError;
