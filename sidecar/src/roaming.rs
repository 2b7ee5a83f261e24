//! Follows what happens to this host: its addresses change, its cable is pulled and plugged, it sleeps and wakes. And
//! looks after links that became silent without any of that.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kernel::changes::{Changes, Network, source_towards};
use kernel::clocks::{Clocks, Wakes};
use overlay_proto::HostName;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::limits::{LINK_LOOK, RETRY_FIRST, RETRY_LONGEST, SETTLE_NETWORK, STANDSTILL};
use crate::link::Link;
use crate::sidecar::Sidecar;
use crate::watched::{Watched, watch};

/// Follows this host for the life of the sidecar; must be called on the data plane's runtime.
pub(crate) async fn follow(sidecar: Arc<Sidecar>) {
    match Roaming::start(sidecar) {
        Ok(roaming) => roaming.run().await,
        Err(error) => {
            tracing::error!(%error, "changes of this host's network can't be followed; links end by their time-outs");
        }
    }
}

struct Roaming {
    sidecar: Arc<Sidecar>,
    changes: Changes,
    wakes: Wakes,
    clocks: Clocks,
    network: Network,
    /// From which address this host sends to the directory and to the far end of each link.
    sources: BTreeMap<SocketAddr, Option<IpAddr>>,
    /// Hosts to which another link is dialled beside a silent one.
    redialling: Arc<Mutex<HashSet<HostName>>>,
}

impl Roaming {
    fn start(sidecar: Arc<Sidecar>) -> io::Result<Self> {
        // Listened to before it is read, so that no change falls between.
        let changes = Changes::listen()?;
        let network = Network::read()?;
        Ok(Self {
            sidecar,
            changes,
            wakes: Wakes::listen()?,
            clocks: Clocks::read(),
            network,
            sources: BTreeMap::new(),
            redialling: Arc::default(),
        })
    }

    async fn run(mut self) {
        let watched = |fd: std::os::fd::BorrowedFd<'_>| watch(fd.try_clone_to_owned()?);
        let (changed, woken) = match (watched(self.changes.as_fd()), watched(self.wakes.as_fd())) {
            (Ok(changed), Ok(woken)) => (changed, woken),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "changes of this host's network can't be followed");
                return;
            }
        };
        let mut looks = interval(LINK_LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = readable(&changed) => self.on_change().await,
                () = readable(&woken) => drop(self.wakes.take()),
                _ = looks.tick() => {}
            }
            self.look_at_clocks();
            self.look_at_links();
        }
    }

    /// Something of the network changed: most of what is told concerns nobody here.
    async fn on_change(&mut self) {
        sleep(SETTLE_NETWORK).await;
        if let Err(error) = self.changes.take() {
            tracing::debug!(%error, "word of a change was lost");
        }
        let network = match Network::read() {
            Ok(network) => network,
            Err(error) => {
                tracing::warn!(%error, "the host's addresses can't be read");
                return;
            }
        };
        let sources = self.sources.keys().map(|to| (*to, source_towards(*to).ok())).collect();
        let same = network == self.network && sources == self.sources;
        (self.network, self.sources) = (network, sources);
        if !same {
            self.rouse("the host's network changed");
        }
    }

    fn look_at_clocks(&mut self) {
        let now = Clocks::read();
        let before = std::mem::replace(&mut self.clocks, now);
        if let Some(pause) = standstill(&before, &now) {
            self.rouse(&format!("the host slept or stood still for {:.1} s", pause.as_secs_f64()));
        }
    }

    fn look_at_links(&mut self) {
        for link in self.sidecar.links.look() {
            self.redial(link);
        }
        let links = self.sidecar.links.all();
        let far = links.iter().filter_map(|link| Some(link.connection()?.remote_address()));
        let wanted: HashSet<SocketAddr> = self.sidecar.dns.all().into_iter().chain(far).collect();
        self.sources.retain(|to, _| wanted.contains(to));
        for to in wanted {
            self.sources.entry(to).or_insert_with(|| source_towards(to).ok());
        }
    }

    /// Nothing that was found out about ways to other hosts can be relied on.
    fn rouse(&self, why: &str) {
        let towards_directory =
            self.sidecar.dns.all().iter().find_map(|to| self.sources.get(to).copied().flatten());
        let listen = listen_at(self.sidecar.config.listen.ip(), &self.network, towards_directory);
        tracing::info!(why, "every link tries its way anew");
        for host in self.sidecar.links.rouse(&self.network.addresses, listen) {
            let sidecar = self.sidecar.clone();
            tokio::spawn(async move {
                if let Ok(address) = sidecar.places.address_of(&host, None).await
                    && let Err(error) = sidecar.links.to(&host, address).await
                {
                    tracing::debug!(%error, "no link from the new address");
                }
            });
        }
        self.sidecar.places.nudge();
    }

    /// Dials another link beside one that is silent, until either is heard or nobody waits for it.
    fn redial(&self, link: Arc<Link>) {
        let redialling = self.redialling.clone();
        if !redialling.lock().expect("no panics under this lock").insert(link.host.clone()) {
            return;
        }
        tracing::info!(host = %link.host, serial = link.serial, "the link is silent; another one is dialled");
        let sidecar = self.sidecar.clone();
        tokio::spawn(async move {
            let mut pause = RETRY_FIRST;
            while link.is_silent() && !link.is_down() {
                if let Ok(address) = sidecar.places.address_of(&link.host, None).await
                    && let Err(error) = sidecar.links.anew(&link, address).await
                {
                    tracing::debug!(%error, "no other link");
                }
                sleep(pause).await;
                pause = (pause * 2).min(RETRY_LONGEST);
            }
            redialling.lock().expect("no panics under this lock").remove(&link.host);
        });
    }
}

async fn readable(watched: &Watched) {
    if let Ok(mut ready) = watched.readable().await {
        ready.clear_ready();
    }
}

/// How long the host slept or this process stood still between two looks, if it matters.
fn standstill(before: &Clocks, now: &Clocks) -> Option<Duration> {
    let pause = now.slept_since(before).max(now.awake_since(before).saturating_sub(LINK_LOOK));
    (pause >= STANDSTILL).then_some(pause)
}

/// Where to take links: where the settings say, or, when that address has left the host, where the directory sees it.
fn listen_at(configured: IpAddr, network: &Network, towards_directory: Option<IpAddr>) -> IpAddr {
    if configured.is_unspecified() || network.addresses.contains(&configured.to_canonical()) {
        return configured;
    }
    towards_directory.filter(|address| address.is_ipv4() == configured.is_ipv4()).unwrap_or(configured)
}

#[cfg(test)]
mod tests;
