//! The programs of the demo: how they are started, and what they say of themselves in the end.

use std::time::Duration;

use serde_json::Value;
use testkit::{Host, program, wait_until};

/// Answers per second that the counter asks for.
const COUNTER_RATE: &str = "1000";
/// Lines per second that each person writes.
const CHAT_RATE: &str = "50";
const END_LIMIT: Duration = Duration::from_secs(20);

pub(crate) const NAMES: [&str; 5] = ["redis", "counter", "chat", "anna", "ben"];

/// What one program has seen, as far as it is the one to say it.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) messages: u64,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) reconnects: u64,
    pub(crate) longest_gap_ms: Option<f64>,
    /// Why its verdict can't be ok, beyond the numbers.
    pub(crate) complaint: Option<String>,
}

/// What it is, for the audience.
pub(crate) fn description(name: &str) -> &'static str {
    match name {
        "redis" => "redis-server",
        "counter" => "asks redis to count up, checks every answer, one connection",
        "chat" => "chat server, numbers every line",
        _ => "writes in the chat, checks the number of every line, one connection",
    }
}

/// Its command line.
pub(crate) fn argv(name: &str, talk: Duration) -> Vec<String> {
    let seconds = talk.as_secs_f64().to_string();
    let ours = |name: &str| program(name).display().to_string();
    let words: Vec<&str> = match name {
        "redis" => vec!["redis-server", "--save", "", "--protected-mode", "no"],
        "counter" => vec![
            "--redis",
            "redis.capsule.internal:6379",
            "--rate",
            COUNTER_RATE,
            "--seconds",
            &seconds,
            "--json",
        ],
        "chat" => vec![],
        _ => vec![
            "chat.capsule.internal:7000",
            "--name",
            name,
            "--rate",
            CHAT_RATE,
            "--seconds",
            &seconds,
            "--json",
        ],
    };
    let first = match name {
        "redis" => None,
        "counter" => Some(ours("db-client")),
        "chat" => Some(ours("chat-server")),
        _ => Some(ours("chat-client")),
    };
    first.into_iter().chain(words.into_iter().map(str::to_owned)).collect()
}

/// Waits until a server takes connections.
pub(crate) fn wait_for_server(host: &Host, name: &str) {
    wait_until(END_LIMIT, &format!("{name} to listen"), || match name {
        "redis" => redis(host, &["ping"]) == "PONG",
        _ => host.capsule(["logs", name, "--json"]).json()["stderr"]
            .as_str()
            .is_some_and(|text| text.contains("listening")),
    });
}

/// How far the counter is, as Redis says.
pub(crate) fn count(host: &Host) -> u64 {
    redis(host, &["--raw", "get", "db-client:client"]).parse().unwrap_or(0)
}

/// The counter's connection as Redis knows it: number, address and port.
pub(crate) fn connection(host: &Host) -> Option<String> {
    let listed = redis(host, &["client", "list"]);
    let line = listed.lines().find(|line| line.contains("cmd=incr"))?;
    Some(line.split(' ').take(2).collect::<Vec<_>>().join(" "))
}

fn redis(host: &Host, words: &[&str]) -> String {
    let line = ["exec", "redis", "--", "redis-cli"].iter().chain(words);
    host.capsule(line).stdout.trim().to_owned()
}

/// Waits for the end of the three that end by themselves.
pub(crate) fn wait_for_clients(host: &Host) {
    wait_until(END_LIMIT, "the end of counter, anna and ben", || {
        let listed = host.capsule(["ps", "--json"]).ok().json();
        let stopped = |capsule: &Value| capsule["state"] == "stopped";
        let all = listed["capsules"].as_array().map(Vec::as_slice).unwrap_or_default();
        all.iter().filter(|capsule| stopped(capsule)).count() == 3
    });
}

/// What every program has seen, in the order of `NAMES`.
///
/// `same` is whether Redis saw the counter come from the same place at the beginning and at the end.
pub(crate) fn all_seen(host: &Host, same: bool) -> Vec<(&'static str, Seen)> {
    let summaries = ["counter", "anna", "ben"].map(|name| summary(host, name));
    let [counter, anna, ben] = &summaries;
    NAMES
        .iter()
        .map(|&name| {
            let seen = match name {
                "redis" => seen_by_redis(host, counter, same),
                "chat" => seen_by_chat(host, [anna, ben]),
                "counter" => seen_by_client(counter, "operations", "wrong"),
                "anna" => seen_by_client(anna, "lines", "lost"),
                _ => seen_by_client(ben, "lines", "lost"),
            };
            (name, seen)
        })
        .collect()
}

/// The JSON document that a client prints as its last line.
fn summary(host: &Host, name: &str) -> Result<Value, String> {
    let logs = host.capsule(["logs", name, "--json"]).json();
    let stdout = logs["stdout"].as_str().unwrap_or_default();
    let last = stdout.lines().next_back().unwrap_or_default();
    serde_json::from_str(last).map_err(|_| {
        let stderr = logs["stderr"].as_str().unwrap_or_default();
        format!("no summary: {}", stderr.lines().next_back().unwrap_or("it said nothing"))
    })
}

fn seen_by_client(summary: &Result<Value, String>, messages: &str, lost: &str) -> Seen {
    let summary = match summary {
        Ok(summary) => summary,
        Err(why) => return Seen { complaint: Some(why.clone()), ..Seen::default() },
    };
    let number = |key: &str| summary[key].as_u64().unwrap_or(0);
    let complaint =
        (summary["ok"] != true).then(|| summary["error"].as_str().unwrap_or("addresses changed").to_owned());
    Seen {
        messages: number(messages),
        lost: number(lost),
        repeated: number("repeated"),
        reconnects: number("reconnects"),
        longest_gap_ms: summary["longest_gap_ms"].as_f64(),
        complaint,
    }
}

/// The number that Redis has must be the one that its client has got.
fn seen_by_redis(host: &Host, counter: &Result<Value, String>, same: bool) -> Seen {
    let operations = counter.as_ref().ok().and_then(|summary| summary["operations"].as_u64()).unwrap_or(0);
    let counted = count(host);
    // The client adds nothing of its own: what the two numbers differ by was lost or done twice on the way.
    let (lost, repeated) = (operations.saturating_sub(counted), counted.saturating_sub(operations));
    Seen { messages: counted, lost, repeated, reconnects: u64::from(!same), ..Seen::default() }
}

/// The chat server writes a line for everybody who comes, and for every break.
fn seen_by_chat(host: &Host, people: [&Result<Value, String>; 2]) -> Seen {
    let logs = host.capsule(["logs", "chat", "--json"]).json();
    let said = logs["stderr"].as_str().unwrap_or_default();
    let came = said.lines().filter(|line| line.contains(" is ")).count() as u64;
    let left = said.lines().filter(|line| line.ends_with(" left")).count() as u64;
    let sent = people.iter().filter_map(|summary| summary.as_ref().ok()?["sent"].as_u64()).sum();
    let complaint = (left != 2).then(|| format!("{left} of 2 took their leave"));
    Seen {
        messages: sent,
        lost: 0,
        repeated: 0,
        reconnects: came.saturating_sub(2),
        complaint,
        ..Seen::default()
    }
}
