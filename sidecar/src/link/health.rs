//! Whether a link is alive, and where it leads: told by QUIC's own counters, which are looked at a few times a second.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Carrier, Link};

/// What is known of the far end of a link.
#[derive(Debug, Clone)]
pub(super) struct Health {
    /// Datagrams received so far, and when they last became more.
    datagrams: u64,
    heard: Instant,
    /// A sign of life is expected by then.
    expected: Option<Instant>,
    silent: bool,
    remote: Option<SocketAddr>,
    path_changes: u64,
    rebinds: u64,
}

/// What a look at a link shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// Nothing was heard for too long.
    pub(super) silent: bool,
    /// The other host is at another address than before.
    pub(super) moved: Option<(SocketAddr, SocketAddr)>,
}

/// The counters of a link, since it came up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Counters {
    /// Times that the other host's address changed under the link.
    pub path_changes: u64,
    /// Times that this host told the link to take another way from here.
    pub rebinds: u64,
    /// Times that the other host checked the way to here (PATH_CHALLENGE, RFC 9000, section 8.2).
    pub path_checks: u64,
    /// Since the last datagram of the other host.
    pub silent: Duration,
    /// Round-trip time.
    pub rtt: Duration,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets sent that were lost.
    pub lost_packets: u64,
    /// Bytes of UDP payload sent.
    pub sent_bytes: u64,
    /// Bytes of UDP payload received.
    pub received_bytes: u64,
    /// Largest UDP payload that gets through.
    pub mtu_bytes: u16,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            datagrams: 0,
            heard: Instant::now(),
            expected: None,
            silent: false,
            remote: None,
            path_changes: 0,
            rebinds: 0,
        }
    }
}

impl Health {
    /// A link that came up just now.
    pub(super) fn new(now: Instant, remote: SocketAddr) -> Self {
        Self { heard: now, remote: Some(remote), ..Self::default() }
    }

    /// Takes the counters as they are at `now`; a link is silent when it was not heard for `silent_after`.
    pub(super) fn look(
        &mut self,
        now: Instant,
        datagrams: u64,
        remote: SocketAddr,
        silent_after: Duration,
    ) -> Look {
        if datagrams != self.datagrams {
            (self.datagrams, self.heard, self.expected) = (datagrams, now, None);
        }
        let moved = self.remote.replace(remote).filter(|before| *before != remote);
        self.path_changes += u64::from(moved.is_some());
        let overdue = self.expected.is_some_and(|expected| expected <= now);
        self.silent = overdue || now.duration_since(self.heard) >= silent_after;
        Look { silent: self.silent, moved: moved.map(|before| (before, remote)) }
    }

    /// The link was told that its way may have changed: it should be heard within `time`.
    pub(super) fn rebound(&mut self, now: Instant, time: Duration) {
        self.rebinds += 1;
        self.expected.get_or_insert(now + time);
    }
}

impl Link {
    /// How long ago the other host was heard, as of the last look at the link.
    pub fn unheard(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.health.lock().expect("no panics under this lock").heard)
    }

    /// True if the last look at the link found that nothing had come for too long.
    pub fn is_silent(&self) -> bool {
        self.health.lock().expect("no panics under this lock").silent
    }

    /// The counters of the link; `None` on the local one.
    pub fn counters(&self) -> Option<Counters> {
        let Carrier::Quic(connection) = &self.carrier else { return None };
        let stats = connection.stats();
        let health = self.health.lock().expect("no panics under this lock");
        Some(Counters {
            path_changes: health.path_changes,
            rebinds: health.rebinds,
            path_checks: stats.frame_rx.path_challenge,
            silent: health.heard.elapsed(),
            rtt: stats.path.rtt,
            sent_packets: stats.path.sent_packets,
            lost_packets: stats.path.lost_packets,
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            mtu_bytes: stats.path.current_mtu,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT: Duration = Duration::from_secs(3);

    fn remote(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    #[test]
    fn a_link_is_silent_when_nothing_comes_and_not_when_something_does() {
        let began = Instant::now();
        let mut health = Health::new(began, remote(1));
        let mut silent = |seconds, datagrams| {
            health.look(began + Duration::from_secs(seconds), datagrams, remote(1), SILENT).silent
        };
        assert!(!silent(1, 5));
        assert!(!silent(3, 5));
        assert!(silent(4, 5));
        assert!(silent(5, 5));
        assert!(!silent(6, 6));
        assert!(!silent(8, 6));
    }

    #[test]
    fn after_a_rebind_a_sign_of_life_is_expected_sooner() {
        let began = Instant::now();
        let mut health = Health::new(began, remote(1));
        let at = |millis| began + Duration::from_millis(millis);
        health.look(at(0), 7, remote(1), SILENT);
        health.rebound(at(100), Duration::from_millis(500));
        assert!(!health.look(at(500), 7, remote(1), SILENT).silent);
        // Another one does not put it off.
        health.rebound(at(550), Duration::from_millis(500));
        assert!(health.look(at(600), 7, remote(1), SILENT).silent);
        assert!(!health.look(at(700), 8, remote(1), SILENT).silent);
        assert!(!health.look(at(2_000), 8, remote(1), SILENT).silent);
        assert_eq!(health.rebinds, 2);
    }

    #[test]
    fn the_other_side_s_address_is_followed() {
        let began = Instant::now();
        let mut health = Health::new(began, remote(1));
        assert_eq!(health.look(began, 1, remote(1), SILENT).moved, None);
        assert_eq!(health.look(began, 2, remote(2), SILENT).moved, Some((remote(1), remote(2))));
        assert_eq!(health.look(began, 3, remote(2), SILENT).moved, None);
        assert_eq!(health.path_changes, 1);
    }
}
