//! The sidecar: one on each host. It intercepts the sockets of the host's capsules, carries them as streams over
//! persistent QUIC links to other hosts, and moves capsules between hosts while their connections stay open.
//!
//! The modules in the order of the data's way: [`intercept`] (programs) → [`session`] (halves) → [`link`] (hosts);
//! [`places`] knows where everyone is, [`policy`] who may connect to whom, [`capsule`] runs programs, [`moving`] moves them, [`admin`] takes verbs.
//! `app` wires them together; two runtimes keep the data plane free of everything slow.

pub mod app;
pub mod command;
pub mod config;

pub mod datagram;
pub mod intercept;
pub mod session;

pub mod link;
mod roaming;
pub mod suspend;
pub mod switchboard;

pub mod assertion;
pub mod finder;
pub mod places;
pub mod policy;

pub mod capsule;

pub mod gateway;

pub mod moving;

pub mod admin;
mod asker;
pub mod requests;
pub mod sidecar;
pub mod telemetry;

pub mod faults;

pub mod limits;
mod random;
mod supervisor;
mod upgrade;
mod watched;

#[cfg(test)]
mod testing;
