//! The task of one half: joins the pure session core to the program's connection and to the link.
//!
//! ```text
//!  program ⇄ kernel queues ──peek──→ Outgoing ──stream──→ link
//!                          ←─send─── Incoming ←─stream─── link
//!                                Half (core): offsets, attach, ends
//! ```
//! The loop has one closed set of steps ([`Step`]); what they mean is decided by the core. A driver ends when its
//! session ended, or when it is parked because its capsule leaves.

mod clock;
mod patience;
mod peer;
mod policy;

use std::sync::Arc;

use kernel::user_timeout::ProgramSocket;
use overlay_proto::{Action, EndKind, Frame, Half, Role, State, StreamHeader};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant};

use super::aside::{Looks, Unanswered};
use super::flow::{Incoming, IncomingStep, Outgoing, OutgoingStep};
use super::linger::{Linger, Resetting};
use super::program::Program;
use super::route::{Finding, Route, Routes};
use super::window::Window;
use super::{Facts, Keeping, Key, Parked, SessionView};
use crate::limits::{ACCEPT_LOOK_FIRST, REPORT_DELAY};
use crate::link::{Link, Receiver};
use clock::sleep_until;
use peer::found;

/// What others tell a driver.
#[derive(Debug)]
pub enum Event {
    /// A control frame for this half.
    Frame(Arc<Link>, Frame),
    /// The same, and the directory was asked just now: its host may speak for the peer. So many times the session had
    /// been opened again when the frame came.
    Checked(Arc<Link>, Frame, u64),
    /// A data stream for this half.
    Data(Arc<Link>, StreamHeader, Receiver),
    /// A link is gone.
    LinkDown(u64),
    /// The directory's record of the peer or of our capsule changed.
    PlaceChanged,
    /// The policy changed.
    PolicyChanged,
    /// The directory was asked for the peer's record.
    Asked,
    /// The program has accepted its connection.
    Accepted,
    /// Our capsule is about to leave: stop sending and agree on amounts.
    Hold(oneshot::Sender<()>),
    /// The move was undone.
    Release,
    /// Hand the half over, with how it stands, and end.
    Park(oneshot::Sender<(Parked, SessionView)>),
    /// Tell how it stands.
    Describe(oneshot::Sender<SessionView>),
    /// The program's own socket, which was looked for.
    ProgramSocket(ProgramSocket),
    /// The other side sent its OPEN again, for the so manieth time: it may not know what came of the first one. Answered
    /// unless the session is ending.
    Reopened(Arc<Link>, oneshot::Sender<()>, u64),
    /// The other side gave up a connect whose answer came too late.
    Cancelled(Arc<Link>),
    /// The program of the other side began a new connection between the same addresses.
    Superseded,
    /// The other side has gone where the session can't go: both programs see a reset. Answered when that is on record, with
    /// whether the session was not over before.
    LeftBehind(oneshot::Sender<bool>),
}

enum Step {
    Event(Option<Event>),
    Outgoing(OutgoingStep),
    Incoming(IncomingStep),
    ProgramFailed,
    Route(Route),
    Tick,
}

/// Why a driver stopped.
pub(super) enum Stopped {
    /// The half was parked.
    Parked(oneshot::Sender<(Parked, SessionView)>, Box<(Parked, SessionView)>),
    /// The session is over, and its connection closed.
    Over(Option<Keeping>),
}

/// One half at work.
pub(super) struct Driver {
    facts: Facts,
    half: Half,
    program: Program,
    keeping: Option<Keeping>,
    mailbox: mpsc::Receiver<Event>,
    routes: Arc<Routes>,
    link: Option<Arc<Link>>,
    outgoing: Outgoing,
    incoming: Incoming,
    window: Window,
    finding: Option<Finding>,
    held: Option<oneshot::Sender<()>>,
    /// How often the other side has sent its OPEN again.
    reopened: u64,
    /// Our own capsule is leaving: no attach on our part.
    holding: bool,
    /// The program's connection was reset and the core knows.
    failed: bool,
    report_at: Option<Instant>,
    accept_look: Option<(Instant, Duration)>,
    /// When a program behind which a reset waits last took something.
    stall_since: Option<Instant>,
    resetting: Option<Resetting>,
    linger: Option<Linger>,
    /// Since when the other side is away.
    away_since: Option<Instant>,
    looks: Looks,
    unanswered: Unanswered,
    /// The state of the policy by which the session was last judged.
    judged: Option<u64>,
    /// The policy has ended the session; that is done once.
    forbidden: bool,
}

