//! Machines outside that are seen under their own addresses: which gateway stands for them.

use std::net::IpAddr;

use directory_api::outside::{self, is_of_one_machine};
use directory_api::{CapsuleRecord, ClientError};
use ipnet::IpNet;
use moka::sync::Cache;
use overlay_proto::{CapsuleId, CapsuleName, HostName};

use super::{Forwarder, Parts};
use crate::capsule::network::Network;
use crate::limits::{FLOW_IDLE, MACHINES_MAX};

/// What this host has to do with machines outside.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    /// Of a gateway: the networks of machines that it stands for.
    pub own: Vec<IpNet>,
    /// The gateway by which capsules of this host reach others.
    pub via: Option<HostName>,
}

/// Which machines there are.
pub(super) struct Machines {
    outside: Outside,
    /// By which gateway each was heard or spoken to last, for each capsule here.
    gateways: Cache<(CapsuleId, IpAddr), CapsuleId>,
}

impl Machines {
    pub(super) fn new(outside: Outside) -> Self {
        let gateways = Cache::builder().max_capacity(MACHINES_MAX).time_to_idle(FLOW_IDLE).build();
        Self { outside, gateways }
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

    /// The name that a gateway at this host has, if the address is of a machine that it may stand for.
    fn gateway_for(&self, address: IpAddr, host: &HostName) -> Option<CapsuleName> {
        let Parts { me, machines, .. } = &*self.0;
        let may_be = host != me || machines.outside.own.iter().any(|network| network.contains(&address));
        (may_be && self.is_outside(address)).then(|| outside::name_at(host).ok()).flatten()
    }

    fn is_outside(&self, address: IpAddr) -> bool {
        is_of_one_machine(address) && !self.0.places.may_be_locator(&address)
    }

    /// Whether a datagram may come out of this network from an address.
    pub(super) fn may_send_from(&self, network: &Network, address: IpAddr) -> bool {
        network.locators().contains(address)
            || network.reach().is_some() && self.gateway_for(address, &self.0.me).is_some()
    }

    /// A machine outside was heard by a gateway.
    pub(super) fn heard_by(&self, to: CapsuleId, machine: IpAddr, gateway: CapsuleId) {
        self.0.machines.gateways.insert((to, machine), gateway);
    }

    /// Who is at an address that a capsule here sends to: the capsule that has it, or the gateway by which the machine
    /// there was heard or spoken to last.
    pub(super) fn known_to(&self, network: &Network, address: &IpAddr) -> Option<CapsuleRecord> {
        let places = &self.0.places;
        let by_gateway = || places.capsule(&self.0.machines.gateways.get(&(network.id(), *address))?);
        places.known_at(address).or_else(by_gateway)
    }

    /// The same; asks the directory what this host does not know, and finds the gateway to a machine that was not spoken to.
    ///
    /// # Errors
    /// The directory can't be reached.
    pub(super) async fn found_for(
        &self,
        network: &Network,
        address: IpAddr,
    ) -> Result<Option<CapsuleRecord>, ClientError> {
        if let Some(record) = self.known_to(network, &address) {
            return Ok(Some(record));
        }
        let (places, via) = (&self.0.places, &self.0.machines.outside.via);
        if !self.is_outside(address) {
            return places.at(address).await;
        }
        let Some(name) = via.as_ref().and_then(|via| outside::name_at(via).ok()) else { return Ok(None) };
        let gateway = places.of_name(&name).await?.filter(CapsuleRecord::is_outside);
        if let Some(gateway) = &gateway {
            self.heard_by(network.id(), address, gateway.id);
        }
        Ok(gateway)
    }
}
