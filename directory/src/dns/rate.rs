//! How many answers over UDP a network gets: whoever forges its victim's address must not make a flood of us. What is
//! over the limit is dropped, but for each second one, which is answered with "ask again by TCP": a true asker gets on,
//! and a victim gets no more bytes than were sent in its name.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::limits::{RATE_BURST, RATE_NETWORKS};

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is sent.
    Send,
    /// Only its header and question are sent, marked as truncated.
    Truncate,
    /// It is not sent.
    Drop,
}

/// The limits of all networks: for each the time at which it has used up nothing, in a table of fixed size.
pub(super) struct Rate {
    /// The time that one answer costs, microseconds; 0 switches the limit off.
    cost_us: u64,
    begin: Instant,
    free_at_us: Vec<AtomicU64>,
    over: AtomicU64,
}

impl Rate {
    pub(super) fn new(answers_per_second: u32, begin: Instant) -> Self {
        let cost_us = 1_000_000_u64.checked_div(answers_per_second.into()).unwrap_or(0);
        let free_at_us = std::iter::repeat_with(AtomicU64::default).take(RATE_NETWORKS).collect();
        Self { cost_us, begin, free_at_us, over: AtomicU64::new(0) }
    }

    pub(super) fn judge(&self, asker: IpAddr, now: Instant) -> Verdict {
        if self.cost_us == 0 {
            return Verdict::Send;
        }
        let now_us = micros(now.saturating_duration_since(self.begin));
        let slot = &self.free_at_us[slot(asker)];
        // Two threads may count one answer for two here; a limit of this kind is rough.
        let free_at = slot.load(Ordering::Relaxed).max(now_us);
        if free_at - now_us <= micros(RATE_BURST) {
            slot.store(free_at + self.cost_us, Ordering::Relaxed);
            return Verdict::Send;
        }
        if self.over.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            Verdict::Truncate
        } else {
            Verdict::Drop
        }
    }
}

/// IPv4 by /24, IPv6 by /56: what one customer has.
fn slot(asker: IpAddr) -> usize {
    let network = match asker.to_canonical() {
        IpAddr::V4(v4) => u64::from(v4.to_bits() >> 8),
        IpAddr::V6(v6) => u64::try_from(v6.to_bits() >> 72).unwrap_or(0) | 1 << 63,
    };
    usize::try_from(network.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).unwrap_or(0) % RATE_NETWORKS
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(rate: &Rate, asker: &str, times: usize, now: Instant) -> usize {
        (0..times).filter(|_| rate.judge(asker.parse().unwrap(), now) == Verdict::Send).count()
    }

    #[test]
    fn a_network_gets_its_rate_and_a_burst() {
        let begin = Instant::now();
        let rate = Rate::new(100, begin);
        let burst = 100 * usize::try_from(RATE_BURST.as_secs()).unwrap() + 1;
        assert_eq!(sent(&rate, "192.0.2.1", 1000, begin), burst);
        assert_eq!(sent(&rate, "192.0.2.2", 10, begin), 0, "the same network");
        assert_eq!(sent(&rate, "198.51.100.1", 10, begin), 10, "another one");
        assert_eq!(sent(&rate, "192.0.2.1", 1000, begin + Duration::from_millis(500)), 50);
        let verdicts = [0, 1].map(|_| rate.judge("192.0.2.1".parse().unwrap(), begin));
        assert!(verdicts.contains(&Verdict::Drop) && verdicts.contains(&Verdict::Truncate));
    }

    #[test]
    fn nought_is_no_limit() {
        let begin = Instant::now();
        assert_eq!(sent(&Rate::new(0, begin), "192.0.2.1", 100_000, begin), 100_000);
    }
}
