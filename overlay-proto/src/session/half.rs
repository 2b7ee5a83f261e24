//! The half: its inputs, outputs and views. What the inputs do is in the files beside this one.

use std::collections::VecDeque;

use super::action::{Action, Outcome, State, StreamVerdict, Violation};
use super::incoming::Incoming;
use super::key::{AttachKey, Generations, Role};
use super::outgoing::Outgoing;
use crate::frame::{Attach, Frame, Position, StreamHeader};
use crate::id::{Generation, SessionId};
use crate::limits::{ACTIONS_MAX, REPORT_BYTES};

/// One side of one session.
///
/// The shell calls an input for each thing that happened, then [`Half::poll`] until it is empty, and carries the
/// actions out in that order before it does anything else for the session. Frames of one session reach the half in
/// the order in which its peer sent them, over one link at a time: when the link changes, the shell calls
/// [`Half::link_lost`] and then [`Half::link_up`].
///
/// Frames are sent to the host where the directory places the other capsule. The shell checks that a frame's host
/// may speak for that capsule before it calls [`Half::handle`].
#[derive(Debug, Clone)]
pub struct Half {
    pub(super) id: SessionId,
    pub(super) role: Role,
    /// As the directory has them.
    pub(super) generations: Generations,
    /// Newest key that this half has proposed or agreed to.
    pub(super) key: AttachKey,
    /// Highest attempt in any key seen. Proposals go beyond it, so that one can't be taken for the tie of another.
    pub(super) attempts: u64,
    pub(super) phase: Phase,
    pub(super) holding: Holding,
    /// Frames can reach the other half's host.
    pub(super) link: bool,
    /// The directory was asked and has not answered.
    pub(super) asked: bool,
    /// Attach of a generation that the directory has not confirmed yet.
    pub(super) pending: Option<Attach>,
    pub(super) outgoing: Outgoing,
    pub(super) incoming: Incoming,
    /// The other capsule was removed while this half could not act on it.
    pub(super) peer_gone: bool,
    /// S is being reset for this reason.
    pub(super) ending: Option<Outcome>,
    pub(super) ended: Option<Outcome>,
    pub(super) actions: VecDeque<Action>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Detached,
    /// ATTACH with the present key is under way.
    Attaching,
    Attached,
    /// The other half asked to wait for its attach.
    PeerHolds,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holding {
    No,
    /// HOLD with this key is under way.
    Asked(AttachKey),
    /// Nothing changes until release.
    Agreed,
    /// Just restored: like agreed, and `link_up` releases.
    Restored,
}

impl Half {
    /// A session whose OPEN was answered. That was the first attach, so both directions start at offset 0.
    ///
    /// An opener that had to repeat its OPEN over another link calls [`Half::link_lost`] and [`Half::link_up`]
    /// right after this: the acceptor may have tried to attach since.
    pub fn new(
        id: SessionId,
        role: Role,
        opener_generation: Generation,
        acceptor_generation: Generation,
    ) -> Half {
        let generations = Generations { opener: opener_generation, acceptor: acceptor_generation };
        let mut half = Half {
            id,
            role,
            generations,
            key: AttachKey::new(generations, 0),
            attempts: 0,
            phase: Phase::Attached,
            holding: Holding::No,
            link: true,
            asked: false,
            pending: None,
            outgoing: Outgoing::default(),
            incoming: Incoming { accepted: role == Role::Opener, ..Incoming::default() },
            peer_gone: false,
            ending: None,
            ended: None,
            actions: VecDeque::with_capacity(ACTIONS_MAX),
        };
        half.start_streams(0);
        half
    }

    /// Takes a frame from the other half. Frames for other halves, and late ones, do nothing.
    pub fn handle(&mut self, frame: &Frame) {
        if frame.session() != Some(self.id) || frame.to() != Some(self.role) || self.ended.is_some() {
            return;
        }
        match frame {
            Frame::Attach(attach) => self.on_attach(attach),
            Frame::Attached(attached) => self.on_attached(attached),
            Frame::Stale { key, .. } => self.on_stale(*key),
            Frame::Hold(hold) => self.on_hold(hold),
            Frame::Held(held) => self.on_held(held),
            Frame::Delivered { key, offset, end, .. } => self.on_delivered(*key, *offset, *end),
            Frame::End { key, kind, offset, .. } => self.on_end(*key, *kind, *offset),
            Frame::Unknown { .. } => self.on_unknown(),
            Frame::NotHere { .. } => self.on_not_here(),
            Frame::Hello { .. }
            | Frame::Settled { .. }
            | Frame::Open(_)
            | Frame::Answer(_)
            | Frame::Cancel { .. }
            | Frame::Ping
            | Frame::Pong => {}
        }
    }

