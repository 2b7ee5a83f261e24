//! The logs of a mesh: shown and kept when a test fails.

use std::fs;
use std::path::{Path, PathBuf};

use crate::programs;

const TAIL_LINES: usize = 60;

/// Prints the last lines of every log to stderr.
pub(super) fn show(dir: &Path) {
    for path in files(dir) {
        let text = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        if lines.is_empty() {
            continue;
        }
        let from = lines.len().saturating_sub(TAIL_LINES);
        eprintln!("--- {} (last {} of {} lines)", path.display(), lines.len() - from, lines.len());
        eprintln!("{}", lines[from..].join("\n"));
    }
}

/// Copies every log to `target/testkit/PREFIX`.
pub(super) fn keep(dir: &Path, prefix: &str) {
    let Some(target) = programs::folder().parent().map(|target| target.join("testkit").join(prefix)) else {
        return;
    };
    let mut kept = 0;
    for path in files(dir) {
        let Ok(inside) = path.strip_prefix(dir) else { continue };
        let name = inside.display().to_string().replace('/', "_");
        // A log that can't be copied must not hide the failure that is being reported.
        let copied = fs::create_dir_all(&target).and_then(|()| fs::copy(&path, target.join(name)));
        kept += usize::from(copied.is_ok());
    }
    eprintln!("testkit: {kept} logs are in {}", target.display());
}

/// Logs of hosts (`HOST/log/*`) and of capsules (`HOST/data/capsules/ID/…log`, runc's and CRIU's among them).
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for host in entries(dir) {
        found.extend(entries(&host.join("log")));
        for capsule in
            entries(&host.join("data/capsules")).into_iter().chain(entries(&host.join("data/moves")))
        {
            for path in entries(&capsule) {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if path.is_file() && (name.contains("log") || name == "journal" || name.ends_with(".json")) {
                    found.push(path);
                }
            }
        }
    }
    found.sort();
    found
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}
