//! What became of datagrams, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a datagram was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// More waited, or was under way, than there is room for.
    NoRoom,
    /// It waited too long, or came back too often.
    TooLate,
    /// Nobody has the address.
    Nowhere,
    /// The policy forbids it.
    Denied,
    /// It came from a host where the directory does not place its sender, or says something that it may not say.
    Misplaced,
}

impl Lost {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::NoRoom, Self::TooLate, Self::Nowhere, Self::Denied, Self::Misplaced];

    /// The word, as metrics and JSON have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::NoRoom => "no_room",
            Self::TooLate => "too_late",
            Self::Nowhere => "nowhere",
            Self::Denied => "denied",
            Self::Misplaced => "misplaced",
        }
    }
}

/// Counts of datagrams, pings included.
#[derive(Debug, Default)]
pub struct Counts {
    sent: AtomicU64,
    received: AtomicU64,
    lost: [AtomicU64; Lost::ALL.len()],
    unread_bytes: AtomicU64,
}

impl Counts {
    /// Datagrams of programs here that went on their way.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Datagrams for programs here that were taken.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Datagrams that were lost for a reason.
    pub fn lost_for(&self, lost: Lost) -> u64 {
        self.lost[lost as usize].load(Ordering::Relaxed)
    }

    /// Memory of datagrams that programs had not read when their capsule was frozen, and that no image has.
    pub fn unread_bytes(&self) -> u64 {
        self.unread_bytes.load(Ordering::Relaxed)
    }

    /// Counts what programs had not read.
    pub fn unread(&self, bytes: u64) {
        self.unread_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn add_sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_received(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn lost(&self, lost: Lost, count: u64) {
        self.lost[lost as usize].fetch_add(count, Ordering::Relaxed);
    }
}
