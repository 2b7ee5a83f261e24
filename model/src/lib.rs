//! What can be proven without a kernel: the commit of a move explored exhaustively; whole meshes are simulated in `tests/meshes.rs`.
//!
//! - [`commit`]: two hosts, a directory with its real rules, and every order of messages, losses and crashes.
//!
//! It depends on the code that it stands for wherever that code is pure.

pub mod commit;
