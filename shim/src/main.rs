//! `capsule-shim`: the small process that stands behind one capsule (see the library's page).
//!
//! `capsule-shim --dir DIR --id ID` starts it; the command returns when the shim serves. `capsule-shim gate DIR` is
//! what CRIU runs at a restore.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};

mod server;
mod start;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["gate", dir] => shim::gate::wait(Path::new(dir)).context("waiting at the gate"),
        ["--dir", dir, "--id", id] => start::start(Path::new(dir), id),
        ["--dir", _, "--id", _, "--resume", estate] => {
            start::resume(estate).context("taking over from an earlier shim")
        }
        _ => {
            eprintln!("usage: capsule-shim --dir DIR --id ID\n       capsule-shim gate DIR");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("capsule-shim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The capsule's directory, absolute, so that it can be named from anywhere.
fn directory(dir: &Path) -> anyhow::Result<PathBuf> {
    let dir = dir.canonicalize().with_context(|| format!("no directory {}", dir.display()))?;
    if !dir.is_dir() {
        bail!("{} is no directory", dir.display());
    }
    Ok(dir)
}
