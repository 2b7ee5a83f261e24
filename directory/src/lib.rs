//! The directory: gives out locators, knows where every capsule is, answers DNS for the zone, runs the CA.
//!
//! ```text
//!             ┌──────── api (QUIC, mTLS) ── answer ──┬─► published ◄── dns ── zone
//!   hosts ────┤                                      │      ▲  └────── http
//!             └──────── watch ◄── published          └─► writer ── engine ── audit, store
//!                                                           (placement, lease, locators: pure)
//! ```
//!
//! With a shared store several directories serve one mesh: [`store::Etcd`] says how their commits stand in one row.

pub mod api;
pub mod app;
pub mod arguments;
pub mod assertions;
pub mod audit;
pub mod authority;
pub mod backup;
pub mod ca;
pub mod check;
pub mod config;
pub mod data;
pub mod dns;
pub mod engine;
pub mod extras;
pub mod http;
pub mod key_file;
pub mod lease;
pub mod limits;
pub mod locators;
pub mod metrics;
pub mod placement;
pub mod published;
pub mod registry;
pub mod reverse_order;
pub mod rotation;
pub mod sealed;
pub mod shared;
pub mod store;
pub mod supervisor;
pub mod writer;
pub mod zone;
pub mod zone_keys;

#[cfg(test)]
mod testing;
