//! Machines outside that are seen under their own addresses: which gateway or outlet stands for them.

use std::net::IpAddr;
use std::sync::Arc;

use directory_api::CapsuleRecord;
use directory_api::outside::{self, is_of_one_machine};
use ipnet::IpNet;
use moka::sync::Cache;
use overlay_proto::{CapsuleId, Datagram, HostName};

use super::{FlowKey, Forwarder, Parts};
use crate::capsule::network::Network;
use crate::gateway::Outward;
use crate::limits::{FLOW_IDLE, MACHINES_MAX};

/// What this host has to do with machines outside.
pub struct Outside {
    /// Of a gateway: the networks of machines that route locators to it.
    pub routed: Vec<IpNet>,
    /// By what capsules of this host reach others.
    pub outward: Outward,
}

/// Which machines there are.
pub(super) struct Machines {
    outside: Outside,
    /// By what each was heard or spoken to last, for each capsule here.
    by: Cache<(CapsuleId, IpAddr), CapsuleId>,
}

impl Machines {
    pub(super) fn new(outside: Outside) -> Self {
        Self { outside, by: Cache::builder().max_capacity(MACHINES_MAX).time_to_idle(FLOW_IDLE).build() }
    }

    fn routes(&self, address: IpAddr) -> bool {
        self.outside.routed.iter().any(|network| network.contains(&address))
    }
}

impl Forwarder {
    fn is_outside(&self, address: IpAddr) -> bool {
        is_of_one_machine(address) && !self.0.places.may_be_locator(&address)
    }

    /// Who speaks from an address at a host to a capsule here: the capsule that has it, or for a machine outside what stands
    /// for it there. None if this host does not know one.
    pub(super) fn speaker(&self, address: IpAddr, host: &HostName, to: CapsuleId) -> Option<CapsuleRecord> {
        let Parts { places, machines, .. } = &*self.0;
        if let Some(capsule) = places.known_at(&address) {
            return Some(capsule);
        }
        if !self.is_outside(address) {
            return None;
        }
        let heard = machines.by.get(&(to, address)).and_then(|id| places.capsule(&id));
        let [gateway, outlet] =
            [outside::name_at(host), outside::outlet_at(host)].map(|name| places.named(&name.ok()?));
        let all = [heard, gateway, outlet].into_iter().flatten();
        all.into_iter().find(|record| record.is_of_its_host() && record.host == *host)
    }

    /// Who is to have what a host sent to an address here: the capsule that has it, or for a machine outside what stands for
    /// it on this host.
    pub(super) fn addressee(&self, address: IpAddr, from: &HostName) -> Option<CapsuleRecord> {
        let Parts { places, machines, me, .. } = &*self.0;
        if let Some(capsule) = places.known_at(&address) {
            return Some(capsule);
        }
        let Outward { via, outlet, .. } = &machines.outside.outward;
        let by_outlet = !machines.routes(address) && from == me && via.is_none();
        let id = match self.is_outside(address) {
            false => None,
            true if by_outlet => outlet.id(),
            true => return places.named(&outside::name_at(me).ok()?),
        };
        places.capsule(&id?)
    }

    /// Asks the directory who may speak from an address at a host.
    pub(super) async fn ask_for_speaker(&self, address: IpAddr, host: &HostName) -> Option<CapsuleRecord> {
        let places = &self.0.places;
        match self.is_outside(address) {
            false => places.by_locator(address).await,
            true => places.of_name(&outside::name_at(host).ok()?).await.ok().flatten(),
        }
    }

    /// Whether a gateway or an outlet lets datagrams out to an address, and in from there; that of a capsule nothing.
    pub(super) fn may_be_outside(&self, network: &Network, address: IpAddr) -> bool {
        let Some(reach) = network.reach() else { return false };
        let routes = !reach.is_of_this_host() && self.0.machines.routes(address);
        self.is_outside(address) && (reach.contains(address) || routes)
    }

    /// The network here from which a datagram was sent that came back.
    pub(super) fn sender(&self, datagram: &Datagram) -> Option<Arc<Network>> {
        let Parts { places, networks, me, .. } = &*self.0;
        let source = datagram.source.ip();
        if let Some(capsule) = places.known_at(&source) {
            return networks.of(&capsule.id);
        }
        let flow = FlowKey { local: datagram.source, remote: datagram.destination };
        let own = [outside::name_at(me), outside::outlet_at(me)].into_iter();
        own.filter_map(|name| networks.of(&places.named(&name.ok()?)?.id))
            .find(|network| self.may_be_outside(network, source) && network.datagrams().has_sent(flow))
    }

    /// A machine outside was heard, or is spoken to, by a gateway or an outlet.
    pub(super) fn goes_by(&self, capsule: CapsuleId, machine: IpAddr, by: CapsuleId) {
        self.0.machines.by.insert((capsule, machine), by);
    }

    /// Who is at an address that a capsule here sends to: the capsule that has it, or that by which the machine there was
    /// heard or spoken to last.
    pub(super) fn known_to(&self, network: &Network, address: &IpAddr) -> Option<CapsuleRecord> {
        let Parts { places, machines, .. } = &*self.0;
        let by = || places.capsule(&machines.by.get(&(network.id(), *address))?);
        places.known_at(address).or_else(by)
    }

    /// The same; asks the directory what this host does not know, and finds the way to a machine that was not spoken to.
    ///
    /// # Errors
    /// The directory can't be reached, or the outlet can't be made.
    pub(super) async fn found_for(
        &self,
        network: &Network,
        address: IpAddr,
    ) -> anyhow::Result<Option<CapsuleRecord>> {
        if let Some(record) = self.known_to(network, &address) {
            return Ok(Some(record));
        }
        let Parts { places, machines, me, .. } = &*self.0;
        // A gateway and an outlet speak with capsules only.
        if network.reach().is_some() || !self.is_outside(address) {
            return Ok(places.at(address).await?);
        }
        let found = match outside::name_at(me) {
            Ok(gateway) if machines.routes(address) => places.of_name(&gateway).await?,
            _ => machines.outside.outward.to(address).await?,
        };
        if let Some(found) = &found {
            self.goes_by(network.id(), address, found.id);
        }
        Ok(found)
    }
}
