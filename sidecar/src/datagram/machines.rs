//! Machines outside that are seen under their own addresses: which gateway stands for them.

use std::net::IpAddr;

use directory_api::{CapsuleRecord, outside};
use moka::sync::Cache;
use overlay_proto::{CapsuleId, CapsuleName, HostName};

use super::{Forwarder, Parts};
use crate::capsule::network::Network;
use crate::limits::{FLOW_IDLE, MACHINES_MAX};

/// By which gateway each machine was heard last, for each capsule here.
pub(super) struct Machines(Cache<(CapsuleId, IpAddr), CapsuleId>);

impl Default for Machines {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(MACHINES_MAX).time_to_idle(FLOW_IDLE).build())
    }
}

impl Forwarder {
    /// Who speaks from an address at a host, or is spoken to there: the capsule that has it, or for a machine outside the
    /// gateway that the host is. None if this host does not know one.
    pub(super) fn known_at(&self, address: IpAddr, host: &HostName) -> Option<CapsuleRecord> {
        let places = &self.0.places;
        places.known_at(&address).or_else(|| {
            let gateway = places.named(&self.gateway_for(address, host)?)?;
            (gateway.is_outside() && gateway.host == *host).then_some(gateway)
        })
    }

    /// The same; asks the directory what this host does not know.
    pub(super) async fn found_at(&self, address: IpAddr, host: &HostName) -> Option<CapsuleRecord> {
        let places = &self.0.places;
        if let Some(name) = self.gateway_for(address, host) {
            return places.of_name(&name).await.ok().flatten();
        }
        places.by_locator(address).await
    }

    /// The name that a gateway at this host has, if the address is one outside.
    fn gateway_for(&self, address: IpAddr, host: &HostName) -> Option<CapsuleName> {
        let Parts { places, me, routed, .. } = &*self.0;
        let is_outside = outside::is_of_one_machine(address) && !places.may_be_locator(&address);
        let may_be_here = host != me || routed.iter().any(|network| network.contains(&address));
        (is_outside && may_be_here).then(|| outside::name_at(host).ok()).flatten()
    }

    /// Whether a datagram may come out of this network from an address.
    pub(super) fn may_send_from(&self, network: &Network, address: IpAddr) -> bool {
        network.locators().contains(address)
            || network.reach().is_some() && self.gateway_for(address, &self.0.me).is_some()
    }

    /// A machine outside was heard by a gateway.
    pub(super) fn heard_by(&self, to: CapsuleId, machine: IpAddr, gateway: CapsuleId) {
        self.0.machines.0.insert((to, machine), gateway);
    }

    /// Who is at an address that a capsule here sends to: the capsule that has it, or the gateway by which the machine
    /// there was heard last.
    pub(super) fn known_to(&self, network: &Network, address: &IpAddr) -> Option<CapsuleRecord> {
        let places = &self.0.places;
        let by_gateway = || places.capsule(&self.0.machines.0.get(&(network.id(), *address))?);
        places.known_at(address).or_else(by_gateway)
    }
}
