//! The crate against the real kernel: each test makes its own network namespaces, which end with it. Needs root.
#![allow(clippy::print_stdout, reason = "tests say what they measured")]

mod buffers;
mod capsule;
mod changes;
mod datagrams;
mod interception;
mod moving;
mod sockets;
mod unheld;
