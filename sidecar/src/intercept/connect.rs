//! Connects of a capsule's programs: a SYN is held until the far side answered, then decided, and the connection
//! that the kernel completes is taken as the opener's half.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kernel::syn::{HeldSyn, SynQueue, Verdict};
use kernel::tcp;
use overlay_proto::{CapsuleId, Frame, Generation, Half, Open, OpenOutcome, Role, SessionId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::opens::Opens;
use crate::capsule::network::Network;
use crate::capsule::quiet::State;
use crate::limits::{ACCEPT_TIMEOUT, RETRY_FIRST, RETRY_LONGEST, UNREACHABLE_AFTER};
use crate::link::Link;
use crate::places::Places;
use crate::session::{Facts, Program, Routes, Socket, Table};
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
}

/// Source and destination of a connect.
type Pair = (SocketAddr, SocketAddr);

struct Dialling {
    held: HeldSyn,
    cancel: CancellationToken,
}

/// An open session whose program's connection has not shown up at the listener yet.
struct Opened {
    session: SessionId,
    link: Arc<Link>,
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

impl Connector {
    /// Opens queue and listeners in the capsule's network; must be called on the data plane's runtime.
    ///
    /// # Errors
    /// The kernel refuses one of them.
    pub fn open(network: Arc<Network>, around: Surroundings) -> io::Result<Self> {
        let (queue, listener4, listener6) = network.worker().run(|| {
            let port = crate::capsule::network::INTERCEPT_PORT;
            let queue = SynQueue::open(crate::capsule::network::SYN_QUEUE)?;
            Ok::<_, io::Error>((queue, tcp::listen(false, port)?, tcp::listen(true, port)?))
        })?;
        let queue_ready = watch(queue.as_fd().try_clone_to_owned()?)?;
        let listeners = [watch(listener4)?, watch(listener6)?];
        Ok(Self {
            network,
            around,
            queue,
            queue_ready,
            listeners,
            dialling: HashMap::new(),
            waiting: Vec::new(),
            opened: HashMap::new(),
            outcomes: mpsc::channel(1024),
        })
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
                _ = quiet.changed() => self.on_quiet(*quiet.borrow_and_update()),
                Some(outcome) = self.outcomes.1.recv() => self.on_outcome(outcome),
                Ok(accepted) = accept(&self.listeners[0]) => self.on_accept(accepted),
                Ok(accepted) = accept(&self.listeners[1]) => self.on_accept(accepted),
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
        let dial = Dial {
            network: self.network.clone(),
            around: self.around.clone(),
            source: syn.source,
            destination: syn.destination,
            sequence: syn.sequence,
            session: SessionId::from_bytes(crate::random::bytes()),
            asked: None,
        };
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
            Ok(opened) => {
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

    /// The program's connection is there: its session begins.
    fn on_accept(&mut self, (fd, local, peer): (OwnedFd, SocketAddr, SocketAddr)) {
        // A SYN that was sent again before this connection was complete is in the queue by now. It is answered while
        // it can be told from that of a new connection.
        self.on_queue();
        let Some((_, opened)) = self.opened.remove(&(peer, local)) else {
            tracing::warn!(capsule = %self.network.name(), from = %peer, to = %local, "a connection that was not asked for");
            let _ = tcp::reset(&fd);
            return;
        };
        let facts = Facts {
            own: self.network.id(),
            peer: opened.peer,
            local: peer,
            remote: local,
            began: SystemTime::now(),
        };
        let key = (opened.session, Role::Opener);
        let mut half =
            Half::new(opened.session, Role::Opener, opened.opener_generation, opened.acceptor_generation);
        if opened.repeated {
            half.link_lost();
            half.link_up();
        }
        let _ = tcp::set_receive_buffer(&fd, crate::limits::RECEIVE_BUFFER_BYTES);
        self.network.keep(key, fd.as_fd());
        let program = match Socket::new(fd, None) {
            Ok(socket) => Program::Socket(socket),
            Err(error) => {
                tracing::error!(%error, "a connection can't be watched");
                opened.give_up(&self.around);
                return;
            }
        };
        let early = || self.around.opens.finish(opened.session);
        if !self.around.table.begin(half, facts, program, opened.link, early) {
            tracing::error!(session = %key.0, "there is a session of this name already");
        }
    }

    /// The capsule is about to leave, or stays after all. What is given up starts anew at the target, where the
    /// kernel sends the SYN again.
    fn on_quiet(&mut self, state: State) {
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
                // A connection whose SYN was let through is complete, since all of it happens on this host.
                for at in 0..self.listeners.len() {
                    while let Ok(Some(accepted)) = tcp::accept(self.listeners[at].get_ref()) {
                        self.on_accept(accepted);
                    }
                }
                self.network.set_connecting(self.opened.len());
                self.network.quiet().acknowledge();
            }
        }
    }

