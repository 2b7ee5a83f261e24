//! What a driver needs of its surroundings: where the peer is, a link to it, and the capsule's own network.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use directory_api::policy::Judgement;
use directory_api::{ApiError, CapsuleRecord};
use overlay_proto::{CapsuleId, Frame, Generation, HostName, Role};

use super::programs::{Processes, Programs};
use super::turns::Stalls;
use super::{Budget, BufferLimits, Event, Facts, Keeping, Key, Table};
use crate::capsule::network::Networks;
use crate::config::SuspendedConnects;
use crate::limits::{CHECKS, RETRY_FIRST, RETRY_LONGEST};
use crate::link::{Link, Links};
use crate::places::Places;

/// The way to the other half.
pub enum Route {
    /// A link to the host where the directory places the peer.
    Link(Arc<Link>),
    /// The peer capsule exists no more.
    Removed,
}

/// Where the directory places a peer, as far as this host knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerPlace {
    /// On this host.
    At(HostName),
    /// In a capsule file.
    Suspended,
    /// The capsule was removed.
    Removed,
    /// Not known yet.
    Unknown,
}

/// A future that ends with a route.
pub(super) type Finding = std::pin::Pin<Box<dyn Future<Output = Route> + Send>>;

/// The surroundings of all drivers.
pub struct Routes {
    places: Places,
    networks: Networks,
    links: OnceLock<Links>,
    table: OnceLock<Table>,
    /// Frames that wait for the directory's word, one for each half and link.
    checking: Mutex<HashSet<(Key, u64)>>,
    patience: OnceLock<Patience>,
    budget: OnceLock<Budget>,
    programs: Arc<Programs>,
    stalls: Stalls,
}

/// How long this host waits for capsules that are away.
#[derive(Debug, Clone, Copy, Default)]
pub struct Patience {
    /// After this time a session whose other side is away is given up; `None`: never.
    pub hold_max: Option<Duration>,
    /// What becomes of connects to a suspended capsule.
    pub suspended_connects: SuspendedConnects,
}

impl Routes {
    /// Surroundings that lack links and table until [`Self::complete`].
    pub fn new(places: Places, networks: Networks) -> Arc<Self> {
        let (links, table, checking) = (OnceLock::new(), OnceLock::new(), Mutex::default());
        Arc::new(Self {
            places,
            networks,
            links,
            table,
            checking,
            patience: OnceLock::new(),
            budget: OnceLock::new(),
            programs: Arc::default(),
            stalls: Stalls::default(),
        })
    }

    /// Gives the parts that need this one to be made first.
    pub fn complete(&self, links: Links, table: Table) {
        let _ = self.links.set(links);
        let _ = self.table.set(table);
    }

    /// Sets how long this host waits; without it, for ever.
    pub fn set_patience(&self, patience: Patience) {
        let _ = self.patience.set(patience);
    }

    /// How long this host waits.
    pub fn patience(&self) -> Patience {
        self.patience.get().copied().unwrap_or_default()
    }

    /// Sets what receive buffers may take; without it, as much as they like.
    pub fn set_budget(&self, limits: BufferLimits) {
        let _ = self.budget.set(Budget::new(limits));
    }

    /// The streams on this host whose programs have no room.
    pub(super) fn stalls(&self) -> Stalls {
        self.stalls.clone()
    }

    /// The budgets of receive buffers.
    pub fn budget(&self) -> Budget {
        self.budget.get_or_init(|| Budget::new(BufferLimits::NONE)).clone()
    }

    /// Sets where the processes of a capsule are found; without it, they are not.
    pub fn set_processes(&self, processes: Processes) {
        self.programs.complete(processes);
    }

    /// Looks for the program's own socket of a half, soon, and gives it a duplicate if TCP_USER_TIMEOUT is set in it, or
    /// `always`.
    pub(super) fn look_for_socket(&self, key: Key, facts: &Facts, always: bool) {
        self.programs.look(self.table().clone(), key, facts, always);
    }

    /// Gives the halves of a capsule duplicates of the programs' sockets in which TCP_USER_TIMEOUT is set. They are in
    /// the mailboxes when this returns. Blocks.
    pub fn show_sockets(&self, own: &CapsuleId) {
        self.programs.show_all(self.table(), own);
    }

    fn links(&self) -> &Links {
        self.links.get().expect("completed before the first session")
    }

    fn table(&self) -> &Table {
        self.table.get().expect("completed before the first session")
    }

    /// Where the peer is.
    pub fn peer(&self, peer: &CapsuleId) -> PeerPlace {
        match self.places.capsule(peer) {
            Some(record) if record.suspension.is_some() => PeerPlace::Suspended,
            Some(record) => PeerPlace::At(record.host),
            None if self.places.was_removed(peer) => PeerPlace::Removed,
            None => PeerPlace::Unknown,
        }
    }

    /// May this host speak for the peer? (D8)
    pub fn places_peer_at(&self, peer: &CapsuleId, host: &HostName) -> bool {
        self.places.capsule(peer).is_some_and(|record| record.host == *host && record.suspension.is_none())
    }

    /// The generations of opener and acceptor as the directory has them.
    pub fn generations(&self, facts: &Facts, role: Role) -> Option<(Generation, Generation)> {
        let own = self.places.capsule(&facts.own)?.generation;
        let peer = self.places.capsule(&facts.peer)?.generation;
        Some(match role {
            Role::Opener => (own, peer),
            Role::Acceptor => (peer, own),
        })
    }

    /// How often the policy changed.
    pub fn policy_changes(&self) -> u64 {
        self.places.policy().changes()
    }

