//! From nothing, or from what an earlier sidecar left, to a gateway that serves.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::Context;
use directory_api::{ApiError, AssertedCapsule, ClientError, HeldCapsule, LookupKey, RuleId};
use kernel::{tcp, udp};
use overlay_proto::CapsuleId;

use super::own::{self, Opened, OwnFile, Role};
use super::{Gateway, Protocol, Publication, publications};
use crate::capsule::network::{Network, Reach};
use crate::capsule::takeover::Left;
use crate::limits::{GATEWAY_ASKED, GATEWAY_RETRY};
use crate::sidecar::Sidecar;

/// Ports that are tried when any will do and one family has what the other gave.
const PORT_TRIES: u32 = 16;

/// A gateway that an earlier sidecar left.
pub(crate) struct Found {
    network: Arc<Network>,
    ports: HashMap<String, OwnedFd>,
    left: Left,
}

/// Recognizes the gateway of an earlier sidecar, so that what other hosts say of its sessions waits; with `renew_shim` its
/// shim is replaced by the program on disk whatever its version. None if there is none, or if this host is no gateway any
/// more, which ends it.
pub(crate) async fn recognize(sidecar: &Arc<Sidecar>, renew_shim: bool) -> anyhow::Result<Option<Found>> {
    let Some(file) = own::read(Role::Gateway, &sidecar.data)? else { return Ok(None) };
    if !sidecar.config.gateway {
        abandon(sidecar, file);
        return Ok(None);
    }
    let Opened { network, records, held } =
        own::find(sidecar, Role::Gateway, file, reach(sidecar), renew_shim).await?;
    let is_port = |name: &str| name.starts_with("published") || name.starts_with("exit-");
    let (ports, held) = held.into_iter().partition(|(name, _)| is_port(name));
    let left = Left::recognized(sidecar, &network, held, records);
    Ok(Some(Found { network, ports, left }))
}

/// Serves the gateway that was found, or makes one: once the directory answers, if it has to be asked.
pub(crate) async fn establish(sidecar: Arc<Sidecar>, found: Option<Found>) {
    if let Some(Found { network, ports, left }) = found {
        if !was_removed(&sidecar, network.id()).await {
            if let Err(error) = Gateway::serve(&sidecar, network, ports, left).await {
                tracing::error!(error = format!("{error:#}"), "the gateway does not serve");
            }
            return;
        }
        tracing::warn!(
            "the directory does not know this gateway, as after the removal of this host: it is made anew, and its connections end"
        );
        left.give_up(&sidecar);
        network.close();
        let data = sidecar.data.clone();
        let _ = tokio::task::spawn_blocking(move || own::forget(Role::Gateway, &data)).await;
    }
    while let Err(error) = make(&sidecar).await {
        tracing::warn!(error = format!("{error:#}"), "this host is no gateway yet; it is tried again");
        tokio::time::sleep(GATEWAY_RETRY).await;
    }
}

/// Whether the directory says that it knows no such gateway; while it says nothing, it does.
async fn was_removed(sidecar: &Sidecar, id: CapsuleId) -> bool {
    let directory = sidecar.places.directory().with_call_time(GATEWAY_ASKED);
    let known = directory.lookup(LookupKey::Id(id)).await;
    matches!(known, Err(ClientError::Refused(ApiError::UnknownCapsule { .. })))
}

async fn make(sidecar: &Arc<Sidecar>) -> anyhow::Result<()> {
    let Opened { network, .. } = own::make(sidecar, Role::Gateway, reach(sidecar)).await?;
    Gateway::serve(sidecar, network, HashMap::new(), Left::default()).await
}

fn reach(sidecar: &Sidecar) -> Reach {
    Reach::new(sidecar.config.gateway_reach.clone())
}

/// This host is a gateway no more: its connections end, and what is published is forgotten.
fn abandon(sidecar: &Arc<Sidecar>, file: OwnFile) {
    tracing::warn!("this host is a gateway no more: connections from outside end, and nothing is published");
    let all = publications::read(&Role::Gateway.directory(&sidecar.data)).unwrap_or_default();
    if let Err(error) = kernel::rules::route_in_no_more() {
        tracing::warn!(%error, "rules of the gateway were left behind");
    }
    own::destroy(Role::Gateway, &sidecar.data);
    let sidecar = sidecar.clone();
    tokio::spawn(async move {
        let client = sidecar.places.directory();
        for rule in all.iter().filter_map(|one| one.rule) {
            let _ = client.remove_rule(RuleId::new(rule)).await;
        }
        if let Err(error) = client.remove(file.id, file.generation).await {
            tracing::warn!(%error, gateway = %file.name, "it stays registered");
        }
    });
}

/// Listeners, or sockets for datagrams, of IPv4 and IPv6 at the port of this host; 0 becomes one that is free.
///
/// # Errors
/// The port is in use.
pub(super) async fn listen(
    network: &Network,
    publication: &mut Publication,
) -> anyhow::Result<[Option<OwnedFd>; 2]> {
    let (asked, protocol) = (publication.host_port, publication.protocol);
    let bind = move |v6: bool, port: u16| match protocol {
        Protocol::Tcp if v6 => tcp::listen_outside(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))),
        Protocol::Tcp => tcp::listen_outside(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        Protocol::Udp => udp::listen_outside(v6, port),
    };
    let open = move || {
        for _ in 0..PORT_TRIES {
            let v4 = bind(false, asked)?;
            let given = tcp::local_port(&v4)?;
            let v6 = match bind(true, given) {
                Ok(v6) => Some(v6),
                // A kernel without IPv6.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => {
                    None
                }
                Err(error) if asked == 0 && error.kind() == std::io::ErrorKind::AddrInUse => continue,
                Err(error) => return Err(error),
            };
            return Ok((given, [Some(v4), v6]));
        }
        Err(std::io::ErrorKind::AddrInUse.into())
    };
    let opened = network.in_netns(open).await;
    let (given, listeners) =
        opened.with_context(|| format!("listening at port {asked}/{} of this host", protocol.as_str()))?;
    publication.host_port = given;
    Ok(listeners)
}

impl Gateway {
    /// What this host tells the directory of it.
    pub(crate) fn held(&self) -> HeldCapsule {
        Role::held(&self.network)
    }

    /// What this host tells a directory of it that was restored from a backup.
    pub(crate) fn asserted(&self) -> AssertedCapsule {
        Role::Gateway.asserted(&self.network)
    }
}
