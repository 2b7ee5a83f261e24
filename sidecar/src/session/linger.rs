//! The last moments of a connection: a reset that waits for the bytes before it, and an end that waits for the
//! program's kernel.

use std::time::Duration;

use tokio::time::Instant;

use super::program::Program;
use crate::limits::RESET_GRACE;

/// Pause between looks at a connection that is about to be reset.
const RESET_LOOK: Duration = Duration::from_millis(2);

/// Pauses between looks at a connection whose session has ended: first and longest.
const LINGER_FIRST: Duration = Duration::from_millis(2);
const LINGER_LONGEST: Duration = Duration::from_secs(1);

/// A reset of the far program, passed on when the near program's kernel has every byte before it, or after
/// [`RESET_GRACE`] without progress.
#[derive(Debug)]
pub(super) struct Resetting {
    left: u32,
    since: Instant,
    next: Instant,
}

impl Resetting {
    pub(super) fn new(program: &Program) -> Self {
        let now = Instant::now();
        Self { left: program.unacknowledged(), since: now, next: now }
    }

    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Looks at the connection: is it time to reset it?
    pub(super) fn is_due(&mut self, program: &Program, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        let left = program.unacknowledged();
        if left < self.left {
            self.left = left;
            self.since = now;
        }
        self.next = now + RESET_LOOK;
        left == 0 || program.is_finished() || now.duration_since(self.since) >= RESET_GRACE
    }
}

/// An ended session whose connection may still hold bytes that the program's kernel has not acknowledged.
#[derive(Debug)]
pub(super) struct Linger {
    next: Instant,
    pause: Duration,
}

impl Linger {
    pub(super) fn new() -> Self {
        Self { next: Instant::now() + LINGER_FIRST, pause: LINGER_FIRST }
    }

    pub(super) fn next(&self) -> Instant {
        self.next
    }

    pub(super) fn looked(&mut self, now: Instant) {
        if now >= self.next {
            self.pause = (self.pause * 2).min(LINGER_LONGEST);
            self.next = now + self.pause;
        }
    }

    /// True when the kernel needs the connection no longer.
    pub(super) fn is_over(&self, program: &Program) -> bool {
        program.is_finished()
    }
}

#[cfg(test)]
mod tests;