    /// Whether the policy forbids a session whose server is on this host. What is not known yet forbids nothing: the
    /// half is told when it is.
    pub fn forbids(&self, facts: &Facts) -> Option<Judgement> {
        let (client, server) = (self.places.capsule(&facts.peer)?, self.places.capsule(&facts.own)?);
        let judgement = self.places.policy().judge(&client, &server, facts.local.port())?;
        (!judgement.is_allowed()).then_some(judgement)
    }

    /// Counts a session that the policy ended.
    pub fn ended_by_policy(&self, own: &CapsuleId) {
        self.places.policy().totals().ended();
        if let Some(network) = self.networks.of(own) {
            network.policed().ended();
        }
    }

    /// Finds a link to the peer's host, however long it takes.
    pub fn find(self: &Arc<Self>, peer: CapsuleId) -> Finding {
        let routes = self.clone();
        Box::pin(async move {
            let mut pause = RETRY_FIRST;
            loop {
                match routes.peer(&peer) {
                    PeerPlace::Removed => return Route::Removed,
                    // No time passes by which anything were better: the directory tells when it is resumed.
                    PeerPlace::Suspended => {
                        let resumed = |record: Option<&CapsuleRecord>| {
                            record.is_none_or(|record| record.suspension.is_none())
                        };
                        routes.places.wait_until(&peer, resumed).await;
                        pause = RETRY_FIRST;
                        continue;
                    }
                    PeerPlace::At(host) => match routes.link(peer, &host).await {
                        // It may have left while the link came up.
                        Ok(_) if routes.peer(&peer) != PeerPlace::At(host) => continue,
                        Ok(link) => return Route::Link(link),
                        Err(error) => {
                            tracing::debug!(%peer, error = format!("{error:#}"), "no way to the peer")
                        }
                    },
                    PeerPlace::Unknown => {
                        let _ = routes.places.refresh(&peer).await;
                    }
                }
                routes.places.changed_or(pause).await;
                pause = (pause * 2).min(RETRY_LONGEST);
            }
        })
    }

    /// Asks the directory for the peer's record and tells the half when it has been asked.
    pub fn ask(self: &Arc<Self>, key: Key, peer: CapsuleId) {
        let routes = self.clone();
        tokio::spawn(async move {
            // A half that asks again and again is slowed down here.
            tokio::time::sleep(RETRY_FIRST).await;
            if let Err(error) = routes.places.refresh(&peer).await {
                tracing::debug!(%peer, error = format!("{error:#}"), "the directory was asked in vain");
            }
            let _ = routes.table().tell(&key, Event::Asked);
        });
    }

    /// The link to a host, if it is up.
    pub fn existing_link(&self, host: &HostName) -> Option<Arc<Link>> {
        self.links().existing(host)
    }

    /// A link to the host of a capsule.
    ///
    /// # Errors
    /// The host has no known address or can't be reached.
    pub async fn link(&self, capsule: CapsuleId, host: &HostName) -> anyhow::Result<Arc<Link>> {
        if let Some(link) = self.links().existing(host) {
            return Ok(link);
        }
        let address = self.places.address_of(host, Some(&capsule)).await?;
        Ok(self.links().to(host, address).await?)
    }

    /// Asks the directory whether a host that sent a frame for a half may speak for the peer, and passes the
    /// frame on if it may. One question at a time for each half and link: what comes meanwhile is dropped, and told
    /// again at the next attach. `reopened` says how often the session had been opened again when the frame came.
    pub fn check_later(
        self: &Arc<Self>,
        key: Key,
        peer: CapsuleId,
        link: Arc<Link>,
        frame: Frame,
        reopened: u64,
    ) {
        let routes = self.clone();
        let check = (key, link.serial);
        {
            let mut checking = self.checking.lock().expect("no panics under this lock");
            if checking.len() >= CHECKS || !checking.insert(check) {
                return;
            }
        }
        tokio::spawn(async move {
            let may_speak = routes.is_placed_at(&peer, &link).await;
            routes.checking.lock().expect("no panics under this lock").remove(&check);
            if may_speak {
                let _ = routes.table().tell(&key, Event::Checked(link, frame, reopened));
            } else {
                tracing::warn!(session = %key.0, host = %link.host, "a host spoke for a capsule that is not placed there");
            }
        });
    }

    /// Whether the directory places a capsule at the host of a link, asked for as long as it says nothing about that: who
    /// waits for an answer over a link that is up does not speak again.
    async fn is_placed_at(&self, peer: &CapsuleId, link: &Link) -> bool {
        let mut pause = RETRY_FIRST;
        while !link.is_down() {
            let asked = self.places.refresh(peer).await;
            // The watch may have brought it meanwhile.
            if self.places_peer_at(peer, &link.host) {
                return true;
            }
            let answered = asked.map_or_else(|error| error.is::<ApiError>(), |()| true);
            if answered {
                return false;
            }
            self.places.changed_or(pause).await;
            pause = (pause * 2).min(RETRY_LONGEST);
        }
        false
    }

    /// Finds out whether the program has accepted its connection, and tells the half if so.
    pub fn look_accepted(self: &Arc<Self>, key: Key, facts: &Facts) {
        let Some(network) = self.networks.of(&facts.own) else { return };
        let table = self.table().clone();
        let (local, remote) = (facts.local, facts.remote);
        network.with_sockets(move |sockets| {
            if let Ok(Some(socket)) = sockets.find(local, remote)
                && socket.inode != 0
            {
                let _ = table.tell(&key, Event::Accepted);
            }
        });
    }

    /// A session of this capsule is over: the shim lets its connection go.
    pub fn let_go(&self, own: &CapsuleId, keeping: Keeping) {
        let held = keeping.end();
        if let Some(network) = self.networks.of(own) {
            network.keeper().release(held);
        }
    }
}
