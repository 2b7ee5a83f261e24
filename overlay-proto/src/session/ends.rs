//! How directions and sessions end.
//!
//! A session ends when both FINs were applied and acknowledged, or when a RST was. The half that acknowledges last
//! forgets the session; should that acknowledgement be lost, the other learns it by UNKNOWN.

use super::action::{Action, Outcome, Violation};
use super::half::{Half, Phase};
use super::key::{AttachKey, End, EndKind};
use crate::frame::Frame;

impl Half {
    /// S gave end of file, after everything before it was `sent`; or an error, with nothing left to send.
    pub fn local_end(&mut self, kind: EndKind) {
        match kind {
            EndKind::Fin => self.local_fin(self.outgoing.sent),
            EndKind::Reset => self.local_reset(self.outgoing.reached),
        }
    }

    /// S has end of file after this offset, which may lie ahead of what was sent.
    pub fn local_fin(&mut self, final_offset: u64) {
        if self.is_over() || self.outgoing.discarding || self.outgoing.end.is_some() {
            return;
        }
        self.outgoing.end = Some(End { kind: EndKind::Fin, offset: final_offset.max(self.outgoing.reached) });
        self.accepted();
        self.tell_end();
    }

    /// S is dead; bytes of its program up to this offset can still be read from it.
    pub fn local_reset(&mut self, final_offset: u64) {
        if self.ended.is_some() || self.outgoing.is_reset() {
            return;
        }
        self.incoming.applying = None;
        self.stop_receiving();
        if let Some(outcome) = self.ending {
            self.finish(outcome);
        } else if self.incoming.is_reset() {
            self.incoming.applied = Some(EndKind::Reset);
            self.finish(Outcome::ResetByPeer);
        } else {
            let offset = self.outgoing.end.map_or(final_offset.max(self.outgoing.reached), |fin| fin.offset);
            self.outgoing.end = Some(End { kind: EndKind::Reset, offset });
            self.outgoing.end_delivered = false;
            self.tell_end();
        }
    }

    /// What [`Action::ApplyEnd`] asked for was done.
    pub fn end_applied(&mut self) {
        let Some(kind) = self.incoming.applying.take() else { return };
        self.incoming.applied = Some(kind);
        match kind {
            EndKind::Reset => self.finish(self.ending.unwrap_or(Outcome::ResetByPeer)),
            EndKind::Fin => {
                self.flush_reports();
                self.end_if_complete();
                self.apply_due_end();
            }
        }
    }

    /// S took nothing for [`crate::limits::RESET_STALL_MS`] while a RST waits behind bytes for it: the RST goes
    /// ahead. Does nothing when no RST waits.
    pub fn stalled(&mut self) {
        if self.incoming.is_reset() && !self.is_over() {
            self.incoming.stalled = true;
            self.stop_receiving();
            self.apply_due_end();
        }
    }

    /// The directory says that the other capsule was removed.
    pub fn peer_gone(&mut self) {
        if self.is_frozen() {
            self.peer_gone = true;
        } else {
            self.give_up(Outcome::PeerGone);
        }
    }

    pub(super) fn on_unknown(&mut self) {
        // A socket that may be captured is left alone; the next attach brings the same answer.
        if !self.is_frozen() {
            self.give_up(Outcome::PeerUnknown);
        }
    }

    /// The other half does not exist any more: a normal end if everything was said, else a RST for the program.
    fn give_up(&mut self, cause: Outcome) {
        if self.is_over() {
            return;
        }
        if self.outgoing.is_reset() {
            self.finish(Outcome::ResetByProgram);
        } else if self.outgoing.end.is_some() && self.incoming.applied.is_some() {
            self.finish(Outcome::Closed);
        } else {
            self.break_off(cause);
        }
    }

    pub(super) fn on_delivered(&mut self, key: AttachKey, offset: u64, end: Option<EndKind>) {
        if key == self.key && !self.is_frozen() && !self.is_over() {
            self.acknowledge(offset, end);
            self.end_if_complete();
        }
    }