impl Driver {
    pub(super) fn new(parked: Parked, routes: Arc<Routes>, link: Option<Arc<Link>>) -> Self {
        let Parked { facts, half, program, keeping, mailbox } = parked;
        let unaccepted = half.role() == Role::Acceptor && !half.is_accepted();
        // A session that was over when its capsule left still has its program's kernel to wait for.
        let linger = half.outcome().map(|_| Linger::new());
        let incoming = Incoming::among(routes.stalls());
        let window = Window::open(&routes.budget(), facts.own, &program, half.consumed());
        Self {
            facts,
            half,
            program,
            keeping,
            mailbox,
            routes,
            link,
            outgoing: Outgoing::default(),
            incoming,
            window,
            finding: None,
            held: None,
            reopened: 0,
            holding: false,
            failed: false,
            report_at: None,
            accept_look: unaccepted.then(|| (Instant::now() + ACCEPT_LOOK_FIRST, ACCEPT_LOOK_FIRST)),
            stall_since: None,
            resetting: None,
            linger,
            away_since: None,
            looks: Looks::default(),
            unanswered: Unanswered::default(),
            judged: None,
            forbidden: false,
        }
    }

    /// Runs until the session is over or the half was parked.
    pub(super) async fn run(mut self) -> Stopped {
        loop {
            self.obey_policy();
            self.act();
            if self.linger.as_ref().is_some_and(|linger| linger.is_over(&self.program)) {
                return Stopped::Over(self.keeping);
            }
            self.look_for_link();
            self.watch_hold();
            self.watch_user_timeout();
            let ahead = self.half.bytes_sent() - self.half.consumed();
            let deadline = self.deadline();
            let step = tokio::select! {
                biased;
                event = self.mailbox.recv() => Step::Event(event),
                step = self.outgoing.step(&self.program, ahead) => Step::Outgoing(step),
                step = self.incoming.step(&self.program) => Step::Incoming(step),
                () = self.program.error(), if !self.failed => Step::ProgramFailed,
                route = found(&mut self.finding) => Step::Route(route),
                () = sleep_until(deadline) => Step::Tick,
            };
            match step {
                Step::Event(None) => return Stopped::Over(self.keeping),
                Step::Event(Some(Event::Park(reply))) => {
                    let view = self.describe();
                    return Stopped::Parked(reply, Box::new((self.into_parked(), view)));
                }
                Step::Event(Some(event)) => self.on_event(event),
                Step::Outgoing(step) => self.on_outgoing(step),
                Step::Incoming(step) => self.on_incoming(step),
                Step::ProgramFailed => self.program_failed(),
                Step::Route(route) => self.on_route(route),
                Step::Tick => self.on_tick(),
            }
        }
    }

    fn into_parked(self) -> Parked {
        let Self { facts, half, program, keeping, mailbox, .. } = self;
        Parked { facts, half, program, keeping, mailbox }
    }

    fn key(&self) -> Key {
        (self.half.id(), self.half.role())
    }

    /// Carries out what the core wants.
    fn act(&mut self) {
        loop {
            // Before anything is sent that depends on it.
            if let Some(keeping) = &mut self.keeping {
                keeping.note(&self.half, &self.program);
            }
            let Some(action) = self.half.poll() else { return };
            tracing::trace!(session = %self.half.id(), role = ?self.half.role(), ?action);
            match action {
                Action::Transmit(frame) => {
                    if let Some(link) = &self.link {
                        link.transmit(frame);
                    }
                }
                Action::StartSending { key, offset } => {
                    let to = self.half.role().other();
                    self.start_sending(StreamHeader { session: self.half.id(), to, key, offset });
                }
                Action::StopSending => self.outgoing.stop(),
                Action::StartReceiving { key, offset } => self.incoming.start(key, offset),
                Action::StopReceiving => self.incoming.stop(),
                Action::Consume { bytes } => {
                    self.forget_prefix(bytes);
                    self.window.consumed(&self.program, self.half.consumed(), self.half.bytes_sent());
                    if let Err(error) = self.program.consume(bytes) {
                        tracing::error!(session = %self.half.id(), bytes, %error, "acknowledged bytes can't be consumed");
                    }
                }
                Action::DiscardOutgoing => {
                    self.outgoing.discard();
                    self.stall_since = Some(Instant::now());
                }
                Action::ApplyEnd(EndKind::Fin) => {
                    self.program.shutdown();
                    self.half.end_applied();
                }
                Action::ApplyEnd(EndKind::Reset) => self.resetting = Some(Resetting::new(&self.program)),
                Action::HoldAgreed => self.hold_agreed(),
                Action::AskDirectory => self.routes.ask(self.key(), self.facts.peer),
                Action::Ended(outcome) => {
                    tracing::debug!(session = %self.half.id(), ?outcome, "session ended");
                    self.linger.get_or_insert_with(Linger::new);
                    self.hold_agreed();
                }
            }
        }
    }

    /// The other half has the byte before the receive queue: that is on record before more is consumed.
    fn forget_prefix(&mut self, bytes: u64) {
        if bytes > 0
            && let (Program::Socket(socket), Some(keeping)) = (&self.program, &mut self.keeping)
            && socket.prefix().is_some()
            && let Err(error) = keeping.note_prefix(None, socket.fd())
        {
            tracing::error!(session = %self.half.id(), %error, "a byte that was taken ahead stays on record");
        }
    }