    /// The shell wrote so many peeked bytes to the data stream. Called before anything else for this session is
    /// done: an attach that tells of bytes not counted here looks like a broken peer.
    pub fn sent(&mut self, bytes: u64) {
        if bytes == 0 || self.is_over() || self.outgoing.discarding {
            return;
        }
        let limit = self.outgoing.end.map_or(u64::MAX, |end| end.offset);
        let offset = self.outgoing.sent.saturating_add(bytes).min(limit);
        self.outgoing.resume(offset);
        self.accepted();
    }

    /// S took so many bytes from the data stream. Bytes that S took after `StopReceiving` count too, though they
    /// cost another attach.
    pub fn delivered(&mut self, bytes: u64) {
        if bytes == 0 || self.ended.is_some() || self.outgoing.is_reset() {
            return;
        }
        self.incoming.delivered = self.incoming.delivered.saturating_add(bytes);
        if self.incoming.end.is_some_and(|end| self.incoming.delivered > end.offset) {
            self.break_off(Outcome::Broken(Violation::EndBelowDelivered));
            return;
        }
        if !self.incoming.active && matches!(self.phase, Phase::Attached | Phase::Attaching) {
            self.attach();
        }
        if self.incoming.unreported() >= REPORT_BYTES {
            self.flush_reports();
        }
        self.apply_due_end();
    }

    /// The program owns the connection: what was delivered may be reported from here on. Only an acceptor needs
    /// this; bytes or FIN from the program say it too.
    pub fn accepted(&mut self) {
        if !self.incoming.accepted && self.ended.is_none() {
            self.incoming.accepted = true;
            self.flush_reports();
            self.end_if_complete();
        }
    }

    /// The connection was dialled again in place of one that the program never accepted: everything is sent again
    /// from the start. Does nothing once the program accepted.
    pub fn dialled_again(&mut self) {
        if self.incoming.accepted || self.ended.is_some() || self.ending.is_some() {
            return;
        }
        let was_attached = matches!(self.phase, Phase::Attached | Phase::Attaching);
        if was_attached {
            self.detach();
        }
        self.incoming =
            Incoming { end: self.incoming.end, stalled: self.incoming.stalled, ..Incoming::default() };
        if was_attached && self.link {
            self.attach();
        }
        self.apply_due_end();
    }

    /// Reports what is unreported. The shell calls this when it is idle; much is reported without it.
    pub fn flush_reports(&mut self) {
        let end = self.incoming.end_acknowledged();
        let news = self.incoming.unreported() > 0 || end != self.incoming.end_reported;
        if self.phase != Phase::Attached || !news {
            return;
        }
        let offset = self.incoming.acknowledged();
        self.incoming.reported = offset;
        self.incoming.end_reported = end;
        self.transmit(Frame::Delivered {
            session: self.id,
            to: self.role.other(),
            key: self.key,
            offset,
            end,
        });
    }

    /// The next thing to do. The shell polls until there is none, after every input.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Judges a data stream by its header.
    pub fn stream(&self, header: &StreamHeader) -> StreamVerdict {
        let mine = header.session == self.id && header.to == self.role;
        if !mine || self.is_over() || header.key < self.key {
            return StreamVerdict::Drop;
        }
        if header.key > self.key || self.phase == Phase::Attaching {
            return StreamVerdict::Keep;
        }
        let expected = self.incoming.active && header.offset == self.incoming.delivered;
        if expected { StreamVerdict::Use } else { StreamVerdict::Drop }
    }

    /// The session.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The side of the session.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Newest key proposed or agreed to.
    pub fn key(&self) -> AttachKey {
        self.key
    }

    /// Offset up to which bytes went onto the present data stream.
    pub fn bytes_sent(&self) -> u64 {
        self.outgoing.sent
    }

