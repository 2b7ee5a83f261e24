//! Where connects come from: the programs of a capsule, or machines outside that route locators to a gateway.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use directory_api::outside::is_of_one_machine;
use kernel::limits::ROUTED_QUEUES;
use kernel::syn::Verdict;
use kernel::tcp;

use crate::capsule::network::{Network, SYN_QUEUE};
use crate::places::Places;
use crate::session::{Way, Ways};

/// What a connector needs to know of it.
pub(crate) struct Door {
    /// Number of the SYN queue. None where the kernel has none.
    pub(super) queue: Option<u16>,
    /// Opens the TPROXY listener of a family, IPv6 if true, at a port.
    pub(super) listen: fn(bool, u16) -> io::Result<OwnedFd>,
    /// None for the programs of a capsule.
    pub(super) machines: Option<Machines>,
}

impl Door {
    /// That of a capsule's programs.
    pub(crate) fn of_programs(network: &Network) -> Self {
        Self { queue: network.holds().then_some(SYN_QUEUE), listen: tcp::listen, machines: None }
    }

    /// That of machines which may have as many connections as `ways` and `machine_max` say.
    pub(crate) fn of_machines(places: Places, ways: Arc<Ways>, machine_max: usize) -> Self {
        let machines = Some(Machines { places, ways, machine_max });
        Self { queue: Some(ROUTED_QUEUES[0]), listen: tcp::listen_routed, machines }
    }
}

/// Machines that are seen under their own addresses.
pub(super) struct Machines {
    places: Places,
    ways: Arc<Ways>,
    machine_max: usize,
}

impl Machines {
    /// The way of a machine's connection.
    ///
    /// # Errors
    /// There is none: what becomes of its SYN.
    pub(super) fn admit(&self, (source, destination): (SocketAddr, SocketAddr)) -> Result<Way, Verdict> {
        if !is_of_one_machine(source.ip()) || self.places.may_be_locator(&source.ip()) {
            tracing::debug!(from = %source, "a machine outside can't have that address");
            return Err(Verdict::Drop);
        }
        self.ways.open_own(source, destination, self.machine_max).map_err(|error| {
            tracing::debug!(from = %source, %error, "a connection from outside was refused");
            Verdict::Refuse
        })
    }

    /// That of one that was admitted before.
    pub(super) fn found(&self, (source, destination): (SocketAddr, SocketAddr)) -> Way {
        self.ways.found(source, source, destination)
    }
}
