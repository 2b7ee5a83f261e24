//! What whoever supervises this process (systemd, Type=notify) is told: that it serves, what it does, that it lives.
//! Without `NOTIFY_SOCKET` nobody is told anything.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

use crate::sidecar::Sidecar;

/// How often what is shown of the sidecar is looked at.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// Verbs and links are taken from here on.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The sidecar ends.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says again and again that the runtime lives on which this runs: belongs on the one that carries the bytes. Begins
/// before there is anything to carry, since a sidecar that takes over may need a while.
pub(crate) async fn pulse() {
    // Twice as often as wanted, so that one that comes late does no harm.
    let Some(within) = sd_notify::watchdog_enabled().filter(|within| !within.is_zero()) else { return };
    let mut ticks = interval(within / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

/// Says in a line what the sidecar has to do, whenever that changed.
pub(crate) async fn status(sidecar: Arc<Sidecar>) {
    let mut ticks = interval(STATUS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = String::new();
    loop {
        ticks.tick().await;
        let (capsules, links) = (sidecar.capsules.all().len(), sidecar.links.all().len());
        let status = format!("host {}: {capsules} capsules, {links} links", sidecar.me);
        if status != told {
            tell(&[NotifyState::Status(&status)]);
            told = status;
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, ?states, "the supervisor was not told");
    }
}
