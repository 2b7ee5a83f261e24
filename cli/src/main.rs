//! The `capsule` command.
//!
//! A verb is one file in [`verb`]: its flags, the call it makes to the sidecar,
//! and how the answer reads. Results go to stdout, everything else to stderr;
//! with `--json` stdout carries exactly one document, whatever happens.

mod amounts;
mod args;
mod capsule_file;

mod context;
mod exec_io;
mod failure;
mod follow;
mod from_file;
mod output;
mod pcap;
mod progress;
mod sidecar;
mod signals;
mod table;
mod terminal;
mod usage;
mod verb;

use std::process;

use crate::{context::Context, failure::Failure};

fn main() {
    let arguments = match usage::parse() {
        Ok(arguments) => arguments,
        Err(code) => process::exit(code),
    };
    let context = Context::new(&arguments.global);
    let code = match run(arguments, &context) {
        Ok(code) => code,
        Err(failure) => context.fail(&failure),
    };
    process::exit(code);
}

fn run(arguments: args::Arguments, context: &Context) -> Result<i32, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::local("capsule/runtime", "capsule can't start", error))?;
    let outcome = runtime.block_on(verb::run(arguments.verb, context));
    // Without waiting: a read of stdin may be blocked in its thread for good.
    runtime.shutdown_background();
    outcome
}
