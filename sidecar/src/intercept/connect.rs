//! Connects of a capsule's programs: a SYN is held until the far side answered, then decided, and the connection
//! that the kernel completes is taken as the opener's half.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::syn::{HeldSyn, SynQueue, Verdict, WhenFull};
use overlay_proto::{CapsuleId, SessionId};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::accepted::{self, AcceptedFirst};
use super::dial::{Dial, Opened};
use super::door::{Door, Machines};
use super::surroundings::Surroundings;
use crate::capsule::keeper::{Connection, LISTENER4, LISTENER6};
use crate::capsule::network::Network;
use crate::capsule::quiet::State;
use crate::limits::{ACCEPT_TIMEOUT, OPENED_LOOK, SUSPENDED_CONNECT};
use crate::session::{AcceptedRecord, BroughtRecord, OpenedRecord, Slot, Way};
use crate::watched::{self, Watched, watch};

mod leaving;

/// Source and destination of a connect.
type Pair = (SocketAddr, SocketAddr);

struct Dialling {
    held: HeldSyn,
    cancel: CancellationToken,
    way: Option<Way>,
    since: Instant,
}

type Outcome = (Pair, u32, Result<Opened, Verdict>);

/// A connect that was let through, whose connection is not there yet.
struct Answered {
    sequence: u32,
    opened: Opened,
    way: Option<Way>,
}

/// The connects of one capsule, or of the machines that route locators to a gateway.
pub struct Connector {
    network: Arc<Network>,
    around: Surroundings,
    /// None where the kernel has no queues.
    queue: Option<(SynQueue, Watched)>,
    /// None where no connection is accepted unless somebody was asked.
    first: Option<AcceptedFirst>,
    listeners: [Watched; 2],
    /// None for a capsule.
    machines: Option<Machines>,
    dialling: HashMap<Pair, Dialling>,
    /// SYNs that came, or whose dials were given up, while it is quiet.
    waiting: Vec<HeldSyn>,
    opened: HashMap<Pair, Answered>,
    outcomes: (mpsc::Sender<Outcome>, mpsc::Receiver<Outcome>),
}

/// What an earlier sidecar left of the interception of a capsule.
#[derive(Default)]
pub struct Inherited {
    /// The listeners of IPv4 and IPv6.
    pub listeners: Option<[OwnedFd; 2]>,
    /// Connects that were answered.
    pub opened: Vec<(Slot, OpenedRecord)>,
    /// Connections that were accepted, of which nothing is on record.
    pub accepted: Vec<Connection>,
    /// Connections that were accepted first and asked for.
    pub asked: Vec<(Slot, AcceptedRecord, OwnedFd)>,
    /// Of a gateway: connections from outside that were on their way.
    pub brought: Vec<(Slot, BroughtRecord, OwnedFd)>,
    /// The resolver's sockets.
    pub resolver: Option<[OwnedFd; 2]>,
    /// The sockets for datagrams of IPv4 and IPv6.
    pub datagrams: Option<[OwnedFd; 2]>,
}

impl Connector {
    /// Opens queue and listeners in the capsule's network; must be called on the data plane's runtime.
    ///
    /// # Errors
    /// The kernel refuses one of them.
    pub(crate) async fn open(
        network: Arc<Network>,
        around: Surroundings,
        door: Door,
        inherited: Inherited,
    ) -> anyhow::Result<Self> {
        let Door { queue, listen, machines } = door;
        let had = inherited.listeners.is_some();
        let [listener4, listener6] = match inherited.listeners {
            Some(listeners) => listeners,
            None => network.worker().run(move || {
                let port = crate::capsule::network::INTERCEPT_PORT;
                Ok::<_, io::Error>([listen(false, port)?, listen(true, port)?])
            })?,
        };
        if !had {
            network.keeper().hold(LISTENER4, listener4.as_fd()).await?;
            network.keeper().hold(LISTENER6, listener6.as_fd()).await?;
        }
        let first = match machines {
            None => AcceptedFirst::open(network.clone(), around.clone()).await,
            Some(_) => None,
        };
        let queue = match queue {
            Some(number) => {
                let when_full = if first.is_some() { around.holding.when_full } else { WhenFull::Drop };
                let held_max = around.holding.held_max;
                let queue = network.worker().run(move || SynQueue::open(number, held_max, when_full))?;
                let ready = watch(queue.as_fd().try_clone_to_owned()?)?;
                Some((queue, ready))
            }
            None => None,
        };
        let listeners = [watch(listener4)?, watch(listener6)?];
        let mut connector = Self {
            network,
            around,
            queue,
            first,
            listeners,
            machines,
            dialling: HashMap::new(),
            waiting: Vec::new(),
            opened: HashMap::new(),
            outcomes: mpsc::channel(1024),
        };
        for (slot, record) in inherited.opened {
            let pair = (record.source, record.destination);
            let (sequence, way) = (record.sequence, connector.machines.as_ref().map(|it| it.found(pair)));
            connector.opened.insert(pair, Answered { sequence, opened: Opened::again(slot, record), way });
        }
        for connection in inherited.accepted {
            connector.on_accept(connection);
        }
        for (slot, record, fd) in inherited.asked {
            connector.on_asked(slot, record, fd);
        }
        // What came while nobody looked does not show as an event.
        for at in [0, 1] {
            connector.accept_all(at).await;
        }
        Ok(connector)
    }

