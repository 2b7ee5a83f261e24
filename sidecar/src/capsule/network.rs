//! The network of one capsule on this host: its namespace, and what its shim keeps for the next sidecar.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Context;
use directory_api::outside::is_of_one_machine;
use ipnet::IpNet;
use kernel::diag::Diag;
use kernel::netns::{Netns, Worker};
use kernel::rules::{self, Interception};
use overlay_proto::{CapsuleId, CapsuleName, Generation, Half, Locators};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::keeper::Keeper;
use super::quiet::Quiet;
use super::resolver::Lookups;
use crate::datagram::Datagrams;
use crate::policy::Counts;
use crate::session::{Facts, Keeping, Program, Records, Slots};

/// Port of the interception listener: privileged and unlikely, since a program of the capsule can reach it.
pub const INTERCEPT_PORT: u16 = kernel::limits::INTERCEPT_TCP_PORT;

/// Number of the NFQUEUE in each namespace.
pub const SYN_QUEUE: u16 = 0;

/// Number of the NFQUEUE for ICMP in each namespace.
pub const ICMP_QUEUE: u16 = 1;

/// The network of one capsule.
pub struct Network {
    id: CapsuleId,
    name: CapsuleName,
    locators: Locators,
    generation: AtomicU64,
    worker: Worker,
    sockets: Arc<Mutex<Diag>>,
    /// Its programs' SYNs wait in a queue.
    holds: bool,
    quiet: Quiet,
    closed: CancellationToken,
    connecting: AtomicUsize,
    keeper: Keeper,
    slots: Arc<Slots>,
    policed: Counts,
    datagrams: Datagrams,
    lookups: Arc<Lookups>,
    /// Of a gateway or an outlet: what it lets capsules reach outside. None for a capsule.
    reach: Option<Reach>,
}

/// The addresses outside that capsules may reach by a gateway or an outlet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    networks: Vec<IpNet>,
    /// Of an outlet: only those of this host may.
    of_this_host: bool,
}

impl Reach {
    /// All addresses in these networks that mean one machine wherever they are seen.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self { networks, of_this_host: false }
    }

    /// The same, for capsules of this host alone.
    pub fn of_this_host(self) -> Self {
        Self { of_this_host: true, ..self }
    }

    /// Whether no capsules of other hosts may reach anything.
    pub fn is_of_this_host(&self) -> bool {
        self.of_this_host
    }

    /// Whether capsules may reach an address.
    pub fn contains(&self, address: IpAddr) -> bool {
        is_of_one_machine(address) && self.networks.iter().any(|network| network.contains(&address))
    }
}

/// Who the capsule is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its id.
    pub id: CapsuleId,
    /// Its name.
    pub name: CapsuleName,
    /// Its addresses.
    pub locators: Locators,
    /// Its generation.
    pub generation: Generation,
}

/// What a namespace is to become, or is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// Empty: it is set up.
    Fresh,
    /// Empty: it is set up, and nothing arrives in it yet.
    FreshAndLocked,
    /// Set up by an earlier sidecar.
    SetUp,
}

impl Network {
    /// Sets up interception in the namespace of a capsule's shim, which is to `hold` connects if the kernel can. What an
    /// earlier sidecar had on record of the capsule's sessions comes with it.
    ///
    /// # Errors
    /// The kernel refuses a part of it.
    pub fn set_up(
        who: &Identity,
        netns: &Netns,
        shim: &Path,
        state: Namespace,
        hold: bool,
    ) -> anyhow::Result<(Arc<Self>, Records)> {
        let worker = Worker::start(netns).context("entering the capsule's network namespace")?;
        let interception = Interception {
            v4: who.locators.v4,
            v6: who.locators.v6,
            tcp_port: INTERCEPT_PORT,
            udp_port: kernel::limits::INTERCEPT_UDP_PORT,
            hold,
            queue: SYN_QUEUE,
            icmp_queue: ICMP_QUEUE,
        };
        let arriving = state == Namespace::FreshAndLocked;
        let (sockets, datagrams, holds) =
            worker.run(move || -> anyhow::Result<(Diag, Datagrams, bool)> {
                match state {
                    Namespace::Fresh => rules::set_up(&interception)?,
                    Namespace::FreshAndLocked => rules::set_up_locked(&interception)?,
                    Namespace::SetUp => {}
                }
                Ok((Diag::open()?, Datagrams::open(arriving)?, rules::holds()?))
            })?;
        Self::make(who, worker, (sockets, datagrams, holds), arriving, shim, None)
    }

    /// This host's own network as that of a gateway or an outlet: nothing is set up in it, its sockets are held by a shim as a
    /// capsule's are.
    ///
    /// # Errors
    /// The shim does not answer, or the kernel refuses a part of it.
    pub fn outside(who: &Identity, shim: &Path, reach: Reach) -> anyhow::Result<(Arc<Self>, Records)> {
        let worker = Worker::start(&Netns::of_this_thread()?).context("entering this host's network")?;
        let (sockets, datagrams) = worker.run(|| -> anyhow::Result<(Diag, Datagrams)> {
            Ok((Diag::open()?, Datagrams::open_outside()?))
        })?;
        Self::make(who, worker, (sockets, datagrams, false), false, shim, Some(reach))
    }

