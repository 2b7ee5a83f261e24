//! The load: one operation after another, each answer compared with the one before.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

/// One connection to a database that counts.
pub(crate) trait Database {
    /// Counts one up, and gives the number that the database answers.
    fn next(&mut self) -> Result<u64>;
    /// Ends the work, and gives how many numbers from `first` to `last` the database has in the end.
    fn finish(&mut self, first: u64, last: u64) -> Result<u64>;
    /// Own and peer address of the connection, as the kernel says now.
    fn addresses(&self) -> Result<(SocketAddr, SocketAddr)>;
}

/// How much, and how fast.
pub(crate) struct Load {
    pub(crate) count: u64,
    pub(crate) seconds: f64,
    pub(crate) rate: f64,
    pub(crate) progress: bool,
}

/// What was seen.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Summary {
    pub(crate) ok: bool,
    pub(crate) operations: u64,
    /// Answers that were not the one before plus one, and numbers missing at the end.
    pub(crate) wrong: u64,
    /// Always 0: there is no code to connect again.
    pub(crate) reconnects: u64,
    pub(crate) first: Option<u64>,
    pub(crate) last: Option<u64>,
    /// Between two answers; at a rate this holds the wait between operations too.
    pub(crate) longest_gap_ms: f64,
    /// From a question to its answer.
    pub(crate) slowest_answer_ms: f64,
    pub(crate) seconds: f64,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) same_addresses: bool,
    pub(crate) error: Option<String>,
}

impl Load {
    pub(crate) fn run(&self, database: &mut dyn Database) -> Summary {
        let mut summary = Summary::default();
        let began = Instant::now();
        let result = self.work(database, &mut summary);
        summary.seconds = began.elapsed().as_secs_f64();
        summary.error = result.err().map(|error| format!("{error:#}"));
        summary.ok =
            summary.error.is_none() && summary.wrong == 0 && summary.same_addresses && summary.operations > 0;
        summary
    }

    fn work(&self, database: &mut dyn Database, summary: &mut Summary) -> Result<()> {
        let before = database.addresses()?;
        (summary.local, summary.peer) = (Some(before.0), Some(before.1));
        self.count(database, summary)?;
        if let (Some(first), Some(last)) = (summary.first, summary.last) {
            let kept = database.finish(first, last).context("at the end")?;
            summary.wrong += kept.abs_diff(summary.operations);
        }
        summary.same_addresses = database.addresses()? == before;
        Ok(())
    }

    fn count(&self, database: &mut dyn Database, summary: &mut Summary) -> Result<()> {
        let began = Instant::now();
        let (mut answered, mut told) = (None::<Instant>, 0);
        while summary.operations < self.count && began.elapsed().as_secs_f64() < self.seconds {
            let asked = Instant::now();
            let number = database.next().with_context(|| format!("after {} answers", summary.operations))?;
            let now = Instant::now();
            if summary.last.is_some_and(|last| number != last + 1) {
                summary.wrong += 1;
                eprintln!("wrong: {number} after {:?}", summary.last);
            }
            summary.first = summary.first.or(Some(number));
            summary.last = Some(number);
            summary.operations += 1;
            summary.slowest_answer_ms = summary.slowest_answer_ms.max(milliseconds(now - asked));
            let gap = answered.replace(now).map_or(0.0, |last| milliseconds(now - last));
            summary.longest_gap_ms = summary.longest_gap_ms.max(gap);
            if self.progress && began.elapsed().as_secs() > told {
                told = began.elapsed().as_secs();
                eprintln!(
                    "{told} s: {} answers, longest gap {:.0} ms",
                    summary.operations, summary.longest_gap_ms
                );
            }
            if self.rate > 0.0 {
                let due = Duration::from_secs_f64(summary.operations as f64 / self.rate);
                thread::sleep(due.saturating_sub(began.elapsed()));
            }
        }
        Ok(())
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Script {
        answers: Vec<u64>,
        kept: u64,
        port: u16,
    }

    impl Database for Script {
        fn next(&mut self) -> Result<u64> {
            anyhow::ensure!(!self.answers.is_empty(), "the connection broke");
            Ok(self.answers.remove(0))
        }

        fn finish(&mut self, _: u64, _: u64) -> Result<u64> {
            self.port += u16::from(self.kept == 99);
            Ok(self.kept)
        }

        fn addresses(&self) -> Result<(SocketAddr, SocketAddr)> {
            Ok((SocketAddr::from(([10, 0, 0, 1], self.port)), SocketAddr::from(([10, 0, 0, 2], 6379))))
        }
    }

    fn run(answers: &[u64], count: u64, kept: u64) -> Summary {
        let load = Load { count, seconds: f64::INFINITY, rate: 0.0, progress: false };
        load.run(&mut Script { answers: answers.to_vec(), kept, port: 4000 })
    }

    #[test]
    fn every_answer_the_next_one() {
        let summary = run(&[7, 8, 9], 3, 3);
        assert!(summary.ok, "{summary:?}");
        assert_eq!((summary.operations, summary.first, summary.last), (3, Some(7), Some(9)));
    }

    #[test]
    fn lost_repeated_and_missing_numbers_are_wrong() {
        for (answers, kept, wrong) in
            [([7, 9, 10], 3, 1), ([7, 7, 8], 3, 1), ([7, 8, 9], 2, 1), ([9, 8, 7], 3, 2)]
        {
            let summary = run(&answers, 3, kept);
            assert!(!summary.ok && summary.wrong == wrong, "{summary:?}");
        }
    }

    #[test]
    fn a_broken_connection_and_another_address_are_errors() {
        let summary = run(&[1, 2], 3, 2);
        assert!(
            !summary.ok && summary.error.as_deref() == Some("after 2 answers: the connection broke"),
            "{summary:?}"
        );
        let summary = run(&[1], 1, 99);
        assert!(!summary.ok && !summary.same_addresses, "{summary:?}");
    }
}
