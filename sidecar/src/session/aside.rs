//! A program's TCP_USER_TIMEOUT, put aside while the other side of its session is away. Pure: the driver acts.
//!
//! ```text
//!  none ──away for ASIDE_AFTER or unanswered, or our capsule leaves──→ on record, then 0 in the program's socket
//!    ↑                                                                  │ open again, and no byte
//!    └──────── the program's own value, then off the record ←───────────┘ waits in the kernel any more
//! ```
//! What is on record travels with the session and outlives the sidecar. A value that the program sets meanwhile
//! counts.

use std::time::Duration;

use tokio::time::Instant;

use crate::limits::{ASIDE_AFTER, ASIDE_LOOK_FIRST, ASIDE_LOOK_LONGEST, UNANSWERED_AFTER};

/// How a half stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// Since when the other side is away.
    pub away_since: Option<Instant>,
    /// Our own capsule is about to leave.
    pub leaving: bool,
    /// Both sides are attached.
    pub open: bool,
    /// The value on record; 0: none.
    pub noted_ms: u32,
}

/// What the driver has to do with the program's socket and the record, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    Nothing,
    /// Put this value on record, then set none.
    PutAside(u32),
    /// Set this value, then take it off the record.
    GiveBack(u32),
    /// Take it off the record: the program has set its own.
    Forget,
}

/// What is to be done about a program's socket that has this value; `waiting` when the kernel counts already.
pub(super) fn change(standing: &Standing, timeout_ms: u32, waiting: bool) -> Change {
    if standing.leaving || standing.away_since.is_some() {
        return if timeout_ms > 0 { Change::PutAside(timeout_ms) } else { Change::Nothing };
    }
    match (standing.open && standing.noted_ms > 0, timeout_ms) {
        (true, 0) if waiting => Change::Nothing,
        (true, 0) => Change::GiveBack(standing.noted_ms),
        (true, _) => Change::Forget,
        (false, _) => Change::Nothing,
    }
}

/// Whether the other side is away although nobody has noticed yet: nothing that was sent is taken, and nothing is heard of
/// its host.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    since: Option<Instant>,
    consumed: u64,
    away: bool,
    next: Option<Instant>,
}

impl Unanswered {
    /// Notes how many bytes the other half has, and how long its host was not heard; `None` when no bytes wait for it, or
    /// it is known why.
    pub(super) fn note(&mut self, unheard: Option<Duration>, consumed: u64, now: Instant) {
        let Some(unheard) = unheard else {
            *self = Self::default();
            return;
        };
        let since = match self.since {
            Some(since) if consumed == self.consumed => since,
            _ => now,
        };
        (self.since, self.consumed) = (Some(since), consumed);
        self.away = unheard.min(now.duration_since(since)) >= UNANSWERED_AFTER;
        if self.next.is_none_or(|next| next <= now) || since == now {
            self.next = Some(now + if self.away { ASIDE_LOOK_LONGEST } else { UNANSWERED_AFTER / 5 });
        }
    }

    /// Since when it is away.
    pub(super) fn away_since(&self) -> Option<Instant> {
        self.since.filter(|_| self.away)
    }

    /// When to look again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }
}

/// When the program's socket is to be looked for.
#[derive(Debug, Default)]
pub(super) struct Looks {
    next: Option<Instant>,
    pause: Duration,
    what_for: Option<Purpose>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    PutAside(Instant),
    GiveBack,
}

impl Looks {
    /// When to look again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Whether to look now. An absence has one look, a value on record as many as it takes to give it back.
    pub(super) fn is_due(&mut self, standing: &Standing, now: Instant) -> bool {
        let what_for = match standing.away_since {
            Some(since) => Some(Purpose::PutAside(since)),
            None if standing.open && standing.noted_ms > 0 => Some(Purpose::GiveBack),
            None => None,
        };
        if what_for != self.what_for {
            self.what_for = what_for;
            self.pause = ASIDE_LOOK_FIRST;
            self.next = what_for.map(|purpose| match purpose {
                Purpose::PutAside(since) => since + ASIDE_AFTER,
                Purpose::GiveBack => now,
            });
        }
        let due = self.next.is_some_and(|next| next <= now);
        if due {
            self.next = (what_for == Some(Purpose::GiveBack)).then(|| now + self.pause);
            self.pause = (self.pause * 2).min(ASIDE_LOOK_LONGEST);
        }
        due
    }
}

#[cfg(test)]
mod tests;
