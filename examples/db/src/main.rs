//! A database client that keeps one connection for its life and proves that every answer is the next one.
//!
//! Redis: `INCR` on a key. PostgreSQL: `INSERT … RETURNING` a serial number, each by itself or all in one long
//! transaction that is committed at the end. An answer that is not the one before plus one, a different address of
//! the connection, a row too few at the end, or a broken connection end it with exit code 1. It has no code to connect
//! again or to repeat.

mod load;
mod postgres;
mod redis;

use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgGroup, Parser};

use load::{Database, Load, Summary};

/// Keeps one database connection for its life and proves that every answer is the next one.
#[derive(Parser)]
#[command(group(ArgGroup::new("database").required(true)))]
struct Arguments {
    /// A Redis server.
    #[arg(long, value_name = "HOST:PORT", group = "database")]
    redis: Option<String>,
    /// A PostgreSQL server: postgres://USER@HOST:PORT/DATABASE.
    #[arg(long, value_name = "URL", group = "database")]
    postgres: Option<String>,
    /// One open transaction from the first insert to the last (PostgreSQL).
    #[arg(long, conflicts_with = "redis")]
    transaction: bool,
    /// Whose counter: clients of different names don't disturb each other. Small letters, digits, `_`.
    #[arg(long, default_value = "client", value_parser = name)]
    name: String,
    /// Operations; without it, as many as fit into --seconds.
    #[arg(long)]
    count: Option<u64>,
    /// Seconds to go on; 10 without --count.
    #[arg(long)]
    seconds: Option<f64>,
    /// Operations per second; 0: as fast as possible.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Print one JSON document at the end, and nothing else on stdout.
    #[arg(long)]
    json: bool,
    /// Print a line to stderr every second.
    #[arg(long)]
    progress: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let load = Load {
        count: arguments.count.unwrap_or(u64::MAX),
        seconds: arguments.seconds.unwrap_or(if arguments.count.is_some() { f64::INFINITY } else { 10.0 }),
        rate: arguments.rate,
        progress: arguments.progress,
    };
    let summary = match connect(&arguments) {
        Ok(mut database) => load.run(database.as_mut()),
        Err(error) => Summary { error: Some(format!("{error:#}")), ..Summary::default() },
    };
    report(&summary, arguments.json);
    if summary.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn connect(arguments: &Arguments) -> Result<Box<dyn Database>> {
    Ok(match (&arguments.redis, &arguments.postgres) {
        (Some(place), _) => Box::new(redis::Connection::open(place, &arguments.name)?),
        (None, Some(url)) => {
            Box::new(postgres::Connection::open(url, &arguments.name, arguments.transaction)?)
        }
        (None, None) => anyhow::bail!("neither --redis nor --postgres"),
    })
}

#[expect(clippy::print_stdout, reason = "the summary is the output of this program")]
fn report(summary: &Summary, json: bool) {
    if let Some(error) = &summary.error {
        eprintln!("db-client: {error}");
    }
    if json {
        println!("{}", serde_json::to_string(summary).expect("numbers and strings"));
        return;
    }
    println!(
        "{} operations in {:.1} s: {} wrong, {} reconnects, longest gap {:.0} ms, addresses {}",
        summary.operations,
        summary.seconds,
        summary.wrong,
        summary.reconnects,
        summary.longest_gap_ms,
        if summary.same_addresses { "unchanged" } else { "changed" },
    );
}

/// Part of a key and of a table's name.
fn name(text: &str) -> Result<String, String> {
    let good = (1..=40).contains(&text.len())
        && text.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_');
    if good { Ok(text.to_owned()) } else { Err("1 to 40 small letters, digits or _".into()) }
}
