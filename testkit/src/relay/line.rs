//! One direction of a flow: packets wait until they are due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Shared;

/// Packets that may wait in one direction: 50 ms at 100,000 packets a second.
const PACKETS_MAX: usize = 5_000;

/// Packets on their way in one direction.
pub(super) struct Line {
    shared: Arc<Shared>,
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Default)]
struct Waiting {
    /// By the time when they are due, then in the order in which they came.
    packets: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    count: u64,
}

impl Line {
    pub(super) fn new(shared: Arc<Shared>) -> Line {
        Line { shared, waiting: Mutex::default(), more: Notify::new() }
    }

    /// Takes a packet; gives what is to be sent at once.
    pub(super) fn take<'a>(&self, from: Ipv4Addr, to: Ipv4Addr, packet: &'a [u8]) -> Option<&'a [u8]> {
        let fate = {
            let mut state = self.shared.lock();
            if state.cuts.contains(&(from, to)) {
                self.shared.cut.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            let weather = state.weather;
            weather.fate(&mut state.dice)
        };
        let Some(first) = fate.first else {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let at_once = first.is_zero() && waiting.packets.is_empty();
        if fate.second.is_some() {
            self.shared.duplicated.fetch_add(1, Ordering::Relaxed);
        }
        let now = Instant::now();
        for after in (!at_once).then_some(first).into_iter().chain(fate.second) {
            if waiting.packets.len() >= PACKETS_MAX {
                self.shared.overflowed.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            waiting.count += 1;
            let order = waiting.count;
            waiting.packets.push(Reverse((now + after, order, packet.to_vec())));
            self.more.notify_one();
        }
        at_once.then_some(packet)
    }

    /// The packet that is due next, when it is due.
    pub(super) async fn next(&self) -> Vec<u8> {
        loop {
            let due = {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                let due = waiting.packets.peek().map(|Reverse((due, ..))| *due);
                if due.is_some_and(|due| due <= Instant::now())
                    && let Some(Reverse((_, _, packet))) = waiting.packets.pop()
                {
                    return packet;
                }
                due
            };
            match due {
                Some(due) => tokio::select! {
                    () = sleep_until(due) => {}
                    () = self.more.notified() => {}
                },
                None => self.more.notified().await,
            }
        }
    }
}