    /// Runs until the capsule's network is closed.
    pub async fn run(mut self) {
        let closed = self.network.closed();
        let mut quiet = self.network.quiet().watch();
        if let Some(first) = &self.first {
            // It may have changed since the connector was opened.
            first.follow_quiet().await;
        }
        let mut sweep = tokio::time::interval(Duration::from_secs(1));
        let mut look = tokio::time::interval(OPENED_LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = closed.cancelled() => break,
                () = watched::readable(&self.queue) => self.on_queue(),
                () = accepted::ended(&mut self.first) => {}
                _ = quiet.changed() => {
                    let state = *quiet.borrow_and_update();
                    self.on_quiet(state).await;
                }
                Some(outcome) = self.outcomes.1.recv() => self.on_outcome(outcome),
                Ok(()) = readable(&self.listeners[0]) => self.accept_all(0).await,
                Ok(()) = readable(&self.listeners[1]) => self.accept_all(1).await,
                _ = look.tick(), if self.machines.is_none() && !self.opened.is_empty() => {
                    self.give_up_closed().await;
                }
                _ = sweep.tick() => self.sweep(),
            }
            let first = self.first.as_ref().map_or(0, AcceptedFirst::count);
            self.network.set_connecting(self.dialling.len() + self.opened.len() + first);
        }
        for (_, dialling) in self.dialling.drain() {
            dialling.cancel.cancel();
        }
        self.give_up_opened();
    }

    fn on_queue(&mut self) {
        loop {
            let Some((queue, _)) = &mut self.queue else { return };
            match queue.next() {
                Ok(Some(syn)) => self.on_syn(syn),
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(capsule = %self.network.name(), %error, "a queued SYN was lost");
                    return;
                }
            }
        }
    }

    /// A SYN comes again after a second with the same number; another number is another connect.
    fn on_syn(&mut self, syn: HeldSyn) {
        let pair = (syn.source, syn.destination);
        if self.opened.get(&pair).is_some_and(|answered| answered.sequence == syn.sequence) {
            self.decide(syn, Verdict::Deliver);
            return;
        }
        if self.dialling.get(&pair).is_some_and(|dialling| dialling.held.sequence == syn.sequence) {
            // One held packet is enough to answer the program.
            self.decide(syn, Verdict::Drop);
            return;
        }
        if self.network.quiet().state() != State::Open {
            self.waiting.push(syn);
            return;
        }
        if let Some(Answered { opened, .. }) = self.opened.remove(&pair) {
            opened.give_up(&self.around);
        }
        if let Some(old) = self.dialling.remove(&pair) {
            old.cancel.cancel();
            self.decide(old.held, Verdict::Drop);
        }
        let way = match self.machines.as_ref().map(|machines| machines.admit(pair)).transpose() {
            Ok(way) => way,
            Err(verdict) => return self.decide(syn, verdict),
        };
        let cancel = CancellationToken::new();
        let session = session_of(self.network.id(), &syn);
        let (network, around) = (self.network.clone(), self.around.clone());
        let dial = Dial::new(network, around, pair, syn.sequence, session);
        let dial = if way.is_some() { dial.of_machine() } else { dial };
        let outcomes = self.outcomes.0.clone();
        let (sequence, cancelled) = (syn.sequence, cancel.clone());
        self.dialling.insert(pair, Dialling { held: syn, cancel, way, since: Instant::now() });
        tokio::spawn(async move {
            if let Some(outcome) = cancelled.run_until_cancelled_owned(dial.run()).await {
                let _ = outcomes.send((pair, sequence, outcome)).await;
            }
        });
    }

    fn on_outcome(&mut self, (pair, sequence, outcome): Outcome) {
        // The dial may have been given up, for a new one among others, after it had its answer.
        let is_this = |dialling: &mut Dialling| dialling.held.sequence == sequence;
        let Some(dialling) =
            self.dialling.get_mut(&pair).is_some_and(is_this).then(|| self.dialling.remove(&pair)).flatten()
        else {
            if let Ok(opened) = outcome {
                opened.give_up(&self.around);
            }
            return;
        };
        let verdict = match outcome {
            Ok(mut opened) => {
                // On record before the program hears of it.
                opened.keep_in(self.network.slots().take());
                opened.note(pair, sequence);
                self.opened.insert(pair, Answered { sequence, opened, way: dialling.way });
                Verdict::Deliver
            }
            Err(verdict) => verdict,
        };
        self.decide(dialling.held, verdict);
    }

    fn decide(&mut self, syn: HeldSyn, verdict: Verdict) {
        let Some((queue, _)) = &mut self.queue else { return };
        if let Err(error) = queue.decide(syn, verdict) {
            tracing::warn!(capsule = %self.network.name(), %error, "a held SYN can't be decided");
        }
    }

    /// Has the shim accept what waits at one of the listeners.
    async fn accept_all(&mut self, at: usize) {
        let listener = [LISTENER4, LISTENER6][at];
        loop {
            match self.network.keeper().accept(listener).await {
                Ok(connections) if connections.is_empty() => return,
                Ok(connections) => connections.into_iter().for_each(|connection| self.on_accept(connection)),
                Err(error) => {
                    tracing::error!(capsule = %self.network.name(), %error, "connections can't be accepted");
                    return;
                }
            }
        }
    }

    /// The program's connection is there: its session begins.
    fn on_accept(&mut self, connection: Connection) {
        // A SYN that was sent again before this connection was complete is in the queue by now. It is answered while
        // it can be told from that of a new connection.
        self.on_queue();
        let pair = (connection.peer, connection.local);
        if let Some(Answered { opened, way, .. }) = self.opened.remove(&pair) {
            let Connection { name, fd, .. } = connection;
            opened.begin(&self.around, &self.network, (name, fd), pair, way.map(Arc::new));
            return;
        }
        // Its SYN was held once, and found the queue full when it was sent again.
        if let Some(dialling) = self.dialling.remove(&pair) {
            dialling.cancel.cancel();
            self.decide(dialling.held, Verdict::Drop);
        }
        match &mut self.first {
            Some(first) => first.ask(connection),
            None => self.refuse(&connection.fd, connection.name, pair),
        }
    }

    /// A connection that an earlier sidecar accepted first: this one may be set to do without.
    fn on_asked(&mut self, slot: Slot, record: AcceptedRecord, fd: OwnedFd) {
        match &mut self.first {
            Some(first) => first.ask_again(slot, record, fd),
            None => {
                self.around.opens.give_up(record.session);
                slot.clear();
                self.refuse(&fd, record.held, (record.source, record.destination));
            }
        }
    }

    fn refuse(&self, fd: &OwnedFd, held: String, (from, to): Pair) {
        tracing::warn!(capsule = %self.network.name(), %from, %to, "a connection that was not asked for");
        accepted::refuse(&self.network, fd, held);
    }

    /// A program may close its socket just before its SYN is let through. Nothing answers the handshake then, and the far
    /// program would have a connection that nobody has.
    async fn give_up_closed(&mut self) {
        let is_late = |answered: &Answered| answered.opened.age() >= OPENED_LOOK;
        let late = self.opened.iter().filter(|(_, answered)| is_late(answered));
        let mut pairs: Vec<Pair> = late.map(|(pair, _)| *pair).collect();
        if pairs.is_empty() {
            return;
        }
        let closed = self.network.sockets(move |sockets| {
            pairs.retain(|(local, peer)| matches!(sockets.find(*local, *peer), Ok(None)));
            Ok(pairs)
        });
        let closed = closed.await.unwrap_or_default();
        // One that was made before it was closed is at the listener.
        for at in [0, 1] {
            self.accept_all(at).await;
        }
        for pair in closed {
            if let Some(Answered { opened, .. }) = self.opened.remove(&pair) {
                opened.give_up(&self.around);
            }
        }
    }

    fn sweep(&mut self) {
        let late = self.opened.extract_if(|_, answered| answered.opened.age() >= ACCEPT_TIMEOUT);
        late.for_each(|(_, answered)| answered.opened.give_up(&self.around));
        if self.machines.is_none() {
            return;
        }
        // Nothing here tells that a machine outside has given up; its kernel has by then.
        let is_late = |dialling: &mut Dialling| dialling.since.elapsed() >= SUSPENDED_CONNECT;
        let late: Vec<_> = self.dialling.extract_if(|_, dialling| is_late(dialling)).collect();
        for (_, dialling) in late {
            dialling.cancel.cancel();
            self.decide(dialling.held, Verdict::Drop);
        }
    }
}

/// Waits until there may be something at a listener.
async fn readable(listener: &Watched) -> io::Result<()> {
    listener.readable().await?.clear_ready();
    Ok(())
}

/// The session of a connect. It follows from the SYN, so that one that is sent again, to the next sidecar or on the
/// next host, asks for the same session.
fn session_of(capsule: CapsuleId, syn: &HeldSyn) -> SessionId {
    let mut hasher = blake3::Hasher::new_derive_key("capsule session of a connect 1");
    hasher.update(capsule.as_bytes());
    hasher.update(format!("{} {} {}", syn.source, syn.destination, syn.sequence).as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    SessionId::from_bytes(id)
}
