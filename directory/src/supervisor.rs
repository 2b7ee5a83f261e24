//! What whoever supervises this process (systemd, Type=notify) is told: that it serves, what it does, that it lives.
//! Without `NOTIFY_SOCKET` nobody is told anything.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Instant;
use tracing::warn;

use crate::limits::STATUS_EVERY;
use crate::published::Published;

/// Requests and questions are answered from here on.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The directory ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// What is said while the directory runs.
#[derive(Debug)]
pub struct Pulse {
    /// How often the supervisor wants to hear of it, if it does.
    every: Option<Duration>,
    beaten: Option<Instant>,
    shown: Option<Instant>,
    status: String,
}

impl Pulse {
    /// Reads what the supervisor wants.
    pub fn new() -> Self {
        // Twice as often as wanted, so that one that comes late does no harm.
        let every = sd_notify::watchdog_enabled().map(|within| within / 2);
        Self { every, beaten: None, shown: None, status: String::new() }
    }

    /// How long the next beat may be away, where the supervisor waits for it.
    pub fn every(&self) -> Option<Duration> {
        self.every
    }

    /// The writer has answered: it lives, and with it the directory. Says so when it is time to.
    pub fn beat(&mut self, zone: &directory_api::Zone, published: &Published) {
        let now = Instant::now();
        let is_due = |last: Option<Instant>, every| last.is_none_or(|last| now >= last + every);
        if self.every.is_some_and(|every| is_due(self.beaten, every)) {
            self.beaten = Some(now);
            tell(&[NotifyState::Watchdog]);
        }
        if is_due(self.shown, STATUS_EVERY) {
            self.shown = Some(now);
            let (capsules, hosts) = published.read(|all| (all.capsule_count(), all.hosts().count()));
            let status = format!("zone {zone}: {hosts} hosts, {capsules} capsules");
            if status != self.status {
                tell(&[NotifyState::Status(&status)]);
                self.status = status;
            }
        }
    }
}

impl Default for Pulse {
    fn default() -> Self {
        Self::new()
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, ?states, "the supervisor was not told");
    }
}
