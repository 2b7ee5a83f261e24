//! `capsule-sidecar`: one on each host, carries the connections of its capsules and moves capsules.

use std::process::ExitCode;

use capsule_sidecar::{app, command};
use clap::Parser;

fn main() -> ExitCode {
    let command = command::Command::parse();
    match app::run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
