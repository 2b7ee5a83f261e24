//! What the directory counts, in Prometheus' text form.

mod dns;
mod health;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use directory_api::CapsuleState;

use crate::dns::signing::Signing;
use crate::registry::Registry;

pub use dns::DnsMetrics;
pub use health::Health;

/// All counters, since the start of the process.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests answered, of all kinds.
    requests: AtomicU64,
    /// Requests refused, among them.
    refusals: AtomicU64,
    /// What DNS counts.
    pub dns: Arc<DnsMetrics>,
    /// Commits made.
    commits: AtomicU64,
    /// Time spent in them, microseconds.
    commit_us: AtomicU64,
    /// Commits that failed, among them.
    commit_failures: AtomicU64,
    /// Commands evaluated again because another directory committed first.
    overtaken: AtomicU64,
    /// Leases that were renewed.
    leases_renewed: AtomicU64,
    /// Leases that ran out.
    leases_ended: AtomicU64,
    /// Watches that are open.
    watches: AtomicU64,
    /// Whether it all works.
    pub health: Health,
}

impl Metrics {
    /// A request was answered.
    pub fn answered(&self, refused: bool) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.refusals.fetch_add(refused.into(), Ordering::Relaxed);
    }

    /// A commit ended.
    pub fn committed(&self, took: Duration, succeeded: bool) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.commit_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.commit_failures.fetch_add((!succeeded).into(), Ordering::Relaxed);
    }

    /// Commands are evaluated again: another directory committed first.
    pub fn overtaken(&self, commands: usize) {
        self.overtaken.fetch_add(u64::try_from(commands).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// So many leases were renewed.
    pub fn leases_renewed(&self, count: usize) {
        self.leases_renewed.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// So many leases ran out.
    pub fn leases_ended(&self, count: usize) {
        self.leases_ended.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// A watch is open for as long as what this gives is kept.
    pub fn watch(&self) -> OpenWatch<'_> {
        self.watches.fetch_add(1, Ordering::Relaxed);
        OpenWatch(&self.watches)
    }

    /// The text for Prometheus.
    pub fn render(&self, registry: &Registry, signing: &Signing) -> String {
        let mut text = String::new();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut metric = |name: &str, kind: &str, help: &str, lines: &[(String, f64)]| {
            let _ = writeln!(
                text,
                "# HELP capsule_directory_{name} {help}\n# TYPE capsule_directory_{name} {kind}"
            );
            for (labels, value) in lines {
                let _ = writeln!(text, "capsule_directory_{name}{labels} {value}");
            }
        };
        let plain = |value: u64| [(String::new(), value as f64)];
        metric("requests_total", "counter", "Requests answered.", &plain(count(&self.requests)));
        metric("refusals_total", "counter", "Requests refused.", &plain(count(&self.refusals)));
        metric("commits_total", "counter", "Commits to the store.", &plain(count(&self.commits)));
        let seconds = [(String::new(), count(&self.commit_us) as f64 / 1e6)];
        metric("commit_seconds_total", "counter", "Time spent in commits.", &seconds);
        let failures = plain(count(&self.commit_failures));
        metric("commit_failures_total", "counter", "Commits that failed, among them.", &failures);
        let help = "Commands evaluated again because another directory committed first.";
        metric("commands_overtaken_total", "counter", help, &plain(count(&self.overtaken)));
        let failed = plain((self.health.is_store_failed() || !self.health.is_in_touch()).into());
        let help = "1 when the last commit failed, or a shared store cannot be reached.";
        metric("store_failed", "gauge", help, &failed);
        metric("leases_renewed_total", "counter", "Leases renewed.", &plain(count(&self.leases_renewed)));
        metric("leases_ended_total", "counter", "Leases that ran out.", &plain(count(&self.leases_ended)));
        metric("watches", "gauge", "Watches that are open.", &plain(count(&self.watches)));
        metric("dns_signatures_total", "counter", "Signatures made for DNSSEC.", &plain(signing.made));
        metric("dns_signatures_kept", "gauge", "Signatures kept.", &plain(signing.kept));
        metric("dns_keys", "gauge", "Keys that the zones show.", &plain(signing.keys));
        let end = plain(signing.expiration_s);
        let help = "When signatures made at present expire, seconds since 1970.";
        metric("dns_signatures_expiration_seconds", "gauge", help, &end);
        metric("revision", "gauge", "Number of the last change.", &plain(registry.revision));
        metric("capsules", "gauge", "Capsules by state shown.", &capsules(registry));
        metric("hosts", "gauge", "Hosts by whether their lease is good.", &hosts(registry));
        self.dns.render(&mut text);
        text
    }
}

/// A watch that is open.
#[derive(Debug)]
pub struct OpenWatch<'a>(&'a AtomicU64);

impl Drop for OpenWatch<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn capsules(registry: &Registry) -> Vec<(String, f64)> {
    use CapsuleState::{Lost, Moving, Running, Stopped, Suspended};
    let shown: Vec<_> = registry.states_shown().collect();
    let of = |state: CapsuleState| shown.iter().filter(|found| **found == state).count() as f64;
    let line = |state: CapsuleState| (format!("{{state=\"{state}\"}}"), of(state));
    [Running, Moving, Suspended, Lost, Stopped].into_iter().map(line).collect()
}

fn hosts(registry: &Registry) -> Vec<(String, f64)> {
    let of = |alive: bool| registry.hosts().filter(|host| host.alive == alive).count() as f64;
    [true, false].into_iter().map(|alive| (format!("{{alive=\"{alive}\"}}"), of(alive))).collect()
}
