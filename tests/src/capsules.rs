//! Verbs of `capsule` as the tests use them.

use std::time::Duration;

use serde_json::Value;
use testkit::{Host, Output, wait_for, wait_until};

use crate::SOON;

/// Where a capsule is and in what state: what a failed verb may not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// The host.
    pub host: String,
    /// The state's word.
    pub state: String,
    /// The generation.
    pub generation: u64,
    /// IPv4, then IPv6.
    pub locators: Vec<String>,
}

/// What a program left when it ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code.
    pub code: i64,
    /// All it wrote.
    pub stdout: String,
    /// All it wrote as errors.
    pub stderr: String,
}

impl Ended {
    /// The one JSON document it printed, of a program that succeeded.
    ///
    /// # Panics
    /// When it failed or printed anything else.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert!(self.code == 0, "ended with {}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr);
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {:?}", self.stdout))
    }
}

impl From<Output> for Ended {
    /// Of a program that ran on a host, outside of any capsule.
    fn from(output: Output) -> Self {
        Self { code: output.code.into(), stdout: output.stdout, stderr: output.stderr }
    }
}

/// Runs `capsule run -d NAME FLAGS -- ARGV`, which must work.
#[track_caller]
pub fn run(host: &Host, name: &str, flags: &[&str], argv: &[&str]) -> Value {
    let line = [&["--json", "run", "-d", name], flags, &["--"], argv].concat();
    host.capsule(line).ok().json()
}

/// Runs `capsule run -d NAME -- ARGV`, which must work.
#[track_caller]
pub fn start(host: &Host, name: &str, argv: &[&str]) -> Value {
    run(host, name, &[], argv)
}

/// Moves a capsule, which must work, and tells what it took.
#[track_caller]
pub fn move_to(host: &Host, name: &str, to: &str) -> Value {
    let answer = host.capsule(["--json", "move", name, "--to", to]).ok().json();
    assert_eq!((&answer["capsule"], &answer["to"]), (&Value::from(name), &Value::from(to)), "{answer}");
    let place = place(host, name);
    assert_eq!((place.host.as_str(), place.state.as_str()), (to, "running"), "after {answer}");
    eprintln!(
        "{name} {} → {to}: paused {} ms, {} of {} sessions, phases {}",
        answer["from"].as_str().unwrap_or("?"),
        answer["blackout_ms"],
        answer["sessions"],
        answer["sessions_before"],
        answer["phases_ms"]
    );
    assert_eq!(answer["sessions"], answer["sessions_before"], "not every session was attached: {answer}");
    answer
}

/// All capsules, as this host sees them.
#[track_caller]
pub fn places(host: &Host) -> Vec<Place> {
    let listed = host.capsule(["--json", "ps"]).ok().json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let capsules = listed["capsules"].as_array().cloned().unwrap_or_default();
    let of = |capsule: &Value| Place {
        name: text(&capsule["name"]),
        host: text(&capsule["host"]),
        state: text(&capsule["state"]),
        generation: capsule["generation"].as_u64().unwrap_or_default(),
        locators: capsule["locators"].as_array().into_iter().flatten().map(text).collect(),
    };
    capsules.iter().map(of).collect()
}

/// One capsule, as this host sees it.
///
/// # Panics
/// When it doesn't know it.
#[track_caller]
pub fn place(host: &Host, name: &str) -> Place {
    let all = places(host);
    let found = all.iter().find(|place| place.name == name);
    found.unwrap_or_else(|| panic!("{} does not list {name}: {all:?}", host.name())).clone()
}

/// A capsule's IPv4 and IPv6 locator.
#[track_caller]
pub fn locators(host: &Host, name: &str) -> (String, String) {
    let place = place(host, name);
    assert_eq!(place.locators.len(), 2, "{place:?}");
    (place.locators[0].clone(), place.locators[1].clone())
}

/// Runs a command inside a capsule to its end.
#[track_caller]
pub fn exec(host: &Host, name: &str, argv: &[&str]) -> Output {
    host.capsule([&["exec", name, "--"], argv].concat())
}

/// Waits until a capsule's output contains `text`.
#[track_caller]
pub fn wait_logged(host: &Host, name: &str, text: &str) {
    let mut last = String::new();
    let seen = std::panic::Location::caller();
    wait_until(SOON, &format!("{text:?} in the log of {name} ({seen})"), || {
        let logs = host.capsule(["logs", name]);
        last = logs.stdout + &logs.stderr;
        last.contains(text)
    });
}

/// Waits until a capsule's program has ended.
///
/// # Panics
/// When it still runs after `limit`.
#[track_caller]
pub fn ended(host: &Host, name: &str, limit: Duration) -> Ended {
    let code = wait_for(limit, &format!("the end of {name}'s program"), || {
        let view = host.capsule(["--json", "inspect", name]).ok().json();
        (view["state"] == "stopped").then(|| view["exit_code"].as_i64().expect("a stopped one has a code"))
    });
    let logs = host.capsule(["logs", name]).ok();
    Ended { code, stdout: logs.stdout, stderr: logs.stderr }
}
