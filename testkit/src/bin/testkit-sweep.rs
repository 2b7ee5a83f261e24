//! Removes what a killed test left behind.
//!
//! `--when-orphaned PREFIX`: waits until its input ends, which is the end of the test that started it; sweeps unless it
//! was told `done`. `--dead`: sweeps every mesh whose maker has died.

use std::io::{self, Read};
use std::process::ExitCode;

use clap::Parser;

/// Removes what killed tests left behind.
#[derive(Parser)]
#[group(required = true, multiple = false)]
struct Arguments {
    /// Wait for the end of input, then remove what has names beginning with this.
    #[arg(long, value_name = "PREFIX")]
    when_orphaned: Option<String>,
    /// Remove every mesh whose maker has died.
    #[arg(long)]
    dead: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let failures = match arguments.when_orphaned {
        Some(prefix) => {
            let mut said = String::new();
            // Input that can't be read is input that has ended.
            let _ = io::stdin().read_to_string(&mut said);
            if said.trim() == "done" { Vec::new() } else { testkit::sweep(&prefix) }
        }
        None => {
            let (swept, failures) = testkit::sweep_dead();
            for prefix in swept {
                eprintln!("testkit-sweep: removed {prefix}");
            }
            failures
        }
    };
    for failure in &failures {
        eprintln!("testkit-sweep: {failure}");
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
