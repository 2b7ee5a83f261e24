//! The directory: gives out locators, knows where every capsule is, answers DNS for the zone, runs the CA.
//!
//! ```text
//!             ┌──────── api (QUIC, mTLS) ── answer ──┬─► published ◄── handler (DNS) ── zone
//!   hosts ────┤                                      │      ▲  └────── http
//!             └──────── watch ◄── published          └─► writer ── engine ── audit, store
//!                                                           (placement, lease, locators: pure)
//! ```

pub mod api;
pub mod app;
pub mod arguments;
pub mod audit;
pub mod ca;
pub mod config;
pub mod data;
pub mod engine;
pub mod handler;
pub mod http;
pub mod lease;
pub mod limits;
pub mod locators;
pub mod metrics;
pub mod placement;
pub mod published;
pub mod registry;
pub mod sealed;
pub mod store;
pub mod writer;
pub mod zone;

#[cfg(test)]
mod testing;
