//! Counters of the direction from the program to the other half.

use super::key::{End, EndKind};

/// `consumed ≤ sent ≤ reached`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Outgoing {
    /// Removed from S's receive queue: the other half may never ask for less.
    pub(super) consumed: u64,
    /// Written to the data stream of the present attach.
    pub(super) sent: u64,
    /// Written to any data stream at any time: the other half can't have more.
    pub(super) reached: u64,
    /// How the program ended it.
    pub(super) end: Option<End>,
    /// The other half applied that end.
    pub(super) end_delivered: bool,
    /// The end that the other half was told of under the present key.
    pub(super) end_told: Option<EndKind>,
    /// The other side is gone: what the program sends is thrown away.
    pub(super) discarding: bool,
    /// The shell has a data stream.
    pub(super) active: bool,
}

impl Outgoing {
    pub(super) fn is_reset(&self) -> bool {
        self.end.is_some_and(|end| end.kind == EndKind::Reset)
    }

    /// Takes up sending from where the other half is.
    pub(super) fn resume(&mut self, offset: u64) {
        self.sent = offset;
        self.reached = self.reached.max(offset);
    }

    /// Whether there may be something to send from `offset` on.
    pub(super) fn wants_stream(&self, offset: u64) -> bool {
        !self.discarding && self.end.is_none_or(|end| offset < end.offset)
    }

    /// Forgets bytes up to `offset`; says how many.
    pub(super) fn consume(&mut self, offset: u64) -> u64 {
        let bytes = offset.saturating_sub(self.consumed);
        self.consumed += bytes;
        self.sent = self.sent.max(self.consumed);
        self.reached = self.reached.max(self.sent);
        bytes
    }
}