    pub(super) fn on_end(&mut self, key: AttachKey, kind: EndKind, offset: u64) {
        if key == self.key && !self.is_frozen() && !self.is_over() {
            self.learn_end(End { kind, offset });
        }
    }

    /// Takes in how the other program ended. A RST may follow a FIN; nothing follows a RST.
    pub(super) fn learn_end(&mut self, end: End) {
        let reset = end.kind == EndKind::Reset;
        if self.outgoing.is_reset() {
            if reset {
                self.incoming.applied = Some(EndKind::Reset);
                self.finish(Outcome::ResetByProgram);
            }
            return;
        }
        if self.incoming.is_reset() || self.incoming.end.is_some() && !reset {
            return;
        }
        if end.offset < self.incoming.delivered {
            self.break_off(Outcome::Broken(Violation::EndBelowDelivered));
            return;
        }
        self.incoming.end = Some(end);
        if reset {
            self.discard_outgoing();
        }
        self.apply_due_end();
    }

    /// Says how the own program ended, if that is news for the other half.
    pub(super) fn tell_end(&mut self) {
        let Some(end) = self.outgoing.end else { return };
        if self.phase == Phase::Attached && self.outgoing.end_told != Some(end.kind) {
            self.outgoing.end_told = Some(end.kind);
            let End { kind, offset } = end;
            self.transmit(Frame::End {
                session: self.id,
                to: self.role.other(),
                key: self.key,
                kind,
                offset,
            });
        }
    }

    /// Asks the shell to apply the end whose time has come, one at a time.
    pub(super) fn apply_due_end(&mut self) {
        if self.ended.is_some() || self.is_frozen() || self.incoming.applying.is_some() {
            return;
        }
        let due = if self.ending.is_some() { Some(EndKind::Reset) } else { self.incoming.due() };
        if let Some(kind) = due.filter(|_| !self.outgoing.is_reset()) {
            self.incoming.applying = Some(kind);
            self.push(Action::ApplyEnd(kind));
        }
    }

    pub(super) fn end_if_complete(&mut self) {
        let fin = Some(EndKind::Fin);
        let own =
            self.outgoing.end.is_some_and(|end| end.kind == EndKind::Fin) && self.outgoing.end_delivered;
        let told = self.incoming.applied == fin && self.incoming.end_reported == fin;
        if self.phase == Phase::Attached && own && told && !self.is_over() && !self.incoming.is_reset() {
            self.finish(Outcome::Closed);
        }
    }

    /// Ends the session without the other half: S is reset.
    pub(super) fn break_off(&mut self, outcome: Outcome) {
        if self.is_over() {
            return;
        }
        if matches!(outcome, Outcome::Broken(_)) {
            self.transmit(Frame::Unknown { session: self.id, to: self.role.other() });
        }
        self.detach();
        self.pending = None;
        if self.outgoing.is_reset() {
            self.finish(outcome);
            return;
        }
        self.ending = Some(outcome);
        self.agree_hold_of_ending();
        self.discard_outgoing();
        self.apply_due_end();
    }

    pub(super) fn finish(&mut self, outcome: Outcome) {
        self.flush_reports();
        let peer_waits = self.phase != Phase::Attached || self.pending.take().is_some();
        if peer_waits && self.link {
            // No acknowledgement reaches a half that waits for an attach, or for the answer to its own.
            self.transmit(Frame::Unknown { session: self.id, to: self.role.other() });
        }
        self.detach();
        self.agree_hold();
        self.ending = None;
        self.ended = Some(outcome);
        self.push(Action::Ended(outcome));
    }

    fn discard_outgoing(&mut self) {
        self.stop_sending();
        if !self.outgoing.discarding {
            self.outgoing.discarding = true;
            self.push(Action::DiscardOutgoing);
        }
    }

    /// A half that is being ended has nothing to hold; its end goes on.
    fn agree_hold_of_ending(&mut self) {
        if self.is_holding() {
            self.agree_hold();
            self.holding = super::half::Holding::No;
        }
    }
}
