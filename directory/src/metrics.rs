//! What the directory counts, in Prometheus' text form.

mod dns;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use directory_api::CapsuleState;

use crate::registry::Registry;

pub use dns::DnsMetrics;

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
    /// Whether the last commit failed.
    store_failed: AtomicBool,
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
        self.store_failed.store(!succeeded, Ordering::Relaxed);
    }

    /// Whether changes can be made.
    pub fn is_ready(&self) -> bool {
        !self.store_failed.load(Ordering::Relaxed)
    }

    /// The text for Prometheus.
    pub fn render(&self, registry: &Registry) -> String {
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
        metric("store_failed", "gauge", "1 when the last commit failed.", &plain((!self.is_ready()).into()));
        metric("revision", "gauge", "Number of the last change.", &plain(registry.revision));
        metric("capsules", "gauge", "Capsules by state shown.", &capsules(registry));
        metric("hosts", "gauge", "Hosts by whether their lease is good.", &hosts(registry));
        self.dns.render(&mut text);
        text
    }
}

fn capsules(registry: &Registry) -> Vec<(String, f64)> {
    use CapsuleState::{Lost, Moving, Running, Stopped, Suspended};
    let shown = registry.capsules_shown();
    let of = |state: CapsuleState| shown.iter().filter(|record| record.state == state).count() as f64;
    let line = |state: CapsuleState| (format!("{{state=\"{state}\"}}"), of(state));
    [Running, Moving, Suspended, Lost, Stopped].into_iter().map(line).collect()
}

fn hosts(registry: &Registry) -> Vec<(String, f64)> {
    let of = |alive: bool| registry.hosts().filter(|host| host.alive == alive).count() as f64;
    [true, false].into_iter().map(|alive| (format!("{{alive=\"{alive}\"}}"), of(alive))).collect()
}
