//! How long the other side may be away, and the program's own idea of that (TCP_USER_TIMEOUT).

use kernel::user_timeout::ProgramSocket;
use overlay_proto::State;
use tokio::time::Instant;

use super::super::Keeping;
use super::super::aside::{self, Change, Standing};
use super::Driver;

impl Driver {
    /// Notes since when the other side is away.
    pub(super) fn watch_hold(&mut self) {
        match self.half.state() {
            State::Held | State::Detached if !self.holding => {
                self.away_since.get_or_insert_with(Instant::now);
            }
            State::Held | State::Detached | State::Open | State::Closing | State::Ended => {
                self.away_since = None;
            }
        }
    }

    /// When the other side has been away for too long.
    pub(super) fn hold_ends(&self) -> Option<Instant> {
        Some(self.away_since? + self.routes.patience().hold_max?)
    }

    pub(super) fn standing(&self) -> Standing {
        Standing {
            away_since: self.away_since.or(self.unanswered.away_since()),
            leaving: self.holding,
            open: self.half.state() == State::Open && !self.holding,
            noted_ms: self.keeping.as_ref().map_or(0, Keeping::user_timeout_ms),
        }
    }

    /// Looks for the program's socket when its TCP_USER_TIMEOUT is to be put aside or given back. What can't be put on
    /// record is left alone.
    pub(super) fn watch_user_timeout(&mut self) {
        if self.keeping.is_none() {
            return;
        }
        let (now, consumed) = (Instant::now(), self.half.consumed());
        let waits = self.half.bytes_sent() > consumed && !self.outgoing.is_parked();
        let link = self.link.as_ref().filter(|link| waits && !link.is_local());
        self.unanswered.note(link.map(|link| link.unheard(now.into_std())), consumed, now);
        let standing = self.standing();
        if self.looks.is_due(&standing, now) {
            self.routes.look_for_socket(self.key(), &self.facts, standing.noted_ms > 0);
        }
    }

    pub(super) fn on_program_socket(&mut self, socket: &ProgramSocket) -> std::io::Result<()> {
        let standing = self.standing();
        let Some(keeping) = &mut self.keeping else { return Ok(()) };
        match aside::change(&standing, socket.timeout_ms_at_present()?, socket.is_waiting()?) {
            Change::Nothing => Ok(()),
            Change::PutAside(timeout_ms) => {
                keeping.note_user_timeout(timeout_ms)?;
                socket.set_timeout_ms(0)
            }
            Change::GiveBack(timeout_ms) => {
                socket.set_timeout_ms(timeout_ms)?;
                keeping.note_user_timeout(0)
            }
            Change::Forget => keeping.note_user_timeout(0),
        }
    }
}