    fn make(
        who: &Identity,
        worker: Worker,
        (sockets, datagrams, holds): (Diag, Datagrams, bool),
        arriving: bool,
        shim: &Path,
        reach: Option<Reach>,
    ) -> anyhow::Result<(Arc<Self>, Records)> {
        let (keeper, table) = Keeper::start(shim)?;
        let (slots, records) = Slots::open(table).context("reading the sessions on record")?;
        let network = Arc::new(Self {
            id: who.id,
            name: who.name.clone(),
            locators: who.locators,
            generation: AtomicU64::new(who.generation.number()),
            worker,
            sockets: Arc::new(Mutex::new(sockets)),
            holds,
            quiet: Quiet::new(arriving),
            closed: CancellationToken::new(),
            connecting: AtomicUsize::new(0),
            keeper,
            slots,
            policed: Counts::default(),
            datagrams,
            reach,
            lookups: Arc::new(Lookups::new(arriving)),
        });
        Ok((network, records))
    }

    /// The capsule.
    pub fn id(&self) -> CapsuleId {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &CapsuleName {
        &self.name
    }

    /// Its addresses.
    pub fn locators(&self) -> Locators {
        self.locators
    }

    /// Of a gateway or an outlet: what it lets capsules reach outside.
    pub fn reach(&self) -> Option<&Reach> {
        self.reach.as_ref()
    }

    /// Its generation as this host knows it.
    pub fn generation(&self) -> Generation {
        Generation::new(self.generation.load(Ordering::Acquire))
    }

    /// The directory raised the generation.
    pub fn set_generation(&self, generation: Generation) {
        self.generation.store(generation.number(), Ordering::Release);
    }

    /// Whether its programs' SYNs wait in a queue; otherwise they are accepted first. Of no meaning for a gateway.
    pub fn holds(&self) -> bool {
        self.holds
    }

    /// Whether new connections wait.
    pub fn quiet(&self) -> &Quiet {
        &self.quiet
    }

    /// The thread inside the namespace.
    pub fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Cancelled when the namespace is given up.
    pub fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// Connects that are not sessions yet.
    pub fn connecting(&self) -> usize {
        self.connecting.load(Ordering::Acquire)
    }

    /// Notes how many connects are not sessions yet.
    pub fn set_connecting(&self, count: usize) {
        self.connecting.store(count, Ordering::Release);
    }

    /// Runs `f` in the namespace, without blocking the caller's thread.
    pub async fn in_netns<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = oneshot::channel();
        self.worker.submit(move || {
            let _ = done.send(f());
        });
        result.await.expect("the worker runs every job")
    }

    /// Runs `f` with the namespace's socket diagnosis, later.
    pub fn with_sockets(&self, f: impl FnOnce(&mut Diag) + Send + 'static) {
        let sockets = self.sockets.clone();
        self.worker.submit(move || f(&mut sockets.lock().expect("no panics under this lock")));
    }

    /// Asks the namespace's socket diagnosis, without blocking the caller's thread.
    pub async fn sockets<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Diag) -> std::io::Result<T> + Send + 'static,
    ) -> std::io::Result<T> {
        let sockets = self.sockets.clone();
        self.in_netns(move || f(&mut sockets.lock().expect("no panics under this lock"))).await
    }

    /// The way to the capsule's shim.
    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Where halves of this capsule are on record.
    pub fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// What the policy did to it on this host, since the sidecar's start or its arrival.
    pub fn policed(&self) -> &Counts {
        &self.policed
    }

    /// Its datagrams.
    pub fn datagrams(&self) -> &Datagrams {
        &self.datagrams
    }

    /// What its programs ask the resolver.
    pub fn lookups(&self) -> &Arc<Lookups> {
        &self.lookups
    }

    /// Puts a half on record whose socket the shim holds as `held`; `None` when there are too many, which is told.
    pub fn keeping(&self, held: String, facts: &Facts, half: &Half, program: &Program) -> Option<Keeping> {
        let Some(slot) = self.slots.take() else {
            tracing::warn!(capsule = %self.name, "too many sessions: this one would not outlive the sidecar");
            return None;
        };
        Some(Keeping::begin(slot, held, facts, half, program))
    }

    /// Ends everything that this sidecar does in the namespace.
    pub fn close(&self) {
        self.closed.cancel();
    }
}

/// The networks of all capsules on this host.
#[derive(Clone, Default)]
pub struct Networks(Arc<Mutex<HashMap<CapsuleId, Arc<Network>>>>);

impl Networks {
    /// The network of a capsule.
    pub fn of(&self, id: &CapsuleId) -> Option<Arc<Network>> {
        self.0.lock().expect("no panics under this lock").get(id).cloned()
    }

    /// All networks.
    pub fn all(&self) -> Vec<Arc<Network>> {
        self.0.lock().expect("no panics under this lock").values().cloned().collect()
    }

    /// Adds a network.
    pub fn add(&self, network: Arc<Network>) {
        self.0.lock().expect("no panics under this lock").insert(network.id(), network);
    }

    /// Takes a network out and closes it; whoever still has something for it gets it.
    pub fn remove(&self, id: &CapsuleId) -> Option<Arc<Network>> {
        let network = self.0.lock().expect("no panics under this lock").remove(id)?;
        network.close();
        Some(network)
    }
}