    fn sweep(&mut self) {
        let around = &self.around;
        self.opened.retain(|_, (_, opened)| {
            let keep = opened.since.elapsed() < ACCEPT_TIMEOUT;
            if !keep {
                opened.give_up(around);
            }
            keep
        });
    }
}

impl Opened {
    fn give_up(&self, around: &Surroundings) {
        around.opens.finish(self.session);
        self.link.transmit(Frame::Cancel { session: self.session });
    }
}

async fn accept(listener: &Watched) -> io::Result<(OwnedFd, SocketAddr, SocketAddr)> {
    loop {
        let mut ready = listener.readable().await?;
        match tcp::accept(listener.get_ref())? {
            Some(accepted) => return Ok(accepted),
            None => ready.clear_ready(),
        }
    }
}

/// One connect on its way to the far program.
struct Dial {
    network: Arc<Network>,
    around: Surroundings,
    source: SocketAddr,
    destination: SocketAddr,
    sequence: u32,
    session: SessionId,
    /// The link that the last OPEN went out on, unless its session has begun.
    asked: Option<Arc<Link>>,
}

impl Dial {
    /// Asks until there is an answer that can be told to the program.
    async fn run(mut self) -> Result<Opened, Verdict> {
        let session = self.session;
        let began = Instant::now();
        let mut pause = RETRY_FIRST;
        let mut repeated = false;
        loop {
            let Some(peer) = self.around.places.by_locator(self.destination.ip()).await else {
                return Err(Verdict::Unreachable);
            };
            if crate::places::can_never_answer(&peer) {
                return Err(Verdict::Unreachable);
            }
            match self.around.routes.link(peer.id, &peer.host).await {
                Ok(link) => {
                    let opener_generation = self.network.generation();
                    let asked = self.ask(&link, session, peer.id, opener_generation, peer.generation).await;
                    match asked {
                        Some(OpenOutcome::Accepted { generation }) => {
                            self.asked = None;
                            return Ok(Opened {
                                session,
                                link,
                                peer: peer.id,
                                opener_generation,
                                acceptor_generation: generation,
                                repeated,
                                since: Instant::now(),
                            });
                        }
                        Some(OpenOutcome::Refused) => return Err(Verdict::Refuse),
                        Some(OpenOutcome::Unreachable | OpenOutcome::Denied) => {
                            return Err(Verdict::Unreachable);
                        }
                        // The program's own kernel gives up in its own time.
                        Some(OpenOutcome::TimedOut) => return Err(Verdict::Drop),
                        Some(OpenOutcome::NotHere) => {
                            let _ = self.around.places.refresh(&peer.id).await;
                        }
                        Some(OpenOutcome::Wait) => {}
                        None => repeated = true,
                    }
                }
                Err(error) => {
                    tracing::debug!(destination = %self.destination, error = format!("{error:#}"), "connect waits");
                    if began.elapsed() > UNREACHABLE_AFTER {
                        return Err(Verdict::Unreachable);
                    }
                }
            }
            self.around.places.changed_or(pause).await;
            pause = (pause * 2).min(RETRY_LONGEST);
        }
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
