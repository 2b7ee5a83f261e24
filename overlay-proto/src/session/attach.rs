//! Joining the halves, and the order of attaches.
//!
//! A key is agreed at most once. Each half proposes a key at most once, never one that it answered; it answers only
//! keys newer than its own, and an acceptor also the opener's proposal of the very key that it proposed itself. So
//! a data stream or report can be judged by its key alone.

use super::action::{Action, Violation};
use super::half::{Half, Holding, Phase};
use super::key::{AttachKey, EndKind, Generations, Role};
use crate::frame::{Attach, Attached, Frame, Position};
use crate::id::Generation;
use crate::session::Outcome;

impl Half {
    /// The other half's host can be reached: attaches, unless attached or holding. Releases a half just restored.
    pub fn link_up(&mut self) {
        if self.ended.is_some() {
            return;
        }
        self.link = true;
        if self.holding == Holding::Restored {
            self.release();
        } else if self.phase == Phase::Detached {
            self.attach();
        }
    }

    /// The link in use is gone, and with it every frame and byte on it. Everything is kept.
    pub fn link_lost(&mut self) {
        self.link = false;
        self.asked = false;
        self.pending = None;
        if self.ended.is_none() {
            self.detach();
            self.agree_hold();
        }
    }

    /// What the directory says, by watch or when asked. Older facts than those known do no harm. An attach made
    /// under older generations is void.
    pub fn generations(&mut self, opener: Generation, acceptor: Generation) {
        if self.ended.is_some() {
            return;
        }
        self.asked = false;
        let known = self.generations.join(Generations { opener, acceptor });
        if known != self.generations {
            self.generations = known;
            self.detach();
        }
        if let Some(attach) = self.pending.take() {
            self.on_attach(&attach);
        }
        if self.link && self.phase == Phase::Detached && self.pending.is_none() {
            self.attach();
        }
    }

    /// Proposes an attach under the next key.
    pub(super) fn attach(&mut self) {
        if self.is_holding() || self.is_over() {
            return;
        }
        self.detach();
        self.pending = None;
        self.attempts = self.attempts.saturating_add(1);
        self.key = AttachKey::new(self.generations, self.attempts);
        self.phase = Phase::Attaching;
        let position = self.tell_position();
        self.transmit(Frame::Attach(Attach {
            session: self.id,
            to: self.role.other(),
            key: self.key,
            position,
        }));
    }

    pub(super) fn on_attach(&mut self, attach: &Attach) {
        if self.ending.is_some() {
            self.transmit(Frame::Unknown { session: self.id, to: self.role.other() });
            return;
        }
        self.attempts = self.attempts.max(attach.key.attempt);
        let generations = attach.key.generations();
        let unconfirmed = generations.news_for(self.generations);
        if unconfirmed {
            self.ask_directory();
        }
        let tie = attach.key == self.key && self.phase == Phase::Attaching;
        if tie && self.role == Role::Opener {
            return;
        }
        let old = self.generations.news_for(generations) || attach.key <= self.key && !tie;
        if old {
            self.transmit(Frame::Stale { session: self.id, to: self.role.other(), key: self.newest_key() });
        } else if self.is_holding() {
            self.answer_with_hold(attach.key);
        } else if unconfirmed {
            self.pending = Some(*attach);
        } else {
            self.agree(attach);
        }
    }

    fn agree(&mut self, attach: &Attach) {
        if let Some(violation) = self.contradiction(&attach.position) {
            self.break_off(Outcome::Broken(violation));
            return;
        }
        self.detach();
        self.pending = None;
        self.key = attach.key;
        let position = self.tell_position();
        self.transmit(Frame::Attached(Attached {
            session: self.id,
            to: self.role.other(),
            key: self.key,
            position,
        }));
        self.become_attached(&attach.position);
    }

    pub(super) fn on_attached(&mut self, attached: &Attached) {
        if self.phase != Phase::Attaching || attached.key != self.key {
            return;
        }
        match self.contradiction(&attached.position) {
            Some(violation) => self.break_off(Outcome::Broken(violation)),
            None => self.become_attached(&attached.position),
        }
    }

    fn become_attached(&mut self, position: &Position) {
        self.phase = Phase::Attached;
        // Bytes are consumed before sending starts, so that the peek offset can be told from `consumed()`.
        self.learn(position);
        if self.is_over() {
            return;
        }
        self.start_streams(position.delivered);
        self.tell_end();
        self.flush_reports();
        self.end_if_complete();
    }

    pub(super) fn on_stale(&mut self, key: AttachKey) {
        // An attach that was refused can't have started anything that a hold would have to end.
        if matches!(self.holding, Holding::Asked(_)) {
            self.agree_hold();
        }
        if self.phase != Phase::Attaching {
            return;
        }
        if key.generations().news_for(self.generations) {
            self.detach();
            self.ask_directory();
        } else if key >= self.key {
            self.attempts = self.attempts.max(key.attempt);
            self.attach();
        }
    }

    pub(super) fn on_not_here(&mut self) {
        if self.is_frozen() || self.is_over() {
            return;
        }
        self.detach();
        self.pending = None;
        self.ask_directory();
        self.agree_hold();
    }

    /// Takes in what a position says, save where to send from.
    pub(super) fn learn(&mut self, position: &Position) {
        if let Some(end) = position.end {
            self.learn_end(end);
        }
        if !self.is_over() {
            self.acknowledge(position.acknowledged, position.end_delivered);
        }
    }

    /// Forgets what the other half has.
    pub(super) fn acknowledge(&mut self, offset: u64, end: Option<EndKind>) {
        if self.outgoing.discarding {
            return;
        }
        if offset > self.outgoing.reached {
            self.break_off(Outcome::Broken(Violation::BeyondSent));
            return;
        }
        let bytes = self.outgoing.consume(offset);
        if bytes > 0 {
            self.push(Action::Consume { bytes });
        }
        let Some(own) = self.outgoing.end else { return };
        if end == Some(own.kind) && (own.kind == EndKind::Reset || offset >= own.offset) {
            self.outgoing.end_delivered = true;
        }
        if self.outgoing.end_delivered && own.kind == EndKind::Reset {
            self.finish(Outcome::ResetByProgram);
        }
    }

    /// How the other half's position contradicts this one, if it does. A side whose program was reset has nothing
    /// left to lose.
    fn contradiction(&self, position: &Position) -> Option<Violation> {
        let peer_reset = position.end.is_some_and(|end| end.kind == EndKind::Reset);
        if position.acknowledged > position.delivered {
            Some(Violation::AcknowledgedUndelivered)
        } else if !self.outgoing.is_reset() && position.consumed > self.incoming.delivered {
            Some(Violation::PeerConsumedUndelivered)
        } else if self.outgoing.discarding || peer_reset {
            None
        } else if position.delivered < self.outgoing.consumed {
            Some(Violation::BelowConsumed)
        } else if position.delivered > self.outgoing.reached {
            Some(Violation::BeyondSent)
        } else {
            None
        }
    }

    /// The oldest key that would not be refused is newer than this one.
    fn newest_key(&self) -> AttachKey {
        AttachKey::new(self.generations, self.key.attempt)
    }
}
