//! The budgets of receive buffers, which hold what programs sent until the other half has it.
//!
//! A session asks for as much as it turns over in a round trip ([`Rounds`]), and gets what the budgets of session,
//! capsule and host leave ([`Ledger`]): with less it has a smaller window and is slower, but nothing fails and nothing
//! is lost. All bytes are memory as the kernel counts it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use overlay_proto::CapsuleId;

use crate::limits::{BUFFER_BYTES_MIN, BUFFER_SHARE};

/// What receive buffers may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferLimits {
    /// Of one session's half.
    pub session_bytes: u64,
    /// Of all sessions of one capsule.
    pub capsule_bytes: u64,
    /// Of all sessions on this host.
    pub host_bytes: u64,
}

impl BufferLimits {
    /// No limits, for hosts that have none configured.
    pub const NONE: Self = Self { session_bytes: u64::MAX, capsule_bytes: u64::MAX, host_bytes: u64::MAX };
}

/// Who was granted how much.
#[derive(Debug)]
struct Ledger {
    limits: BufferLimits,
    host_bytes: u64,
    capsules: HashMap<CapsuleId, u64>,
}

impl Ledger {
    /// What a session of this capsule may have beside all others.
    fn share(&self, own: &CapsuleId, has: u64) -> u64 {
        let left = |limit: u64, granted: u64| limit.saturating_sub(granted - has) / BUFFER_SHARE;
        let capsule = left(self.limits.capsule_bytes, self.capsule_bytes(own));
        let host = left(self.limits.host_bytes, self.host_bytes);
        capsule.min(host).min(self.limits.session_bytes).max(BUFFER_BYTES_MIN)
    }

    fn capsule_bytes(&self, own: &CapsuleId) -> u64 {
        self.capsules.get(own).copied().unwrap_or(0)
    }

    fn change(&mut self, own: CapsuleId, from: u64, to: u64) {
        self.host_bytes = self.host_bytes - from + to;
        let capsule = self.capsules.entry(own).or_insert(0);
        *capsule = *capsule - from + to;
        if *capsule == 0 {
            self.capsules.remove(&own);
        }
    }
}

/// The budgets of this host.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Mutex<Ledger>>);

impl Budget {
    /// Budgets of which nothing is granted.
    pub fn new(limits: BufferLimits) -> Self {
        Self(Arc::new(Mutex::new(Ledger { limits, host_bytes: 0, capsules: HashMap::new() })))
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.0.lock().expect("no panics under this lock")
    }

    /// What receive buffers may take.
    pub fn limits(&self) -> BufferLimits {
        self.ledger().limits
    }

    /// Granted to all sessions on this host.
    pub fn granted(&self) -> u64 {
        self.ledger().host_bytes
    }

    /// Granted to the sessions of a capsule.
    pub fn granted_to(&self, own: &CapsuleId) -> u64 {
        self.ledger().capsule_bytes(own)
    }

    /// Grants a session what it wants, or what there is.
    pub fn open(&self, own: CapsuleId, wanted: u64) -> Grant {
        let mut ledger = self.ledger();
        let bytes = wanted.clamp(BUFFER_BYTES_MIN, ledger.share(&own, 0));
        ledger.change(own, 0, bytes);
        Grant { budget: self.clone(), own, bytes }
    }
}

/// What one session was granted; given back when it is dropped.
#[derive(Debug)]
pub struct Grant {
    budget: Budget,
    own: CapsuleId,
    bytes: u64,
}

impl Grant {
    /// How much it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Asks for more; says whether there was any.
    pub fn grow(&mut self, wanted: u64) -> bool {
        let mut ledger = self.budget.ledger();
        let bytes = wanted.min(ledger.share(&self.own, self.bytes));
        let grows = bytes > self.bytes;
        if grows {
            ledger.change(self.own, self.bytes, bytes);
            self.bytes = bytes;
        }
        grows
    }

    /// Gives back what is more than `bytes`; says whether there was any.
    pub fn shrink(&mut self, bytes: u64) -> bool {
        let shrinks = bytes < self.bytes;
        if shrinks {
            self.budget.ledger().change(self.own, self.bytes, bytes);
            self.bytes = bytes;
        }
        shrinks
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.budget.ledger().change(self.own, self.bytes, 0);
    }
}

/// How many bytes the other half takes in a round trip: from when they were sent until it had them.
#[derive(Debug)]
pub(super) struct Rounds {
    /// What the other half had when the round began.
    began: u64,
    /// What was sent by then: when the other half has it, the round is over.
    until: u64,
}

impl Rounds {
    /// Begins when the other half has so many bytes.
    pub(super) fn new(consumed: u64) -> Self {
        Self { began: consumed, until: consumed }
    }

    /// The other half has so many bytes of those that were sent. At the end of a round, says how large a buffer would
    /// not have limited it: twice the bytes, as in Linux's own `tcp_rcv_space_adjust`, each of which takes up to twice
    /// its memory.
    pub(super) fn wanted(&mut self, consumed: u64, sent: u64) -> Option<u64> {
        if consumed < self.until {
            return None;
        }
        let bytes = consumed.saturating_sub(self.began);
        (self.began, self.until) = (consumed, sent);
        Some(bytes.saturating_mul(4))
    }
}

#[cfg(test)]
mod tests;
