//! The client of the chat example.

use std::process::ExitCode;

use anyhow::Result;
use chat::client::{Summary, Talk, talk};
use clap::Parser;

/// A chat client that checks the number of every line, over one connection.
#[derive(Parser)]
struct Arguments {
    /// The server, by host name or address.
    #[arg(value_name = "HOST:PORT")]
    server: String,
    /// Name in the chat: letters, digits, dashes.
    #[arg(long, default_value = "guest")]
    name: String,
    /// Lines to write; without it, as many as fit into --seconds.
    #[arg(long)]
    lines: Option<u64>,
    /// Seconds to write; 10 without --lines.
    #[arg(long)]
    seconds: Option<f64>,
    /// Lines written per second; 0: as fast as possible.
    #[arg(long, default_value_t = 10.0)]
    rate: f64,
    /// Print one JSON document at the end, and nothing else.
    #[arg(long)]
    json: bool,
    /// Don't show the lines of the chat.
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seconds = arguments.seconds.unwrap_or(if arguments.lines.is_some() { f64::INFINITY } else { 10.0 });
    let quiet = arguments.json || arguments.quiet;
    let summary = talk(&Talk {
        server: arguments.server,
        name: arguments.name.clone(),
        lines: arguments.lines.unwrap_or(u64::MAX),
        seconds,
        rate: arguments.rate,
        show: if quiet { |_| {} } else { print },
    });
    report(summary, arguments.name, arguments.json)
}

fn report(summary: Result<Summary>, name: String, json: bool) -> ExitCode {
    let summary = summary.unwrap_or_else(|error| Summary {
        name,
        error: Some(format!("{error:#}")),
        ..Summary::default()
    });
    if let Some(error) = &summary.error {
        eprintln!("chat-client: {error}");
    }
    if json {
        print(&serde_json::to_string(&summary).expect("numbers and strings"));
    } else {
        print(&format!(
            "{}: {} lines in {:.1} s, {} of them own; {} lost, {} repeated, {} reconnects; longest gap {:.0} ms",
            summary.name,
            summary.lines,
            summary.seconds,
            summary.sent,
            summary.lost,
            summary.repeated,
            summary.reconnects,
            summary.longest_gap_ms
        ));
    }
    if summary.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[expect(clippy::print_stdout, reason = "the chat and its summary are the output of this program")]
fn print(line: &str) {
    println!("{line}");
}
