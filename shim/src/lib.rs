//! What others need of the shim: how to talk to it, and how to read what it wrote.
//!
//! One shim stands behind every capsule and outlives the sidecar. It is the parent of the capsule's processes, owns
//! their network namespace, their standard streams and log, their exit status, the sockets of their sessions and the
//! gate of a restore. The process itself is the binary `capsule-shim`; it serves [`Request`]s on a socket in the
//! capsule's directory, one answer for each request:
//!
//! ```text
//!            Run                 runc done                 init gone
//!  None ───────────▶ Starting ────────────▶ Running ────────────────▶ Exited
//!    ▲  Restore{gate} │    ▲ OpenGate                                   │
//!    │                ▼    │                                     Run, Restore
//!    └── AbortGate ── AtGate ◀── CRIU's post-restore                    ▼
//!                                                                    Starting
//! ```

pub mod gate;
pub mod limits;
pub mod log;
pub mod place;
pub mod wire;

mod client;
mod message;

/// The version of the shim that belongs to this library.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub use client::{Client, ClientError};
pub use message::{Accepted, Program, Reply, Request};
