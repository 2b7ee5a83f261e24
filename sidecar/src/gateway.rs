//! Machines without a sidecar: the gateway, a role of any sidecar, by which they reach capsules, and capsules reach them;
//! and the [`Outlet`] by which capsules reach them from the host where they are.
//!
//! ```text
//!  machine ─TCP→ listener ─ half ══ link ══ half ─TCP→ program       what is published, to whoever can reach the host
//!  machine ─UDP→  socket ─ flow ══ link ══ injected ─→ program       the same
//!  machine ─TCP→ held SYN ─ half ══ link ══ half ─TCP→ program       what is routed, to `gateway_routed`, by policy
//!  machine ─UDP→   TPROXY ─ flow ══ link ══ injected ─→ program       the same
//!  machine ←TCP─    dial ─ half ══ link ══ half ←TCP─ program       the networks of `gateway_reach`, by policy
//!  machine ←UDP─   socket ─ exit ══ link ══ TPROXY ←UDP─ program      the same
//! ```
//!
//! To the mesh a gateway is one more capsule, `gateway-HOST` of the owner `outside`, which stays on its host for good: it
//! has locators, the policy judges it, sessions attach, hold and are parked as any. Its network is the host's own, and a
//! shim of its own holds the sockets, so that connections outlive this sidecar as those of capsules do. Only what is
//! outside differs: a connection that comes in at a published port gets a locator of the gateway as its source, one that is
//! routed in keeps its machine's address (`session::Ways`), and one that goes out gets an address of the host. An outlet is
//! the same, without what comes in.

mod bringing;
mod datagrams;
mod exits;
mod flows;
mod outlet;
mod outside;
mod outward;
mod own;
mod proxy_protocol;
mod publications;
mod routed;

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use directory_api::RuleId;
use overlay_proto::{CapsuleId, Datagram};
use tokio::sync::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::capsule::keeper::Connection;
use crate::capsule::network::Network;
use crate::capsule::takeover::Left;
use crate::intercept::surroundings::Surroundings;
use crate::session::Ways;
use crate::sidecar::Sidecar;

use bringing::Brought;
use exits::Exits;
pub use outlet::Outlet;
pub(crate) use outlet::recognize as recognize_outlet;
pub(crate) use outside::{establish, recognize};
pub use outward::Outward;
use own::Role;
pub(crate) use publications::{Protocol, Publication};

/// The gateway of this host.
pub struct Gateway {
    network: Arc<Network>,
    ways: Arc<Ways>,
    machine_max: usize,
    around: Surroundings,
    directory: PathBuf,
    data_plane: tokio::runtime::Handle,
    served: Mutex<Served>,
    ports: Arc<datagrams::Ports>,
}

/// What is published.
pub(crate) type Served = Vec<(Publication, Serving)>;

/// How a publication is served.
#[derive(Debug, Clone, Default)]
pub(crate) struct Serving {
    withdrawn: CancellationToken,
    /// Who has its sockets.
    tasks: TaskTracker,
}

impl Serving {
    /// Of what can't be served.
    fn not() -> Self {
        let serving = Self::default();
        serving.withdrawn.cancel();
        serving
    }

    /// Whether it is served.
    pub(crate) fn is_on(&self) -> bool {
        !self.withdrawn.is_cancelled()
    }

