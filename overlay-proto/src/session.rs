//! One side of one session, without IO.
//!
//! A session has two halves. Each owns one kernel socket S towards its program and counts u64 offsets from the
//! first byte. *Outgoing* bytes stay in S's receive queue until the other half has reported them delivered
//! (`consumed ≤ sent`); *incoming* bytes count as delivered when S took them. That is all that must be known to
//! join the halves again after any break: each tells what was delivered, the other sends on from there.
//!
//! ```text
//!             new()                     link_lost(), newer generations, NotHere
//!               │          ┌──────────────────────────────────────────────────────────┐
//!               ▼          │                                                          ▼
//!           ┌────────┐     │    ┌───────────┐  link_up(), generations(), release() ┌──────────┐
//!           │attached│─────┴────│ attaching │◄─────────────────────────────────────│ detached │◄── restore()
//!           └────────┘          └───────────┘                                      └──────────┘
//!             ▲   │ Attached, or      │ ▲ Stale: next attempt                          ▲    │
//!             └───┼─ their Attach ────┘                                        hold() ─┘    │ their Attach
//!                 │ Hold              │ Hold                                                ▼
//!                 └────────►┌─────────▼──┐                                              attached
//!                           │ peer holds │── their Attach ──► attached
//!                           └────────────┘
//! ```
//!
//! A half that holds is detached and answers every attach with HOLD. The ends of the directions are numbers, not
//! states: see [`End`]. [`Half`] says how the shell has to use it.

mod action;
mod attach;
mod ends;
mod half;
mod hold;
mod incoming;
mod key;
mod outgoing;
mod snapshot;

pub use action::{Action, Outcome, State, StreamVerdict, Violation};
pub use half::Half;
pub use key::{AttachKey, End, EndKind, Generations, Role};
pub use snapshot::{HalfSnapshot, SNAPSHOT_VERSION, SnapshotError};
