//! Connects of a capsule that is about to leave this host, or stays after all.

use std::time::{Duration, Instant};

use super::{Answered, Connector};
use crate::capsule::quiet::State;
use crate::limits::{GATE_SETTLE, HANDSHAKE_LOOK, HANDSHAKE_TIMEOUT};

impl Connector {
    /// The capsule is about to leave, or stays after all. What is given up starts anew at the target, where the
    /// kernel sends the SYN again.
    pub(super) async fn on_quiet(&mut self, state: State) {
        if let Some(first) = &self.first {
            first.follow_quiet().await;
        }
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
                if let Some(first) = &mut self.first {
                    first.reset_rest().await;
                }
                self.network.set_connecting(0);
                self.network.quiet().acknowledge();
            }
        }
    }

    /// A connection whose SYN was let through comes to be on this host alone, in microseconds; on a busy one the kernel
    /// may put that off. One that would be complete after the capsule was captured would be in nobody's snapshot. What
    /// does not come was given up by its program.
    async fn take_what_was_let_through(&mut self) {
        let (began, deadline) = (Instant::now(), Instant::now() + HANDSHAKE_TIMEOUT);
        let at_least = if self.first.is_some() { GATE_SETTLE } else { Duration::ZERO };
        loop {
            for at in [0, 1] {
                self.accept_all(at).await;
            }
            if self.opened.is_empty() && began.elapsed() >= at_least || Instant::now() > deadline {
                break;
            }
            tokio::time::sleep(HANDSHAKE_LOOK).await;
        }
        self.give_up_opened();
    }

    pub(super) fn give_up_opened(&mut self) {
        for (_, Answered { opened, .. }) in self.opened.drain() {
            opened.give_up(&self.around);
        }
    }
}
