//! Stands in a pipe behind a program that can't say itself how long it heard nothing.
//!
//! Passes its input on and measures the longest time without any; with `--count` each line must be the number after
//! the one before, and nothing is passed on. Says on stderr `gap_ms N`, which `apps` reads.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;

const BUFFER_BYTES: usize = 64 << 10;

/// Measures the longest silence of what it reads, and passes it on.
#[derive(Parser)]
struct Arguments {
    /// Lines are numbers, each one more than the one before; nothing is passed on.
    #[arg(long)]
    count: bool,
    /// Bytes per second to take at most, as 3M.
    #[arg(long, value_parser = testkit::parse_size)]
    rate: Option<u64>,
}

/// The longest time between two arrivals; what comes before the first does not count.
#[derive(Default)]
struct Silence {
    last: Option<Instant>,
    longest_ms: f64,
}

impl Silence {
    fn heard(&mut self) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.longest_ms = self.longest_ms.max((now - last).as_secs_f64() * 1000.0);
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut silence = Silence::default();
    let result = if arguments.count { count(&mut silence) } else { pass(&mut silence, arguments.rate) };
    eprintln!("gap_ms {:.0}", silence.longest_ms);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("witness: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn pass(silence: &mut Silence, rate: Option<u64>) -> Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut buffer = vec![0; BUFFER_BYTES];
    let (began, mut passed) = (Instant::now(), 0.0);
    loop {
        let count = input.read(&mut buffer)?;
        if count == 0 {
            return Ok(output.flush()?);
        }
        silence.heard();
        output.write_all(&buffer[..count])?;
        passed += count as f64;
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(passed / rate as f64);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
        // What it does itself meanwhile is no silence of others.
        silence.last = Some(Instant::now());
    }
}

fn count(silence: &mut Silence) -> Result<()> {
    let mut last: Option<u64> = None;
    for line in BufReader::new(io::stdin().lock()).lines() {
        let line = line?;
        silence.heard();
        let number: u64 = line.trim().parse().with_context(|| format!("{line:?} is no number"))?;
        if let Some(last) = last.filter(|last| last + 1 != number) {
            bail!("{number} came after {last}");
        }
        last = Some(number);
    }
    let last = last.context("no line came")?;
    eprintln!("note {last} lines in order");
    Ok(())
}
