//! What the DNS server counts.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The types that are counted by name, with their numbers; all others count together.
const KINDS: [(u16, &str); 11] = [
    (1, "A"),
    (28, "AAAA"),
    (33, "SRV"),
    (16, "TXT"),
    (12, "PTR"),
    (2, "NS"),
    (6, "SOA"),
    (48, "DNSKEY"),
    (43, "DS"),
    (255, "ANY"),
    (252, "AXFR"),
];
/// Response codes as they stand in a header (RFC 1035 and 2136), by number.
const CODES: [&str; 16] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET",
    "NOTAUTH", "NOTZONE", "11", "12", "13", "14", "15",
];
/// Upper ends of the histogram's classes, microseconds.
const TIMES_US: [u64; 13] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000];

/// Counters of the DNS server, since the start of the process.
#[derive(Debug, Default)]
pub struct DnsMetrics {
    /// Queries by type and code.
    queries: [[AtomicU64; CODES.len()]; KINDS.len() + 1],
    /// Queries answered with an answer that was kept.
    kept: AtomicU64,
    /// Updates by code.
    updates: [AtomicU64; CODES.len()],
    /// Answers that were cut or dropped because their network is over its rate.
    limited: AtomicU64,
    /// How long answers took that were worked out.
    made_times: Times,
    /// How long answers took that were kept.
    kept_times: Times,
}

/// A histogram.
#[derive(Debug, Default)]
struct Times {
    /// How many, by the time they took.
    classes: [AtomicU64; TIMES_US.len() + 1],
    /// All these times together, nanoseconds.
    sum_ns: AtomicU64,
}

impl DnsMetrics {
    /// A query was answered.
    pub fn answered(&self, kind: u16, code: u8, was_kept: bool) {
        let kind = KINDS.iter().position(|(number, _)| *number == kind).unwrap_or(KINDS.len());
        self.queries[kind][usize::from(code & 0xf)].fetch_add(1, Ordering::Relaxed);
        if was_kept {
            self.kept.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// From a packet to the encoded answer it took so long.
    pub fn took(&self, time: Duration, was_kept: bool) {
        if was_kept { self.kept_times.add(time) } else { self.made_times.add(time) }
    }

    /// An update was answered.
    pub fn updated(&self, code: u8) {
        self.updates[usize::from(code & 0xf)].fetch_add(1, Ordering::Relaxed);
    }

    /// An answer was cut or dropped by the rate limit.
    pub fn limited(&self) {
        self.limited.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds the text for Prometheus.
    pub fn render(&self, text: &mut String) {
        let head = |text: &mut String, name: &str, kind: &str, help: &str| {
            let _ = writeln!(
                text,
                "# HELP capsule_directory_{name} {help}\n# TYPE capsule_directory_{name} {kind}"
            );
        };
        head(text, "dns_queries_total", "counter", "DNS queries answered, by type and code.");
        let names = KINDS.iter().map(|(_, name)| *name).chain(["other"]);
        for (name, codes) in names.zip(&self.queries) {
            for (code, count) in CODES.iter().zip(codes) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let labels = format!("{{type=\"{name}\",code=\"{code}\"}}");
                    let _ = writeln!(text, "capsule_directory_dns_queries_total{labels} {count}");
                }
            }
        }
        head(text, "dns_updates_total", "counter", "DNS updates answered, by code.");
        for (code, count) in CODES.iter().zip(&self.updates) {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                let _ = writeln!(text, "capsule_directory_dns_updates_total{{code=\"{code}\"}} {count}");
            }
        }
        for (name, help, counter) in [
            ("dns_kept_total", "DNS queries answered with an answer that was kept.", &self.kept),
            ("dns_limited_total", "DNS answers cut or dropped by the rate limit.", &self.limited),
        ] {
            head(text, name, "counter", help);
            let _ = writeln!(text, "capsule_directory_{name} {}", counter.load(Ordering::Relaxed));
        }
        self.render_times(text);
    }

    fn render_times(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "# HELP {ANSWER_SECONDS} Time from a DNS query to its encoded answer, by whether that was kept.\n\
             # TYPE {ANSWER_SECONDS} histogram"
        );
        self.made_times.render("no", text);
        self.kept_times.render("yes", text);
    }
}

const ANSWER_SECONDS: &str = "capsule_directory_dns_answer_seconds";

impl Times {
    fn add(&self, time: Duration) {
        let class = TIMES_US.iter().position(|end| time <= Duration::from_micros(*end));
        self.classes[class.unwrap_or(TIMES_US.len())].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn render(&self, kept: &str, text: &mut String) {
        let mut count = 0;
        let ends = TIMES_US.iter().map(|end| (*end as f64 / 1e6).to_string()).chain(["+Inf".into()]);
        for (end, class) in ends.zip(&self.classes) {
            count += class.load(Ordering::Relaxed);
            let _ = writeln!(text, "{ANSWER_SECONDS}_bucket{{kept=\"{kept}\",le=\"{end}\"}} {count}");
        }
        let seconds = self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9;
        let _ = writeln!(text, "{ANSWER_SECONDS}_sum{{kept=\"{kept}\"}} {seconds}");
        let _ = writeln!(text, "{ANSWER_SECONDS}_count{{kept=\"{kept}\"}} {count}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_told_apart() {
        let metrics = DnsMetrics::default();
        metrics.answered(1, 0, true);
        metrics.answered(1, 3, false);
        metrics.answered(4711, 5, false);
        metrics.took(Duration::from_micros(30), false);
        metrics.took(Duration::from_secs(1), false);
        metrics.took(Duration::from_nanos(900), true);
        metrics.updated(9);
        let mut text = String::new();
        metrics.render(&mut text);
        for line in [
            "capsule_directory_dns_queries_total{type=\"A\",code=\"NOERROR\"} 1",
            "capsule_directory_dns_queries_total{type=\"A\",code=\"NXDOMAIN\"} 1",
            "capsule_directory_dns_queries_total{type=\"other\",code=\"REFUSED\"} 1",
            "capsule_directory_dns_kept_total 1",
            "capsule_directory_dns_updates_total{code=\"NOTAUTH\"} 1",
            "capsule_directory_dns_answer_seconds_bucket{kept=\"no\",le=\"0.00005\"} 1",
            "capsule_directory_dns_answer_seconds_bucket{kept=\"no\",le=\"+Inf\"} 2",
            "capsule_directory_dns_answer_seconds_count{kept=\"no\"} 2",
            "capsule_directory_dns_answer_seconds_bucket{kept=\"yes\",le=\"0.000001\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
