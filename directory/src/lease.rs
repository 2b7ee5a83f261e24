//! Which hosts live: whoever renewed within the lease's time. Pure; the clock is an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use overlay_proto::HostName;

/// The leases of all hosts.
#[derive(Debug)]
pub struct Leases {
    duration: Duration,
    renewed: HashMap<HostName, Instant>,
}

impl Leases {
    /// Begins with a fresh lease for every host known: a directory that was away can't have heard of them.
    pub fn new(duration: Duration, hosts: impl IntoIterator<Item = HostName>, now: Instant) -> Self {
        Self { duration, renewed: hosts.into_iter().map(|host| (host, now)).collect() }
    }

    /// How long a lease is good.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// Whether a host's lease is good.
    pub fn is_live(&self, host: &HostName) -> bool {
        self.renewed.contains_key(host)
    }

    /// A host renews; gives whether it had none.
    pub fn renew(&mut self, host: &HostName, now: Instant) -> bool {
        self.renewed.insert(host.clone(), now).is_none()
    }

    /// A host is forgotten; gives when it renewed last.
    pub fn remove(&mut self, host: &HostName) -> Option<Instant> {
        self.renewed.remove(host)
    }

    /// Everybody's lease is fresh: nobody could be heard.
    pub fn renew_all(&mut self, now: Instant) {
        self.renewed.values_mut().for_each(|renewed| *renewed = now);
    }

    /// The hosts whose lease ran out.
    pub fn overdue(&self, now: Instant) -> Vec<HostName> {
        let ended =
            |(_, renewed): &(&HostName, &Instant)| now.saturating_duration_since(**renewed) > self.duration;
        let mut hosts: Vec<_> = self.renewed.iter().filter(ended).map(|(host, _)| host.clone()).collect();
        hosts.sort();
        hosts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_runs_out_once_and_comes_back() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let (a, b): (HostName, HostName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let mut leases = Leases::new(10 * second, [a.clone()], start);
        assert!(leases.renew(&b, start + 5 * second));
        assert!(leases.overdue(start + 10 * second).is_empty());
        assert_eq!(leases.overdue(start + 11 * second), std::slice::from_ref(&a));
        assert_eq!(leases.remove(&a), Some(start));
        assert!(leases.overdue(start + 11 * second).is_empty());
        assert!(leases.renew(&a, start + 12 * second));
        assert!(!leases.renew(&b, start + 13 * second));
        assert_eq!(leases.overdue(start + 30 * second), [a, b]);
        leases.renew_all(start + 30 * second);
        assert!(leases.overdue(start + 40 * second).is_empty());
    }
}
