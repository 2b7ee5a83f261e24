//! Machines that route the locators to this gateway: they reach every capsule that the policy lets them, by its own address
//! and ports, and are seen under their own.
//!
//! What they send is taken out of the host's network as what programs send is taken out of a capsule's: SYNs wait until
//! the capsule has answered, datagrams and pings go on as such.

use std::sync::Arc;

use anyhow::{Context, bail};
use ipnet::IpNet;
use kernel::limits::{INTERCEPT_TCP_PORT, INTERCEPT_UDP_PORT, ROUTED_QUEUES};
use kernel::rules::{self, Routed};

use super::Gateway;
use crate::capsule::keeper::{DATAGRAMS4, DATAGRAMS6, LISTENER4, LISTENER6};
use crate::datagram;
use crate::intercept::connect::{Connector, Inherited};
use crate::intercept::door::Door;
use crate::limits::RETRY_LONGEST;

/// Serves machines of these networks, with what an earlier sidecar left; without networks that ends here.
pub(super) async fn serve(gateway: Arc<Gateway>, machines: Vec<IpNet>, inherited: Inherited) {
    if machines.is_empty() {
        return leave(&gateway, inherited).await;
    }
    let served = match set_up(&gateway, &machines).await {
        Ok(()) => intercept(&gateway, inherited).await,
        Err(error) => {
            leave(&gateway, inherited).await;
            Err(error)
        }
    };
    match served {
        Ok(()) => tracing::info!(?machines, "machines that route locators here reach capsules"),
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "machines that route locators here reach nothing");
        }
    }
}

async fn set_up(gateway: &Gateway, machines: &[IpNet]) -> anyhow::Result<()> {
    let places = &gateway.around.places;
    let mut locators = places.locators();
    while locators.is_empty() {
        // The first lease says it.
        places.changed_or(RETRY_LONGEST).await;
        locators = places.locators();
    }
    let overlaps = |net: &&IpNet| locators.iter().any(|of| of.contains(*net));
    if let Some(net) = machines.iter().find(overlaps) {
        bail!("{net} in gateway_routed is a part of the locators: no machine outside is there");
    }
    let routed = Routed {
        machines: machines.to_vec(),
        locators,
        tcp_port: INTERCEPT_TCP_PORT,
        udp_port: INTERCEPT_UDP_PORT,
        queue: ROUTED_QUEUES[0],
        icmp_queue: ROUTED_QUEUES[1],
    };
    let set_up = gateway.network.in_netns(move || rules::route_in(&routed)).await;
    if !set_up.context("taking what is sent to locators out of this host's network")? {
        bail!(
            "the kernel has no queues (CONFIG_NFT_QUEUE or xt_NFQUEUE) in which SYNs could wait; `capsule publish` does without"
        );
    }
    Ok(())
}

async fn intercept(gateway: &Arc<Gateway>, mut inherited: Inherited) -> anyhow::Result<()> {
    let (network, around) = (gateway.network.clone(), gateway.around.clone());
    let door = Door::of_machines(around.places.clone(), gateway.ways.clone(), gateway.machine_max);
    let serving = gateway.data_plane.spawn(async move {
        let (forwarder, left) = (around.datagrams.clone(), inherited.datagrams.take());
        let datagrams = datagram::intercept(network.clone(), forwarder, left, Some(ROUTED_QUEUES[1]));
        datagrams.await.context("taking datagrams")?;
        let connector = Connector::open(network, around, door, inherited).await;
        tokio::spawn(connector.context("taking connections")?.run());
        anyhow::Ok(())
    });
    serving.await?
}

/// Nothing is routed in, or no longer: connections that are there go on, and are lost with their packets if the host does
/// not take those any more.
async fn leave(gateway: &Gateway, inherited: Inherited) {
    if let Err(error) = gateway.network.in_netns(rules::route_in_no_more).await {
        tracing::warn!(%error, "rules of the gateway were left behind");
    }
    for (slot, record) in inherited.opened {
        gateway.around.opens.give_up(record.session);
        slot.clear();
    }
    for connection in inherited.accepted {
        super::bringing::refuse(&gateway.network, &connection.fd, connection.name);
    }
    let names = [LISTENER4, LISTENER6].into_iter().filter(|_| inherited.listeners.is_some());
    let others = [DATAGRAMS4, DATAGRAMS6].into_iter().filter(|_| inherited.datagrams.is_some());
    for name in names.chain(others) {
        gateway.network.keeper().release(name.to_owned());
    }
}
