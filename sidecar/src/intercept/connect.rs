//! Connects of a capsule's programs: a SYN is held until the far side answered, then decided, and the connection
//! that the kernel completes is taken as the opener's half.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use directory_api::{CapsuleRecord, ClientError, outside};
use kernel::syn::{HeldSyn, SynQueue, Verdict};
use kernel::tcp;
use overlay_proto::{CapsuleId, Frame, Generation, Half, HostName, Open, OpenOutcome, Role, SessionId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::opens::Opens;
use crate::capsule::keeper::{Connection, LISTENER4, LISTENER6};
use crate::capsule::network::Network;
use crate::capsule::quiet::State;
use crate::config::SuspendedConnects;
use crate::datagram::Forwarder;
use crate::limits::{
    ACCEPT_TIMEOUT, GIVEN_UP_LOOK, HANDSHAKE_LOOK, HANDSHAKE_TIMEOUT, RETRY_FIRST, RETRY_LONGEST,
    SUSPENDED_CONNECT, UNREACHABLE_AFTER,
};
use crate::link::Link;
use crate::places::Places;
use crate::policy::Denial;
use crate::session::{
    BroughtRecord, Facts, Keeping, OpenedRecord, Program, Record, Routes, Slot, Socket, Table, Way,
};
use crate::watched::{Watched, watch};

/// What connects need of the sidecar.
#[derive(Clone)]
pub struct Surroundings {
    /// Where capsules are.
    pub places: Places,
    /// Links.
    pub routes: Arc<Routes>,
    /// Sessions.
    pub table: Table,
    /// Waiting OPENs.
    pub opens: Opens,
    /// Datagrams.
    pub datagrams: Forwarder,
    /// The gateway by which capsules of this host reach machines outside; without one they don't.
    pub outside_via: Option<HostName>,
}

impl Surroundings {
    /// Who answers at an address: the capsule that has it, or the gateway to what is outside.
    ///
    /// # Errors
    /// The directory does not say whether a capsule has it.
    async fn peer_at(&self, address: IpAddr) -> Result<Option<CapsuleRecord>, ClientError> {
        if let Some(capsule) = self.places.at(address).await? {
            return Ok(Some(capsule));
        }
        let Some(via) = self.outside_via.as_ref().filter(|_| outside::is_of_one_machine(address)) else {
            return Ok(None);
        };
        let Ok(name) = outside::name_at(via) else { return Ok(None) };
        let gateway = self.places.of_name(&name).await?;
        Ok(gateway.filter(|record| record.is_outside() && record.host == *via))
    }
}

/// Source and destination of a connect.
type Pair = (SocketAddr, SocketAddr);

struct Dialling {
    held: HeldSyn,
    cancel: CancellationToken,
}

/// An open session whose program's connection has not shown up at the listener yet.
pub(crate) struct Opened {
    session: SessionId,
    /// None when an earlier sidecar opened it.
    link: Option<Arc<Link>>,
    /// Where it is on record for the next one.
    slot: Option<Slot>,
    peer: CapsuleId,
    opener_generation: Generation,
    acceptor_generation: Generation,
    /// The OPEN went out more than once: the acceptor may have tried to attach meanwhile.
    repeated: bool,
    since: Instant,
}

type Outcome = (Pair, u32, Result<Opened, Verdict>);

/// The connects of one capsule.
pub struct Connector {
    network: Arc<Network>,
    around: Surroundings,
    queue: SynQueue,
    queue_ready: Watched,
    listeners: [Watched; 2],
    dialling: HashMap<Pair, Dialling>,
    /// SYNs that came, or whose dials were given up, while it is quiet.
    waiting: Vec<HeldSyn>,
    opened: HashMap<Pair, (u32, Opened)>,
    outcomes: (mpsc::Sender<Outcome>, mpsc::Receiver<Outcome>),
}

/// What an earlier sidecar left of the interception of a capsule.
#[derive(Default)]
pub struct Inherited {
    /// The listeners of IPv4 and IPv6.
    pub listeners: Option<[OwnedFd; 2]>,
    /// Connects that were answered.
    pub opened: Vec<(Slot, OpenedRecord)>,
    /// Connections that were accepted.
    pub accepted: Vec<Connection>,
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
    pub async fn open(
        network: Arc<Network>,
        around: Surroundings,
        inherited: Inherited,
    ) -> anyhow::Result<Self> {
        let had = inherited.listeners.is_some();
        let [listener4, listener6] = match inherited.listeners {
            Some(listeners) => listeners,
            None => network.worker().run(|| {
                let port = crate::capsule::network::INTERCEPT_PORT;
                Ok::<_, io::Error>([tcp::listen(false, port)?, tcp::listen(true, port)?])
            })?,
        };
        if !had {
            network.keeper().hold(LISTENER4, listener4.as_fd()).await?;
            network.keeper().hold(LISTENER6, listener6.as_fd()).await?;
        }
        let queue = network.worker().run(|| SynQueue::open(crate::capsule::network::SYN_QUEUE))?;
        let queue_ready = watch(queue.as_fd().try_clone_to_owned()?)?;
        let listeners = [watch(listener4)?, watch(listener6)?];
        let mut connector = Self {
            network,
            around,
            queue,
            queue_ready,
            listeners,
            dialling: HashMap::new(),
            waiting: Vec::new(),
            opened: HashMap::new(),
            outcomes: mpsc::channel(1024),
        };
        for (slot, record) in inherited.opened {
            let pair = (record.source, record.destination);
            connector.opened.insert(pair, (record.sequence, Opened::again(slot, record)));
        }
        for connection in inherited.accepted {
            connector.on_accept(connection);
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
        let mut sweep = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                () = closed.cancelled() => break,
                ready = self.queue_ready.readable() => {
                    if let Ok(mut ready) = ready { ready.clear_ready(); }
                    self.on_queue();
                }
                _ = quiet.changed() => {
                    let state = *quiet.borrow_and_update();
                    self.on_quiet(state).await;
                }
                Some(outcome) = self.outcomes.1.recv() => self.on_outcome(outcome),
                Ok(()) = readable(&self.listeners[0]) => self.accept_all(0).await,
                Ok(()) = readable(&self.listeners[1]) => self.accept_all(1).await,
                _ = sweep.tick() => self.sweep(),
            }
            self.network.set_connecting(self.dialling.len() + self.opened.len());
        }
        for (_, dialling) in self.dialling.drain() {
            dialling.cancel.cancel();
        }
        for (_, (_, opened)) in self.opened.drain() {
            opened.give_up(&self.around);
        }
    }

    fn on_queue(&mut self) {
        loop {
            match self.queue.next() {
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
        if self.opened.get(&pair).is_some_and(|(sequence, _)| *sequence == syn.sequence) {
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
        if let Some((_, opened)) = self.opened.remove(&pair) {
            opened.give_up(&self.around);
        }
        if let Some(old) = self.dialling.remove(&pair) {
            old.cancel.cancel();
            self.decide(old.held, Verdict::Drop);
        }
        let cancel = CancellationToken::new();
        let session = session_of(self.network.id(), &syn);
        let (network, around) = (self.network.clone(), self.around.clone());
        let dial = Dial::new(network, around, pair, syn.sequence, session);
        let outcomes = self.outcomes.0.clone();
        let (sequence, cancelled) = (syn.sequence, cancel.clone());
        self.dialling.insert(pair, Dialling { held: syn, cancel });
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
                opened.slot = self.network.slots().take();
                opened.note(pair, sequence);
                self.opened.insert(pair, (sequence, opened));
                Verdict::Deliver
            }
            Err(verdict) => verdict,
        };
        self.decide(dialling.held, verdict);
    }

    fn decide(&mut self, syn: HeldSyn, verdict: Verdict) {
        if let Err(error) = self.queue.decide(syn, verdict) {
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
    fn on_accept(&mut self, Connection { name, fd, local, peer }: Connection) {
        // A SYN that was sent again before this connection was complete is in the queue by now. It is answered while
        // it can be told from that of a new connection.
        self.on_queue();
        let Some((_, opened)) = self.opened.remove(&(peer, local)) else {
            tracing::warn!(capsule = %self.network.name(), from = %peer, to = %local, "a connection that was not asked for");
            let _ = tcp::reset(&fd);
            self.network.keeper().release(name);
            return;
        };
        opened.begin(&self.around, &self.network, (name, fd), (peer, local), None);
    }

    /// The capsule is about to leave, or stays after all. What is given up starts anew at the target, where the
    /// kernel sends the SYN again.
    async fn on_quiet(&mut self, state: State) {
        match state {
            State::Open => {
                for syn in std::mem::take(&mut self.waiting) {
                    self.on_syn(syn);
                }
            }
            State::Quiet => {}
            State::Shut => {
                for (_, dialling) in self.dialling.drain() {
                    dialling.cancel.cancel();
                    self.waiting.push(dialling.held);
                }
                self.take_what_was_let_through().await;
                self.network.set_connecting(0);
                self.network.quiet().acknowledge();
            }
        }
    }

    /// A connection whose SYN was let through comes to be on this host alone, in microseconds; on a busy one the kernel
    /// may put that off. One that would be complete after the capsule was captured would be in nobody's snapshot. What
    /// does not come was given up by its program.
    async fn take_what_was_let_through(&mut self) {
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        loop {
            for at in [0, 1] {
                self.accept_all(at).await;
            }
            if self.opened.is_empty() || Instant::now() > deadline {
                break;
            }
            tokio::time::sleep(HANDSHAKE_LOOK).await;
        }
        for (_, (_, opened)) in self.opened.drain() {
            opened.give_up(&self.around);
        }
    }

    fn sweep(&mut self) {
        let late = self.opened.extract_if(|_, (_, opened)| opened.since.elapsed() >= ACCEPT_TIMEOUT);
        late.for_each(|(_, (_, opened))| opened.give_up(&self.around));
    }
}

impl Opened {
    /// One that an earlier sidecar had on record.
    fn again(slot: Slot, record: OpenedRecord) -> Self {
        Self {
            session: record.session,
            link: None,
            slot: Some(slot),
            peer: record.peer,
            opener_generation: record.generations.0,
            acceptor_generation: record.generations.1,
            repeated: false,
            since: Instant::now(),
        }
    }

    /// The program's connection is there, which the shim holds by its name, between these addresses: its session begins.
    pub(crate) fn begin(
        self,
        around: &Surroundings,
        network: &Network,
        (name, fd): (String, OwnedFd),
        (local, remote): (SocketAddr, SocketAddr),
        way: Option<Arc<Way>>,
    ) {
        let facts =
            Facts { own: network.id(), peer: self.peer, local, remote, began: SystemTime::now(), way };
        let key = (self.session, Role::Opener);
        let mut half =
            Half::new(self.session, Role::Opener, self.opener_generation, self.acceptor_generation);
        if self.repeated {
            half.link_lost();
            half.link_up();
        }
        let program = match Socket::new(fd, None) {
            Ok(socket) => Program::Socket(socket),
            Err(error) => {
                tracing::error!(%error, "a connection can't be watched");
                self.give_up(around);
                return;
            }
        };
        let keeping = match self.slot {
            Some(slot) => Some(Keeping::begin(slot, name, &facts, &half, &program)),
            None => network.keeping(name, &facts, &half, &program),
        };
        let early = || around.opens.finish(self.session);
        if !around.table.begin(half, facts, program, keeping, self.link, early) {
            tracing::error!(session = %key.0, "there is a session of this name already");
        }
    }

    /// Gives it a place on record.
    pub(crate) fn keep_in(&mut self, slot: Slot) {
        self.slot = Some(slot);
    }

    fn note(&self, (source, destination): Pair, sequence: u32) {
        let Some(slot) = &self.slot else { return };
        let record = OpenedRecord {
            session: self.session,
            peer: self.peer,
            generations: (self.opener_generation, self.acceptor_generation),
            source,
            destination,
            sequence,
        };
        if let Err(error) = slot.write(&Record::Opened(record)) {
            tracing::error!(session = %self.session, %error, "a connection is not on record");
        }
    }

    pub(crate) fn give_up(self, around: &Surroundings) {
        around.opens.finish(self.session);
        if let Some(slot) = self.slot {
            slot.clear();
        }
        // Without a link the far side hears that the session is unknown when it attaches.
        if let Some(link) = self.link {
            link.transmit(Frame::Cancel { session: self.session });
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

/// One connect on its way to the far program.
pub(crate) struct Dial {
    network: Arc<Network>,
    around: Surroundings,
    source: SocketAddr,
    destination: SocketAddr,
    sequence: u32,
    session: SessionId,
    /// The link that the last OPEN went out on, unless its session has begun.
    asked: Option<Arc<Link>>,
    /// It may have gone out before, and may have been answered.
    repeated: bool,
}

impl Dial {
    /// A connect between these addresses, that asks for `session`.
    pub(crate) fn new(
        network: Arc<Network>,
        around: Surroundings,
        (source, destination): (SocketAddr, SocketAddr),
        sequence: u32,
        session: SessionId,
    ) -> Self {
        Self { network, around, source, destination, sequence, session, asked: None, repeated: false }
    }

    /// The same, asked for by an earlier sidecar, perhaps.
    pub(crate) fn again(mut self) -> Self {
        self.repeated = true;
        self
    }

    /// Asks until there is an answer that can be told to the program.
    pub(crate) async fn run(mut self) -> Result<Opened, Verdict> {
        let session = self.session;
        let began = Instant::now();
        let mut pause = RETRY_FIRST;
        // Since when the peer's host can't be reached: other reasons to wait don't count.
        let mut unreachable: Option<Instant> = None;
        loop {
            if self.was_given_up(began).await {
                return Err(Verdict::Drop);
            }
            let peer = match self.around.peer_at(self.destination.ip()).await {
                Ok(Some(peer)) => peer,
                Ok(None) => return Err(Verdict::Unreachable),
                Err(error) if began.elapsed() > UNREACHABLE_AFTER => {
                    tracing::debug!(destination = %self.destination, %error, "nobody says who is there");
                    return Err(Verdict::Unreachable);
                }
                Err(_) => {
                    self.around.places.changed_or(pause).await;
                    pause = (pause * 2).min(RETRY_LONGEST);
                    continue;
                }
            };
            if crate::places::can_never_answer(&peer) {
                return Err(Verdict::Unreachable);
            }
            if peer.suspension.is_some() {
                // Nobody is there who would say so.
                if self.is_denied(&peer, true).await {
                    return Err(Verdict::Unreachable);
                }
                match self.around.routes.patience().suspended_connects {
                    SuspendedConnects::Refuse => return Err(Verdict::Unreachable),
                    // The program's own kernel gave up in its own time.
                    SuspendedConnects::Wait if began.elapsed() > SUSPENDED_CONNECT => {
                        return Err(Verdict::Drop);
                    }
                    SuspendedConnects::Wait => {}
                }
                self.around.places.changed_or(SUSPENDED_CONNECT.saturating_sub(began.elapsed())).await;
                continue;
            }
            let tried = Instant::now();
            match self.around.routes.link(peer.id, &peer.host).await {
                Ok(link) => {
                    unreachable = None;
                    let opener_generation = self.network.generation();
                    let asked = self.ask(&link, session, peer.id, opener_generation, peer.generation).await;
                    match asked {
                        // The far program hears that it was given up.
                        Some(OpenOutcome::Accepted { .. }) if self.was_given_up(began).await => {
                            return Err(Verdict::Drop);
                        }
                        Some(OpenOutcome::Accepted { generation }) => {
                            self.asked = None;
                            return Ok(Opened {
                                session,
                                link: Some(link),
                                slot: None,
                                peer: peer.id,
                                opener_generation,
                                acceptor_generation: generation,
                                repeated: self.repeated,
                                since: Instant::now(),
                            });
                        }
                        Some(OpenOutcome::Refused) => return Err(Verdict::Refuse),
                        Some(OpenOutcome::Unreachable) => return Err(Verdict::Unreachable),
                        Some(OpenOutcome::Denied) if self.was_outdated(opener_generation).await => {}
                        Some(OpenOutcome::Denied) => {
                            self.is_denied(&peer, false).await;
                            return Err(Verdict::Unreachable);
                        }
                        // The program's own kernel gives up in its own time.
                        Some(OpenOutcome::TimedOut) => return Err(Verdict::Drop),
                        Some(OpenOutcome::NotHere) => {
                            let _ = self.around.places.refresh(&peer.id).await;
                        }
                        Some(OpenOutcome::Wait) => {}
                        None => self.repeated = true,
                    }
                }
                Err(error) => {
                    tracing::debug!(destination = %self.destination, error = format!("{error:#}"), "connect waits");
                    if unreachable.get_or_insert(tried).elapsed() > UNREACHABLE_AFTER {
                        return Err(Verdict::Unreachable);
                    }
                }
            }
            self.around.places.changed_or(pause).await;
            pause = (pause * 2).min(RETRY_LONGEST);
        }
    }

    /// Whether the program closed its socket while this took long: nobody repeats its SYN then, and on any network
    /// nothing would come of it. Of a gateway, whose connection is there, others see to that.
    async fn was_given_up(&self, began: Instant) -> bool {
        let (local, peer) = (self.source, self.destination);
        self.network.reach().is_none()
            && began.elapsed() > GIVEN_UP_LOOK
            && matches!(self.network.sockets(move |sockets| sockets.find(local, peer)).await, Ok(None))
    }

    /// Whether an OPEN of this generation was denied only because the directory has given the capsule a newer one: the
    /// end of an offer does that while programs connect, and this host may learn of it last.
    async fn was_outdated(&self, generation: Generation) -> bool {
        let own = self.network.id();
        let newer = |record: CapsuleRecord| record.generation > generation;
        self.network.generation() != generation
            || self.around.places.refresh(&own).await.is_ok()
                && self.around.places.capsule(&own).is_some_and(newer)
    }

    /// Whether the policy, as this host knows it, forbids the connect, which is counted then. The host of the peer
    /// decides; this is for when it can't, and for telling why it did.
    async fn is_denied(&self, peer: &CapsuleRecord, ask: bool) -> bool {
        let places = &self.around.places;
        let Some(own) = places.capsule(&self.network.id()) else { return false };
        let port = self.destination.port();
        let judged = match ask {
            true => places.policy().judge_now(&own, peer, port).await,
            false => places.policy().judge(&own, peer, port),
        };
        let Some(judgement) = judged.filter(|judgement| !judgement.is_allowed()) else { return false };
        let denial = Denial { from: own.id, to: peer.id, port, at: SystemTime::now(), judgement };
        self.network.policed().denied_out(denial.clone());
        places.policy().totals().denied_out(denial);
        true
    }

    /// Sends OPEN and waits for the ANSWER; `None` when the link went down meanwhile.
    async fn ask(
        &mut self,
        link: &Arc<Link>,
        session: SessionId,
        acceptor: CapsuleId,
        opener_generation: Generation,
        acceptor_generation: Generation,
    ) -> Option<OpenOutcome> {
        let answer = self.around.opens.expect(session, link);
        self.asked = Some(link.clone());
        link.transmit(Frame::Open(Open {
            session,
            source: self.source,
            destination: self.destination,
            sequence: self.sequence,
            opener: self.network.id(),
            opener_generation,
            acceptor,
            acceptor_generation,
        }));
        tokio::select! {
            outcome = answer => outcome.ok(),
            () = link.gone() => None,
        }
    }
}

impl Drop for Dial {
    fn drop(&mut self) {
        if let Some(link) = self.asked.take() {
            self.around.opens.finish(self.session);
            link.transmit(Frame::Cancel { session: self.session });
        }
    }
}
