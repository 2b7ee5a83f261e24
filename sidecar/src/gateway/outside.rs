//! From nothing, or from what an earlier sidecar left, to a gateway that serves.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use directory_api::{
    ApiError, AssertedCapsule, CapsuleRecord, CapsuleState, ClientError, HeldCapsule, LookupKey, RuleId,
    outside,
};
use kernel::{tcp, udp};
use overlay_proto::{CapsuleId, CapsuleName, Generation, Locators};
use serde::{Deserialize, Serialize};

use super::{Gateway, Protocol, Publication, directory_of, exits, publications};
use crate::capsule::engine;
use crate::capsule::network::{Identity, Network, Reach};
use crate::capsule::takeover::Left;
use crate::limits::GATEWAY_RETRY;
use crate::session::Records;
use crate::sidecar::Sidecar;

/// Ports that are tried when any will do and one family has what the other gave.
const PORT_TRIES: u32 = 16;

/// Who the gateway is, on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct GatewayFile {
    id: CapsuleId,
    name: CapsuleName,
    locators: Locators,
    generation: Generation,
}

/// A gateway that an earlier sidecar left.
pub(crate) struct Found {
    network: Arc<Network>,
    listeners: HashMap<String, OwnedFd>,
    left: Left,
}

/// Recognizes the gateway of an earlier sidecar, so that what other hosts say of its sessions waits; with `renew_shim` its
/// shim is replaced by the program on disk whatever its version. None if there is none, or if this host is no gateway any
/// more, which ends it.
pub(crate) async fn recognize(sidecar: &Arc<Sidecar>, renew_shim: bool) -> anyhow::Result<Option<Found>> {
    let directory = directory_of(&sidecar.data);
    let Some(file) = read(&directory)? else { return Ok(None) };
    if !sidecar.config.gateway {
        abandon(sidecar, &directory, file);
        return Ok(None);
    }
    let of = sidecar.clone();
    let (network, records, held) =
        tokio::task::spawn_blocking(move || open(&of, &directory, file, renew_shim)).await??;
    let is_own = |name: &str| name.starts_with("published") || name.starts_with(exits::HELD);
    let (listeners, held) = held.into_iter().partition(|(name, _)| is_own(name));
    let left = Left::recognized(sidecar, &network, held, records);
    Ok(Some(Found { network, listeners, left }))
}

/// Serves the gateway that was found, or makes one: once the directory answers, if it has to be asked.
pub(crate) async fn establish(sidecar: Arc<Sidecar>, found: Option<Found>) {
    if let Some(Found { network, listeners, left }) = found {
        if let Err(error) = Gateway::serve(&sidecar, network, listeners, left).await {
            tracing::error!(error = format!("{error:#}"), "the gateway does not serve");
        }
        return;
    }
    while let Err(error) = make(&sidecar).await {
        tracing::warn!(error = format!("{error:#}"), "this host is no gateway yet; it is tried again");
        tokio::time::sleep(GATEWAY_RETRY).await;
    }
}

async fn make(sidecar: &Arc<Sidecar>) -> anyhow::Result<()> {
    let record = registered(sidecar).await?;
    let record = match record.state {
        CapsuleState::Running => record,
        _ => {
            let directory = sidecar.places.directory();
            directory.set_state(record.id, record.generation, CapsuleState::Running).await?
        }
    };
    let directory = directory_of(&sidecar.data);
    std::fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    let CapsuleRecord { id, name, locators, generation, .. } = record.clone();
    let file = GatewayFile { id, name, locators, generation };
    publications::write_json(&directory, "gateway.json", &file)?;
    sidecar.places.take(record);
    let of = sidecar.clone();
    let (network, ..) = tokio::task::spawn_blocking(move || open(&of, &directory, file, false)).await??;
    Gateway::serve(sidecar, network, HashMap::new(), Left::default()).await
}

/// The directory's record of this gateway, made if there is none.
async fn registered(sidecar: &Sidecar) -> anyhow::Result<CapsuleRecord> {
    let name = outside::name_at(&sidecar.me)
        .with_context(|| format!("the name of host {} is too long for a gateway", sidecar.me))?;
    let directory = sidecar.places.directory();
    match directory.lookup(LookupKey::Name(name.clone())).await {
        Ok(record) if record.is_outside() && record.host == sidecar.me => Ok(record),
        Ok(record) => {
            bail!("the name {name} belongs to a capsule of {} on host {}", record.owner, record.host)
        }
        Err(ClientError::Refused(ApiError::UnknownCapsule { .. })) => {
            Ok(directory.register(name, outside::owner()).await.context("registering this gateway")?)
        }
        Err(error) => Err(error).context("asking for this gateway's record"),
    }
}

type Opened = (Arc<Network>, Records, HashMap<String, OwnedFd>);

/// Finds or starts the gateway's shim. Blocks.
fn open(sidecar: &Sidecar, directory: &Path, file: GatewayFile, renew_shim: bool) -> anyhow::Result<Opened> {
    let socket = shim::place::socket(directory);
    let programs = &sidecar.programs;
    if let Ok(shim) = shim::Client::connect(&socket) {
        match engine::replace_shim(shim, programs, renew_shim) {
            Ok(None) => {}
            Ok(Some(process)) => {
                tracing::info!(process, to = shim::VERSION, "the gateway's shim is replaced")
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the gateway's shim stays what it is");
            }
        }
    } else {
        engine::start_shim_in(programs, directory, &file.id.to_string())?;
    }
    let held = shim::Client::connect(&socket).context("connecting to the gateway's shim")?.take_sockets()?;
    let GatewayFile { id, name, locators, generation } = file;
    let who = Identity { id, name, locators, generation };
    let reach = Reach::new(sidecar.config.gateway_reach.clone());
    let (network, records) = Network::outside(&who, &socket, reach)?;
    Ok((network, records, held.into_iter().collect()))
}

fn read(directory: &Path) -> anyhow::Result<Option<GatewayFile>> {
    let path = directory.join("gateway.json");
    match std::fs::read(&path) {
        Ok(text) => {
            Ok(Some(serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// This host is a gateway no more: its connections end, and what is published is forgotten.
fn abandon(sidecar: &Arc<Sidecar>, directory: &Path, file: GatewayFile) {
    tracing::warn!("this host is a gateway no more: connections from outside end, and nothing is published");
    let all = publications::read(directory).unwrap_or_default();
    if let Err(error) = kernel::rules::route_in_no_more() {
        tracing::warn!(%error, "rules of the gateway were left behind");
    }
    if let Ok(mut shim) = shim::Client::connect(&shim::place::socket(directory)) {
        let _ = shim.ask(&shim::Request::Quit, &[]);
    }
    if let Err(error) = std::fs::remove_dir_all(directory) {
        tracing::warn!(%error, "files of the gateway were left behind");
    }
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
        HeldCapsule {
            id: self.network.id(),
            generation: self.network.generation(),
            state: CapsuleState::Running,
        }
    }

    /// What this host tells a directory of it that was restored from a backup.
    pub(crate) fn asserted(&self) -> AssertedCapsule {
        AssertedCapsule {
            id: self.network.id(),
            name: self.network.name().clone(),
            owner: outside::owner(),
            locators: self.network.locators(),
            generation: self.network.generation(),
            state: CapsuleState::Running,
            offer: None,
            given_by: None,
        }
    }
}
