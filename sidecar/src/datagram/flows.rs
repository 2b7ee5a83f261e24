//! Which flows a capsule has: pairs of addresses between which datagrams went a short while ago.
//!
//! A table of bounded size that reads no clock. The flow that was quiet the longest makes room for a new one; it is
//! found by going round (a *clock*, or second chance): each flow stands once in the queue with the time at which it was
//! looked at, and goes to the end again if it was used since.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::limits::{FLOW_IDLE, FLOWS_MAX};

/// Names a flow, as a capsule sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Its own address and port.
    pub local: SocketAddr,
    /// The other's.
    pub remote: SocketAddr,
}

/// What is known of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The capsule sent first.
    pub opened_here: bool,
    /// When the first datagram went.
    pub began: Instant,
    /// Bytes for the program.
    pub bytes_in: u64,
    /// Bytes of the program.
    pub bytes_out: u64,
    /// Datagrams for the program.
    pub datagrams_in: u64,
    /// Datagrams of the program.
    pub datagrams_out: u64,
    used: Instant,
}

/// The flows of one capsule.
#[derive(Debug, Default)]
pub(super) struct Flows {
    known: HashMap<FlowKey, Flow>,
    /// Each flow once, with the time at which it was looked at.
    round: VecDeque<(Instant, FlowKey)>,
}

impl Flows {
    /// The program sent something.
    pub(super) fn sent(&mut self, now: Instant, key: FlowKey, bytes: usize) {
        let flow = self.touch(now, key, true);
        flow.bytes_out += bytes as u64;
        flow.datagrams_out += 1;
    }

    /// Something was for the program.
    pub(super) fn received(&mut self, now: Instant, key: FlowKey, bytes: usize) {
        let flow = self.touch(now, key, false);
        flow.bytes_in += bytes as u64;
        flow.datagrams_in += 1;
    }

    /// Whether the program has sent anything in this flow.
    pub(super) fn asked(&self, now: Instant, key: &FlowKey) -> bool {
        let flow = self.known.get(key).filter(|flow| !flow.is_over(now));
        flow.is_some_and(|flow| flow.datagrams_out > 0)
    }

    /// Whether anything was for the program in this flow.
    pub(super) fn has_received(&self, now: Instant, key: &FlowKey) -> bool {
        let flow = self.known.get(key).filter(|flow| !flow.is_over(now));
        flow.is_some_and(|flow| flow.datagrams_in > 0)
    }

    /// Forgets what has been quiet for too long.
    pub(super) fn sweep(&mut self, now: Instant) {
        while self.round.front().is_some_and(|(looked, _)| now.duration_since(*looked) >= FLOW_IDLE) {
            self.look(now, false);
        }
    }

    /// All flows, oldest first, with how long each has been quiet.
    pub(super) fn all(&self, now: Instant) -> Vec<(FlowKey, Flow, Duration)> {
        let mut all: Vec<_> =
            self.known.iter().map(|(key, flow)| (*key, *flow, now.duration_since(flow.used))).collect();
        all.sort_by_key(|(_, flow, _)| flow.began);
        all
    }

    fn touch(&mut self, now: Instant, key: FlowKey, opened_here: bool) -> &mut Flow {
        if self.known.get(&key).is_none_or(|flow| flow.is_over(now)) {
            if self.known.remove(&key).is_some() {
                self.round.retain(|(_, other)| *other != key);
            }
            // Each look either makes room, or moves the flow's own time on, so that it is passed by once at most.
            while self.known.len() >= FLOWS_MAX {
                self.look(now, true);
            }
            self.round.push_back((now, key));
        }
        let flow = self.known.entry(key).or_insert(Flow {
            opened_here,
            began: now,
            bytes_in: 0,
            bytes_out: 0,
            datagrams_in: 0,
            datagrams_out: 0,
            used: now,
        });
        flow.used = now;
        flow
    }

    /// Looks at the flow in front: it goes when it is over, or, if there must be room, when it was not used since it was
    /// looked at last.
    fn look(&mut self, now: Instant, room: bool) {
        let Some((looked, key)) = self.round.pop_front() else { return };
        let Some(flow) = self.known.get(&key) else { return };
        if flow.is_over(now) || room && flow.used <= looked {
            self.known.remove(&key);
        } else {
            self.round.push_back((flow.used, key));
        }
    }
}

impl Flow {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.used) >= FLOW_IDLE
    }
}

#[cfg(test)]
mod tests;
