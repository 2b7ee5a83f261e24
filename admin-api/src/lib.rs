//! What `capsule` and the sidecars say to each other.
//!
//! One protocol serves the admin Unix socket and, when a sidecar passes a verb
//! to another host, a QUIC stream. One stream carries one call:
//!
//! ```text
//!  client                                server
//!    Call ─────────────────────────────►           always the first frame
//!    Stdin* StdinEnd  Signal*  Cancel ─►           as the request allows
//!         ◄─ (Stdout|Stderr)* Position  Progress*  any number
//!         ◄─ Result | Error | Exit | Moved         the last frame
//! ```
//!
//! | request | ends with |
//! |---|---|
//! | `exec` | `Exit`, or `Error` when it could not start or the capsule moved |
//! | `follow` | `Exit` when the program ended, `Moved` when the capsule left this host |
//! | everything else | `Result` with the struct of that request, or `Error` |
//!
//! A stream that ends without one of these four frames was cut; the client says
//! so, except in `follow`, which calls again with the last position it was told.
//!
//! The pieces: [`request`] and [`result`] are the JSON bodies, [`error`] is what
//! a person reads when something failed, [`frame`] and [`stream`] are the
//! framing, [`client`] asks, [`limits`] bounds it all.

pub mod client;
pub mod error;
pub mod frame;
pub mod limits;
pub mod request;
pub mod result;
pub mod stream;
pub mod timestamp;

pub use client::{AskError, Conversation, ask, call, connect};
pub use error::{Detail, ErrorView};
pub use frame::{Body, Frame, FrameError, Moved, Progress, RawFrame, RunState};
pub use request::{Call, EnvVar, Memory, Request, Volume};
pub use stream::{FrameReader, FrameWriter};
pub use timestamp::Timestamp;
