//! A chat in which loss, repetition and disorder show: every line carries its number among the lines of its writer and
//! its number among all lines.
//!
//! ```text
//!   client                          server
//!   hello anna              →
//!                           ←       welcome 17             the number that the next line of all will have
//!   say 0 good morning      →                              anna's first line
//!                           ←       line 17 anna 0 good morning      to everybody
//!   bye                     →
//!                           ←       goodbye 18             all lines below 18 were sent to anna
//! ```
//!
//! Neither side has any code to connect again or to repeat: a connection that breaks ends the client with exit code 1.

pub mod client;
mod protocol;
pub mod server;

pub use protocol::{FromClient, FromServer, ProtocolError};