    async fn end(&self) {
        self.withdrawn.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Gateway {
    /// Begins to serve, with what an earlier sidecar left: sockets of its ports, and connections.
    pub(crate) async fn serve(
        sidecar: &Arc<Sidecar>,
        network: Arc<Network>,
        mut held: HashMap<String, OwnedFd>,
        mut left: Left,
    ) -> anyhow::Result<()> {
        let gateway = Arc::new(Self {
            ways: Arc::default(),
            machine_max: sidecar.config.gateway_machine_max,
            around: sidecar.around.clone(),
            directory: Role::Gateway.directory(&sidecar.data),
            data_plane: sidecar.data_plane.clone(),
            served: Mutex::default(),
            ports: Arc::default(),
            network,
        });
        let ports = gateway.ports.clone();
        let exits = Exits::new(sidecar, &gateway.network, &mut held);
        let own = gateway.network.locators();
        let out = move |datagram: Datagram| match own.contains(datagram.destination.ip()) {
            true => datagrams::let_out(&ports, &datagram),
            false => exits.send(&datagram),
        };
        gateway.network.datagrams().let_out(sidecar.config.gateway_routed.clone(), out);
        left.find_ways(&gateway.ways);
        sidecar.networks.add(gateway.network.clone());
        let mut inherited = left.inherited();
        // Before anything new comes in: what these go under is in use.
        let brought = std::mem::take(&mut inherited.brought).into_iter().map(|(slot, record, held)| {
            let way = gateway.ways.found(record.outside, record.source, record.destination);
            Brought::found(slot, record, held, way)
        });
        let brought: Vec<Brought> = brought.collect();
        left.drive(sidecar, &gateway.network).await;
        let mut served = gateway.served.lock().await;
        for publication in publications::read(&gateway.directory)? {
            let names = publication.listeners();
            let had = names.map(|name| held.remove(&name));
            if let Err(error) = gateway.begin(&mut served, publication.clone(), had).await {
                tracing::error!(port = publication.host_port, capsule = %publication.name, error = format!("{error:#}"), "what is published is not served");
                // For the list, and so that it may be published again.
                served.push((publication, Serving::not()));
            }
        }
        drop(served);
        for name in held.into_keys() {
            gateway.network.keeper().release(name);
        }
        let locators = sidecar.places.locators();
        let is_routed = |connection: &mut Connection| {
            locators.iter().any(|network| network.contains(&connection.local.ip()))
        };
        let routed = inherited.accepted.extract_if(.., is_routed).collect();
        let accepted = std::mem::replace(&mut inherited.accepted, routed);
        gateway.go_on(brought, accepted).await;
        tokio::spawn(routed::serve(gateway.clone(), sidecar.config.gateway_routed.clone(), inherited));
        tracing::info!(gateway = %gateway.network.name(), "serving machines outside");
        let _ = sidecar.gateway.set(gateway);
        Ok(())
    }

    /// What is published; held while that changes.
    pub(crate) async fn served(&self) -> MutexGuard<'_, Served> {
        self.served.lock().await
    }

    /// Connections that come from outside and go to a port of a capsule, now.
    pub(crate) fn connections_to(&self, publication: &Publication) -> usize {
        let record = self.around.places.capsule(&publication.capsule);
        record.map_or(0, |record| self.ways.count_to(&publication.destinations(&record)))
    }

    /// Connections that come from outside, now.
    pub fn connections(&self) -> usize {
        self.ways.count()
    }

    /// Connections from outside that were refused since the sidecar's start: their machines had as many as they may.
    pub fn refused(&self) -> u64 {
        self.ways.refused()
    }

    fn ports(&self) -> std::sync::MutexGuard<'_, Vec<Arc<datagrams::Port>>> {
        self.ports.lock().expect("no panics under this lock")
    }

    fn refuse_one(&self) {
        self.ways.refuse_one();
    }

    /// Who it is to the mesh.
    pub fn id(&self) -> CapsuleId {
        self.network.id()
    }

