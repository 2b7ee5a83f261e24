//! Holding while a capsule is away.
//!
//! After HOLD and HELD neither half sends. Every HOLD is answered, whatever its key, so that the one who holds never
//! waits in vain; a half that holds answers each attach with HOLD, so that the other waits. Both may hold at once.

use super::action::Action;
use super::half::{Half, Holding, Phase};
use super::key::AttachKey;
use crate::frame::{Frame, Held, Hold};

impl Half {
    /// This half's capsule is about to leave: stops both directions and asks the other half to wait.
    /// [`Action::HoldAgreed`] follows, at once when there is nobody to ask; [`Action::Ended`] counts as agreed too.
    pub fn hold(&mut self) {
        if self.ended.is_some() || matches!(self.holding, Holding::Asked(_) | Holding::Agreed) {
            return;
        }
        let proposed = self.pending.take().map(|attach| attach.key);
        let joined = matches!(self.phase, Phase::Attached | Phase::Attaching) || proposed.is_some();
        let key = proposed.unwrap_or(self.key);
        self.detach();
        self.holding = Holding::Asked(key);
        if joined && self.ending.is_none() {
            self.transmit_hold(key);
        } else {
            self.agree_hold();
        }
    }

    /// Undoes the hold: attaches again, as soon as there is a link.
    pub fn release(&mut self) {
        if self.ended.is_some() || !self.is_holding() {
            return;
        }
        self.holding = Holding::No;
        if self.peer_gone {
            self.peer_gone();
        }
        if self.outgoing.discarding {
            self.push(Action::DiscardOutgoing);
        }
        self.apply_due_end();
        if self.link && !self.is_over() {
            self.attach();
        }
    }

    /// Answers an attach while holding.
    pub(super) fn answer_with_hold(&mut self, key: AttachKey) {
        if !key.generations().news_for(self.generations) {
            self.key = self.key.max(key);
        }
        if let Holding::Asked(asked) = &mut self.holding {
            *asked = key.max(*asked);
        }
        self.transmit_hold(key);
    }

    pub(super) fn on_hold(&mut self, hold: &Hold) {
        if self.ending.is_some() {
            self.transmit(Frame::Unknown { session: self.id, to: self.role.other() });
            return;
        }
        if !self.is_frozen() {
            self.wait_for_peer(hold);
        }
        if self.ended.is_none() {
            let position = self.position();
            self.transmit(Frame::Held(Held {
                session: self.id,
                to: self.role.other(),
                key: hold.key,
                position,
            }));
        }
    }

    fn wait_for_peer(&mut self, hold: &Hold) {
        self.attempts = self.attempts.max(hold.key.attempt);
        if hold.key == self.key {
            self.learn(&hold.position);
        }
        if self.is_holding() || self.is_over() || hold.key < self.key {
            return;
        }
        if hold.key.generations().news_for(self.generations) {
            self.ask_directory();
        } else {
            self.key = hold.key;
        }
        self.detach();
        self.pending = None;
        self.phase = Phase::PeerHolds;
    }

    pub(super) fn on_held(&mut self, held: &Held) {
        let Holding::Asked(key) = self.holding else { return };
        if held.key < key {
            return;
        }
        if held.key == self.key {
            self.learn(&held.position);
        }
        self.agree_hold();
    }

    /// Nobody sends to this half any more.
    pub(super) fn agree_hold(&mut self) {
        if matches!(self.holding, Holding::Asked(_)) {
            self.holding = Holding::Agreed;
            self.push(Action::HoldAgreed);
        }
    }

    fn transmit_hold(&mut self, key: AttachKey) {
        let position = self.position();
        self.transmit(Frame::Hold(Hold { session: self.id, to: self.role.other(), key, position }));
    }
}
