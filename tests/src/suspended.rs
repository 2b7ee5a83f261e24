//! `capsule suspend` and `capsule resume` as the tests use them.

use std::path::{Path, PathBuf};

use serde_json::Value;
use testkit::{Host, Output};

use crate::capsules::place;

/// Where a test puts a capsule file.
pub fn capsule_file(host: &Host, name: &str) -> PathBuf {
    host.dir().join(format!("{name}.capsule"))
}

/// Suspends a capsule, which must work, and tells what it took.
#[track_caller]
pub fn suspend(host: &Host, name: &str, file: &Path, flags: &[&str]) -> Value {
    let to = file.display().to_string();
    let answer = host.capsule([&["--json", "suspend", name, "--to", &to], flags].concat()).ok().json();
    let place = place(host, name);
    assert_eq!((place.host.as_str(), place.state.as_str()), ("", "suspended"), "after {answer}");
    assert_eq!(answer["generation"], place.generation, "{answer}");
    assert_eq!(answer["file"], to, "{answer}");
    eprintln!("{name} suspended: {} bytes, paused {} ms", answer["file_bytes"], answer["paused_ms"]);
    answer
}

/// Tries to resume a capsule.
pub fn try_resume(host: &Host, file: &Path, flags: &[&str]) -> Output {
    let file = file.display().to_string();
    host.capsule([&["--json", "resume", &file], flags].concat())
}

/// Resumes a capsule, which must work, and tells what it took.
#[track_caller]
pub fn resume(host: &Host, file: &Path, flags: &[&str]) -> Value {
    let answer = try_resume(host, file, flags).ok().json();
    let name = answer["capsule"].as_str().unwrap_or_default();
    let place = place(host, name);
    assert_eq!(Some(place.host.as_str()), answer["to"].as_str(), "after {answer}");
    assert_eq!(place.state, "running", "after {answer}");
    assert_eq!(answer["sessions"], answer["sessions_before"], "not every session was attached: {answer}");
    eprintln!("{name} resumed on {} after {} s", place.host, answer["suspended_s"]);
    answer
}

/// A resume must fail with this code, and change nothing: neither where the capsule is nor what is on the host.
#[track_caller]
pub fn refused(host: &Host, name: &str, file: &Path, flags: &[&str], code: &str) -> Output {
    let before = place(host, name);
    let output = try_resume(host, file, flags).exits(1);
    assert_eq!(output.json()["error"]["code"], code, "{output:?}");
    assert_eq!(place(host, name), before, "after {output:?}");
    output
}
