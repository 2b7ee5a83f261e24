//! A connect on its way: asked of the far sidecar until there is an answer that can be told to whoever connects, and what
//! becomes of one that was accepted.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use directory_api::CapsuleRecord;
use kernel::syn::Verdict;
use overlay_proto::{CapsuleId, Frame, Generation, Half, Open, OpenOutcome, Role, SessionId};

use super::surroundings::Surroundings;
use crate::capsule::network::Network;
use crate::config::SuspendedConnects;
use crate::limits::{GIVEN_UP_LOOK, RETRY_FIRST, RETRY_LONGEST, SUSPENDED_CONNECT, UNREACHABLE_AFTER};
use crate::link::Link;
use crate::policy::Denial;
use crate::session::{Facts, Keeping, OpenedRecord, Program, Record, Slot, Socket, Way};

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
    /// What the far program gets before all that ours sends.
    preamble: Bytes,
    since: Instant,
}

impl Opened {
    /// One that an earlier sidecar had on record.
    pub(super) fn again(slot: Slot, record: OpenedRecord) -> Self {
        Self {
            session: record.session,
            link: None,
            slot: Some(slot),
            peer: record.peer,
            opener_generation: record.generations.0,
            acceptor_generation: record.generations.1,
            repeated: false,
            preamble: Bytes::new(),
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
            Ok(socket) => Program::Socket(socket.after(self.preamble)),
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

    /// Gives it a place on record, if there is one.
    pub(crate) fn keep_in(&mut self, slot: Option<Slot>) {
        self.slot = slot;
    }

    /// Has the far program get these bytes before all that ours sends.
    pub(crate) fn say_first(&mut self, preamble: Bytes) {
        self.preamble = preamble;
    }

    /// How long its connection has not shown up.
    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Writes it down, so that the next sidecar knows it.
    pub(super) fn note(&self, (source, destination): (SocketAddr, SocketAddr), sequence: u32) {
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
        around.opens.give_up(self.session);
        if let Some(slot) = self.slot {
            slot.clear();
        }
        // Without a link the far side hears that the session is unknown when it attaches.
        if let Some(link) = self.link {
            link.transmit(Frame::Cancel { session: self.session });
        }
    }
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
    /// The opener's socket is not in the capsule's network, or is there already: it does not tell whether it gave up.
    unseen: bool,
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
        Self {
            network,
            around,
            source,
            destination,
            sequence,
            session,
            asked: None,
            repeated: false,
            unseen: false,
        }
    }

    /// The same, whose connection was accepted already: who has it sees whether it was given up.
    pub(crate) fn accepted(mut self) -> Self {
        self.unseen = true;
        self
    }

    /// The same, of a machine outside.
    pub(crate) fn of_machine(self) -> Self {
        self.accepted()
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
                    tracing::debug!(destination = %self.destination, error = format!("{error:#}"), "nobody says who is there");
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
                                preamble: Bytes::new(),
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
    /// nothing would come of it.
    async fn was_given_up(&self, began: Instant) -> bool {
        let (local, peer) = (self.source, self.destination);
        !self.unseen
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
            self.around.opens.give_up(self.session);
            link.transmit(Frame::Cancel { session: self.session });
        }
    }
}