    /// Begins to serve a publication: by listeners that are there, or new ones.
    ///
    /// # Errors
    /// The port is in use; nothing is served.
    async fn begin(
        self: &Arc<Self>,
        served: &mut Served,
        mut publication: Publication,
        had: [Option<OwnedFd>; 2],
    ) -> anyhow::Result<Publication> {
        let listeners = match had {
            [None, None] => {
                let [v4, v6] = outside::listen(&self.network, &mut publication).await?;
                for (name, listener) in publication.listeners().iter().zip([&v4, &v6]) {
                    let Some(listener) = listener else { continue };
                    let held = self.network.keeper().hold(name, listener.as_fd()).await;
                    if held.is_err() {
                        self.let_listeners_go(&publication).await;
                    }
                    held.context("the gateway's shim does not hold a listener")?;
                }
                [v4, v6]
            }
            had => had,
        };
        let serving = Serving::default();
        served.push((publication.clone(), serving.clone()));
        let (gateway, of, withdrawn) = (self.clone(), publication.clone(), serving.withdrawn);
        let _entered = self.data_plane.enter();
        match publication.protocol {
            Protocol::Tcp => bringing::take(&gateway, &of, listeners, &withdrawn, &serving.tasks),
            Protocol::Udp => {
                serving.tasks.spawn(datagrams::carry(gateway, of, listeners, withdrawn));
            }
        }
        Ok(publication)
    }

    /// Publishes a port; returns what is published, with the port of this host.
    ///
    /// # Errors
    /// The port is in use, or that can't be noted; nothing is published.
    pub(crate) async fn publish(
        self: &Arc<Self>,
        served: &mut Served,
        publication: Publication,
    ) -> anyhow::Result<Publication> {
        let published = self.begin(served, publication, [None, None]).await?;
        if let Err(error) = self.note(served) {
            self.end(served, &published).await;
            return Err(error);
        }
        Ok(published)
    }

    /// Serves what could not be served when this sidecar started.
    ///
    /// # Errors
    /// The port is still in use; it stays published, and is not served.
    pub(crate) async fn serve_again(
        self: &Arc<Self>,
        served: &mut Served,
        publication: &Publication,
    ) -> anyhow::Result<()> {
        self.begin(served, publication.clone(), [None, None]).await?;
        served.retain(|(one, serving)| one != publication || serving.is_on());
        Ok(())
    }

    /// Ends a publication, whose port is free then; connections that were made go on as the policy says. Returns the rule
    /// that was made for it, unless another one needs it, which has it then.
    ///
    /// # Errors
    /// That can't be noted; it stays published.
    pub(crate) async fn withdraw(
        &self,
        served: &mut Served,
        publication: &Publication,
    ) -> anyhow::Result<Option<RuleId>> {
        let mut rest = served.clone();
        rest.retain(|(one, _)| one != publication);
        let heir = rest.iter_mut().map(|(one, _)| one).find(|one| one.needs_the_rule_of(publication));
        let rule = match heir {
            Some(heir) => {
                heir.rule = heir.rule.or(publication.rule);
                None
            }
            None => publication.rule.map(RuleId::new),
        };
        self.note(&rest)?;
        self.end(served, publication).await;
        *served = rest;
        Ok(rule)
    }

    async fn end(&self, served: &mut Served, publication: &Publication) {
        for (_, serving) in served.extract_if(.., |(one, _)| one == publication) {
            serving.end().await;
        }
        self.let_listeners_go(publication).await;
    }

    async fn let_listeners_go(&self, publication: &Publication) {
        for name in publication.listeners() {
            self.network.keeper().released(name).await;
        }
    }

    fn note(&self, served: &Served) -> anyhow::Result<()> {
        let all: Vec<_> = served.iter().map(|(publication, _)| publication.clone()).collect();
        publications::write(&self.directory, &all)
    }

    /// Goes on with connections that an earlier sidecar took, and that were on their way.
    async fn go_on(self: &Arc<Self>, brought: Vec<Brought>, accepted: Vec<Connection>) {
        let served = self.served.lock().await;
        for one in brought {
            self.data_plane.spawn(bringing::bring_again(self.clone(), one));
        }
        for connection in accepted {
            match served.iter().find(|(one, _)| one.is_at(Protocol::Tcp, connection.local.port())) {
                Some((publication, _)) => {
                    self.data_plane.spawn(bringing::bring(self.clone(), publication.clone(), connection));
                }
                None => bringing::refuse(&self.network, &connection.fd, connection.name),
            }
        }
    }
}
