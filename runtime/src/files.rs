//! The moving of a capsule's files.
//!
//! A capsule sees an overlay: a *base* below (files that each host has already) and a private *upper* layer
//! above. A move deals with them apart:
//!
//! ```text
//!  source                                                       target
//!  base ── open or mapped? ── describe ──── compare ───────────▶ base
//!                     differs ▼
//!                      stage ── rsync, all of it ─────────────▶ staged ── merge ──┐
//!  upper ── round 1, 2, … (running) ── rsync, what changed ───▶ upper ◀───────────┘
//!        ── last round (frozen), only when something changed ─▶ upper
//! ```
//!
//! [`base`] is the upper half of the picture, [`private`] the lower one; [`volume`] fills the private layer
//! before the program starts, [`pack`] makes one stream of a layer, [`space`] says how much room a layer takes.

pub mod base;
mod error;
pub mod limits;
pub mod pack;
pub mod private;
pub mod space;
mod tree;
pub mod volume;
mod xattr;

#[cfg(test)]
mod sandbox;

pub use error::FilesError;
