//! Interception: what the programs of a capsule see of the network (D1, D2).
//!
//! [`connect`] holds the SYN of a program, or of a machine that routes locators to a gateway (`door`), until the far program
//! answered, and then takes the connection; `dial` asks for that. Where SYNs can't be held, [`accepted`] takes the connection
//! first. [`deliver`] dials a program for the sidecar of another host. [`opens`] joins an OPEN to its ANSWER.

pub mod accepted;
pub mod connect;
pub mod deliver;
pub(crate) mod dial;
pub(crate) mod door;
pub mod opens;
pub mod surroundings;
