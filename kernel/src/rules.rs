//! What makes a network namespace a capsule's.
//!
//! There is no program to start and no file to load: addresses, routes and the nft table `capsule` are written in
//! three netlink exchanges. The table's parts:
//!
//! ```text
//!  output      gate       drops TCP SYNs for foreign addresses while its policy is `drop`
//!  output      hold       a TCP SYN for a foreign address waits in the SYN queue, ICMP in the ICMP queue
//!  prerouting  intercept  TCP and UDP for a foreign address go to the TPROXY sockets; nothing else may
//!  input       lock       drops everything but PASS_LOCK_MARK while its policy is `drop`
//! ```
//!
//! A kernel that has no queues gets no `hold`: SYNs go to the listener at once, and ICMP nowhere.
//!
//! *Foreign* is what is neither loopback nor a locator of the capsule. Only TCP, UDP and ICMP have a route to
//! foreign addresses.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use thiserror::Error;

use crate::netlink::Refused;

mod probe;
mod route;
mod sysctl;
mod table;

pub use probe::{Missing, probe};

/// How a capsule's namespace is intercepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interception {
    /// The capsule's IPv4 locator.
    pub v4: Ipv4Addr,
    /// The capsule's IPv6 locator.
    pub v6: Ipv6Addr,
    /// Port of the TPROXY listener; see [`crate::limits::INTERCEPT_TCP_PORT`].
    pub tcp_port: u16,
    /// Port of the TPROXY socket for datagrams; see [`crate::limits::INTERCEPT_UDP_PORT`].
    pub udp_port: u16,
    /// Whether SYNs and ICMP wait in queues, if the kernel has them.
    pub hold: bool,
    /// Number of the SYN queue, unique in this namespace.
    pub queue: u16,
    /// Number of the ICMP queue, unique in this namespace.
    pub icmp_queue: u16,
}

/// What machines outside reach by this host, into whose network they send what is for locators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed {
    /// Networks whose machines may.
    pub machines: Vec<IpNet>,
    /// Networks of all locators.
    pub locators: Vec<IpNet>,
    /// Port of the TPROXY listener.
    pub tcp_port: u16,
    /// Port of the TPROXY socket for datagrams.
    pub udp_port: u16,
    /// Number of the SYN queue.
    pub queue: u16,
    /// Number of the ICMP queue.
    pub icmp_queue: u16,
}

/// Takes what machines outside send to locators out of the calling thread's namespace, where programs and other rules may
/// be. What an earlier call said is replaced at once. False if the kernel has no queues: nothing of it is served then.
///
/// # Errors
/// Names the first thing that the kernel refused.
pub fn route_in(routed: &Routed) -> Result<bool, RulesError> {
    if !table::create_routed(routed)? {
        route_in_no_more()?;
        return Ok(false);
    }
    route::take_marked()?;
    Ok(true)
}

/// Takes back what [`route_in`] did, if anything.
///
/// # Errors
/// As for it.
pub fn route_in_no_more() -> Result<(), RulesError> {
    table::remove_routed()?;
    route::leave_marked()?;
    Ok(())
}

/// Why a namespace could not be set up, locked or unlocked.
#[derive(Debug, Error)]
pub enum RulesError {
    /// The kernel refused a request.
    #[error("{what}: {source}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// A sysctl could not be set.
    #[error("set {path}: {source}")]
    Sysctl {
        /// The file.
        path: String,
        /// What went wrong.
        source: io::Error,
    },
}

impl From<Refused> for RulesError {
    fn from(Refused { what, source }: Refused) -> RulesError {
        RulesError::Refused { what, source }
    }
}

/// Makes the namespace of the calling thread a capsule's. It must be fresh.
///
/// # Errors
/// Names the first thing that the kernel refused; the namespace is then good for nothing.
pub fn set_up(interception: &Interception) -> Result<(), RulesError> {
    set_up_with(interception, false)
}

/// Like [`set_up`], but the namespace is locked from the start: for what arrives by a move.
///
/// # Errors
/// As for [`set_up`].
pub fn set_up_locked(interception: &Interception) -> Result<(), RulesError> {
    set_up_with(interception, true)
}

fn set_up_with(interception: &Interception, locked: bool) -> Result<(), RulesError> {
    sysctl::set_all()?;
    table::create(interception, locked)?;
    route::set_up(interception.v4, interception.v6)?;
    Ok(())
}

/// Drops all that arrives in the calling thread's namespace, except packets marked
/// [`PASS_LOCK_MARK`](crate::limits::PASS_LOCK_MARK). Locking twice is locking once. Takes 20 to 80 µs.
///
/// The thread keeps a netlink socket open, and with it the namespace, until it ends or sets up or locks another.
///
/// # Errors
/// ENOENT when the namespace was not set up.
pub fn lock() -> Result<(), RulesError> {
    Ok(table::set_lock(true)?)
}

/// Lets all arrive again, to connections that send in whole segments, also if they were rebuilt. Unlocking twice is
/// unlocking once.
///
/// # Errors
/// ENOENT when the namespace was not set up.
pub fn unlock() -> Result<(), RulesError> {
    route::refresh_segment_sizes()?;
    Ok(table::set_lock(false)?)
}

/// Whether SYNs and ICMP wait in queues in the calling thread's namespace; otherwise SYNs go to the listener at once.
///
/// # Errors
/// The kernel refuses to say.
pub fn holds() -> Result<bool, RulesError> {
    Ok(table::holds()?)
}

/// Drops TCP SYNs for foreign addresses in the calling thread's namespace, or lets them pass again; their kernel repeats
/// what is dropped. What waits in the SYN queue passed before.
///
/// # Errors
/// EOPNOTSUPP when the namespace was set up by a version that knew no gate.
pub fn gate(shut: bool) -> Result<(), RulesError> {
    Ok(table::set_gate(shut)?)
}
