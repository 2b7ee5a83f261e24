//! The receive buffer of one half: how far its program may be ahead of the other half.

use overlay_proto::CapsuleId;
use tokio::time::Instant;

use super::budget::{Budget, Grant, Rounds};
use super::program::Program;
use crate::limits::{BUFFER_FIRST_BYTES, BUFFER_IDLE};

/// Keeps the receive buffer of a half as large as it was granted.
#[derive(Debug)]
pub(super) struct Window {
    grant: Grant,
    rounds: Rounds,
    /// When a buffer that grew was unused for long, if nothing comes.
    idle_at: Option<Instant>,
}

impl Window {
    /// Asks for what the connection has, if it comes from a move or another sidecar: less would hold back what its
    /// program may send already. The other half has `consumed` bytes.
    pub(super) fn open(budget: &Budget, own: CapsuleId, program: &Program, consumed: u64) -> Self {
        let has = program.receive_memory().unwrap_or(0);
        let grant = budget.open(own, has.max(BUFFER_FIRST_BYTES));
        program.set_receive_memory(grant.bytes());
        let mut window = Self { grant, rounds: Rounds::new(consumed), idle_at: None };
        window.used();
        window
    }

    /// Memory that the receive buffer may take.
    pub(super) fn bytes(&self) -> u64 {
        self.grant.bytes()
    }

    /// The other half has `consumed` of the bytes that were `sent`, and they are about to leave the queue: that is when
    /// the kernel tells the program of a larger window.
    pub(super) fn consumed(&mut self, program: &Program, consumed: u64, sent: u64) {
        if let Some(wanted) = self.rounds.wanted(consumed, sent)
            && wanted > self.grant.bytes()
            && self.grant.grow(wanted)
        {
            program.set_receive_memory(self.grant.bytes());
        }
        self.used();
    }

    fn used(&mut self) {
        let grown = self.grant.bytes() > BUFFER_FIRST_BYTES;
        self.idle_at = grown.then(|| Instant::now() + BUFFER_IDLE);
    }

    /// When to look again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.idle_at
    }

    /// Gives back what an idle session does not need. Of a stalled one there is nothing to give: its buffer is full.
    pub(super) fn looked(&mut self, program: &Program, now: Instant) {
        if self.idle_at.is_none_or(|at| now < at) {
            return;
        }
        if program.queued() == 0 && self.grant.shrink(BUFFER_FIRST_BYTES) {
            program.set_receive_memory(self.grant.bytes());
        }
        self.used();
    }
}
