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
const TIMES_US: [u64; 10] = [10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000];

/// Counters of the DNS server, since the start of the process.
#[derive(Debug, Default)]
pub struct DnsMetrics {
    /// Queries by type and code.
    queries: [[AtomicU64; CODES.len()]; KINDS.len() + 1],
    /// Queries answered with an answer that was kept.
    kept: AtomicU64,
    /// Answers that were cut or dropped because their network is over its rate.
    limited: AtomicU64,
    /// Answers that were worked out, by the time it took.
    times: [AtomicU64; TIMES_US.len() + 1],
    /// That time, microseconds.
    time_us: AtomicU64,
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

    /// An answer that was not kept took so long.
    pub fn worked_out(&self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let class = TIMES_US.iter().position(|end| took_us <= *end).unwrap_or(TIMES_US.len());
        self.times[class].fetch_add(1, Ordering::Relaxed);
        self.time_us.fetch_add(took_us, Ordering::Relaxed);
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
        const NAME: &str = "capsule_directory_dns_answer_seconds";
        let _ = writeln!(
            text,
            "# HELP {NAME} Time to work out, sign and encode DNS answers that were not kept.\n# TYPE {NAME} histogram"
        );
        let mut sum = 0;
        for (end, count) in
            TIMES_US.iter().map(|end| (*end as f64 / 1e6).to_string()).chain(["+Inf".into()]).zip(&self.times)
        {
            sum += count.load(Ordering::Relaxed);
            let _ = writeln!(text, "{NAME}_bucket{{le=\"{end}\"}} {sum}");
        }
        let seconds = self.time_us.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(text, "{NAME}_sum {seconds}\n{NAME}_count {sum}");
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
        metrics.worked_out(Duration::from_micros(30));
        metrics.worked_out(Duration::from_secs(1));
        let mut text = String::new();
        metrics.render(&mut text);
        for line in [
            "capsule_directory_dns_queries_total{type=\"A\",code=\"NOERROR\"} 1",
            "capsule_directory_dns_queries_total{type=\"A\",code=\"NXDOMAIN\"} 1",
            "capsule_directory_dns_queries_total{type=\"other\",code=\"REFUSED\"} 1",
            "capsule_directory_dns_kept_total 1",
            "capsule_directory_dns_answer_seconds_bucket{le=\"0.00005\"} 1",
            "capsule_directory_dns_answer_seconds_bucket{le=\"+Inf\"} 2",
            "capsule_directory_dns_answer_seconds_count 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