    /// Offset up to which S's receive queue was emptied.
    pub fn consumed(&self) -> u64 {
        self.outgoing.consumed
    }

    /// Offset up to which S took bytes.
    pub fn bytes_delivered(&self) -> u64 {
        self.incoming.delivered
    }

    /// Bytes delivered that the other half may forget and was not told of.
    pub fn unreported(&self) -> u64 {
        self.incoming.unreported()
    }

    /// Bytes of the other program so far.
    pub fn bytes_in(&self) -> u64 {
        self.incoming.delivered
    }

    /// Bytes of the own program sent so far, each counted once.
    pub fn bytes_out(&self) -> u64 {
        self.outgoing.reached
    }

    /// Whether the program owns the connection.
    pub fn is_accepted(&self) -> bool {
        self.incoming.accepted
    }

    /// Whether the halves are joined.
    pub fn is_attached(&self) -> bool {
        self.phase == Phase::Attached
    }

    /// Whether this half was asked to hold.
    pub fn is_holding(&self) -> bool {
        self.holding != Holding::No
    }

    /// How the session ended, if it has.
    pub fn outcome(&self) -> Option<Outcome> {
        self.ended
    }

    /// What the session is doing.
    pub fn state(&self) -> State {
        let reset = self.outgoing.is_reset() || self.incoming.is_reset();
        let both = self.outgoing.end.is_some() && self.incoming.end.is_some();
        if self.ended.is_some() {
            State::Ended
        } else if reset || both || self.ending.is_some() {
            State::Closing
        } else if self.is_holding() || self.phase == Phase::PeerHolds {
            State::Held
        } else if self.is_attached() {
            State::Open
        } else {
            State::Detached
        }
    }

    /// False when nothing depends on the other half any more: the session is over or being ended, or the other capsule was
    /// removed, which this half acts on when it is released.
    pub fn needs_peer(&self) -> bool {
        !self.is_over() && !self.peer_gone
    }

    /// Nothing but the end is left to do.
    pub(super) fn is_over(&self) -> bool {
        self.ended.is_some() || self.ending.is_some()
    }

    /// The socket may be captured: nothing from outside changes what is known of it.
    pub(super) fn is_frozen(&self) -> bool {
        matches!(self.holding, Holding::Agreed | Holding::Restored)
    }

    pub(super) fn push(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    pub(super) fn transmit(&mut self, frame: Frame) {
        self.push(Action::Transmit(frame));
    }

    pub(super) fn ask_directory(&mut self) {
        if !self.asked {
            self.asked = true;
            self.push(Action::AskDirectory);
        }
    }

    pub(super) fn position(&self) -> Position {
        Position {
            delivered: self.incoming.delivered,
            acknowledged: self.incoming.acknowledged(),
            consumed: self.outgoing.consumed,
            end: self.outgoing.end,
            end_delivered: self.incoming.end_acknowledged(),
        }
    }

    /// The position for an attach under the present key: what it says need not be said again under this key.
    pub(super) fn tell_position(&mut self) -> Position {
        self.incoming.reported = self.incoming.acknowledged();
        self.incoming.end_reported = self.incoming.end_acknowledged();
        self.outgoing.end_told = self.outgoing.end.map(|end| end.kind);
        self.position()
    }

    pub(super) fn start_streams(&mut self, peer_delivered: u64) {
        // What a reset side says of bytes that it threw away is no offset to go on from.
        if !self.outgoing.discarding {
            self.outgoing.resume(peer_delivered);
        }
        if self.outgoing.wants_stream(peer_delivered) {
            self.outgoing.active = true;
            self.push(Action::StartSending { key: self.key, offset: peer_delivered });
        }
        if self.incoming.wants_stream() && !self.outgoing.is_reset() {
            self.incoming.active = true;
            self.push(Action::StartReceiving { key: self.key, offset: self.incoming.delivered });
        }
    }

    pub(super) fn stop_sending(&mut self) {
        if std::mem::take(&mut self.outgoing.active) {
            self.push(Action::StopSending);
        }
    }

    pub(super) fn stop_receiving(&mut self) {
        if std::mem::take(&mut self.incoming.active) {
            self.push(Action::StopReceiving);
        }
    }

    pub(super) fn detach(&mut self) {
        self.stop_sending();
        self.stop_receiving();
        self.phase = Phase::Detached;
    }
}