    fn hold_agreed(&mut self) {
        if let Some(held) = self.held.take() {
            let _ = held.send(());
        }
    }

    fn start_sending(&mut self, header: StreamHeader) {
        let Some(link) = self.link.clone() else { return };
        if let Err(error) = self.program.seek(header.offset - self.half.consumed()) {
            tracing::error!(session = %self.half.id(), %error, "the peek offset can't be set");
        }
        self.outgoing.start(link, header);
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Frame(link, frame) => self.on_frame(link, &frame, false),
            // It says that the opener did not know the session before it asked for it.
            Event::Checked(_, Frame::Unknown { .. }, reopened) if reopened < self.reopened => {}
            Event::Checked(link, frame, _) => self.on_frame(link, &frame, true),
            Event::Data(link, header, stream) => self.on_data(&link, header, stream),
            Event::LinkDown(serial) => {
                if self.link.as_ref().is_some_and(|link| link.serial == serial) {
                    self.detach();
                }
            }
            Event::PlaceChanged => self.on_place_changed(),
            // Every turn of the loop looks at it.
            Event::PolicyChanged => {}
            Event::Asked => self.refresh_generations(),
            Event::Accepted => self.seen_accepted(),
            Event::Hold(agreed) => {
                self.holding = true;
                self.finding = None;
                self.held = Some(agreed);
                match self.linger {
                    Some(_) => self.hold_agreed(),
                    None => self.half.hold(),
                }
            }
            Event::Release => {
                self.holding = false;
                self.half.release();
            }
            Event::Describe(reply) => {
                let _ = reply.send(self.describe());
            }
            Event::Reopened(link, lives, times) => {
                self.reopened = times;
                if !matches!(self.half.state(), State::Closing | State::Ended) {
                    let _ = lives.send(());
                    self.adopt(link);
                }
            }
            Event::ProgramSocket(socket) => {
                if let Err(error) = self.on_program_socket(&socket) {
                    tracing::error!(session = %self.half.id(), %error, "the program's TCP_USER_TIMEOUT stays as it is");
                }
            }
            Event::Cancelled(link) if self.speaks_for_peer(&link) => self.half.peer_gone(),
            Event::Cancelled(_) => {}
            Event::Superseded => self.half.peer_gone(),
            Event::LeftBehind(ended) => {
                let lived = self.linger.is_none();
                self.half.peer_gone();
                self.act();
                let _ = ended.send(lived);
            }
            Event::Park(_) => {}
        }
    }

    fn on_outgoing(&mut self, step: OutgoingStep) {
        tracing::trace!(session = %self.half.id(), ?step);
        match step {
            OutgoingStep::Sent(bytes) => {
                self.half.sent(bytes as u64);
                self.seen_accepted();
            }
            OutgoingStep::Ended(kind) => {
                self.outgoing.end();
                if !self.failed {
                    self.half.local_end(kind);
                }
                self.seen_accepted();
            }
            OutgoingStep::ProgramFailed => self.program_failed(),
            OutgoingStep::StreamBroke => self.detach(),
        }
    }

    fn on_incoming(&mut self, step: IncomingStep) {
        tracing::trace!(session = %self.half.id(), ?step);
        match step {
            IncomingStep::Delivered(bytes) => {
                self.half.delivered(bytes as u64);
                if self.half.unreported() > 0 {
                    self.report_at.get_or_insert_with(|| Instant::now() + REPORT_DELAY);
                }
                if let Some(since) = &mut self.stall_since {
                    *since = Instant::now();
                }
            }
            IncomingStep::ProgramFailed => self.program_failed(),
            IncomingStep::StreamEnded => {}
            IncomingStep::Room => {
                self.incoming.stop();
                if self.link.is_some() && !self.holding {
                    self.half.link_lost();
                    self.half.link_up();
                }
            }
        }
    }

    /// The program's connection was reset: what it sent before still goes to the other half, then the reset.
    fn program_failed(&mut self) {
        if std::mem::replace(&mut self.failed, true) {
            return;
        }
        self.incoming.stop();
        self.half.local_reset(self.half.consumed() + self.program.queued());
    }

    fn seen_accepted(&mut self) {
        if self.accept_look.take().is_some() {
            self.half.accepted();
        }
    }

    fn describe(&self) -> SessionView {
        let state = match self.half.state() {
            State::Open if self.outgoing.is_stalled() => "parked",
            State::Open => "open",
            State::Held | State::Detached => "held",
            State::Closing | State::Ended => "closing",
        };
        SessionView {
            id: self.half.id(),
            role: self.half.role(),
            facts: self.facts.clone(),
            state,
            bytes_in: self.half.bytes_in(),
            bytes_out: self.half.bytes_out(),
            buffered_bytes: self.program.queued() + u64::from(self.program.unacknowledged()),
            limit_bytes: self.window.bytes(),
        }
    }
}
