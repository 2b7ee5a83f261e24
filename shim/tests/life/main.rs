//! Capsules on real runc, CRIU and overlays, as root.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]

mod capsule;
mod moving;
mod running;
mod sockets;
