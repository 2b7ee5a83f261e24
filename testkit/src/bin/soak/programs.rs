//! The programs that talk meanwhile. Each checks everything that it hears; those that end are started anew.

use std::time::Duration;

use serde_json::Value;
use testkit::{Host, program, wait_until};

use crate::mishaps::{Mishaps, text};
use crate::schedule::HOSTS;

/// How long one stream, one count and one set of idle connections goes on if nothing holds it up.
const TURN_S: u64 = 20;
/// Bytes per second of a stream, each way.
const STREAM_RATE: u64 = 2 << 20;
/// Answers per second that the counter asks for.
const COUNT_RATE: u64 = 200;
const IDLE_CONNECTIONS: &str = "50";
const START_LIMIT: Duration = Duration::from_secs(30);
/// The last turn's programs may have been held up as long as they were meant to talk, and more.
const END_LIMIT: Duration = Duration::from_secs(120);

/// What was checked so far.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) streams: u64,
    pub(crate) bytes: u64,
    pub(crate) operations: u64,
    pub(crate) idle: u64,
    pub(crate) longest_gap_ms: f64,
}

/// Who talks now.
pub(crate) struct Programs {
    turns: [u64; 3],
    pub(crate) checked: Checked,
}

/// The clients of a turn and the server of each, by the words that their names begin with.
const CLIENTS: [&str; 3] = ["source", "counter", "holder"];

impl Programs {
    /// Starts everything.
    pub(crate) fn start(mishaps: &Mishaps) -> Self {
        let programs = Self { turns: [0; 3], checked: Checked::default() };
        let [a, b, _, d] = HOSTS.map(|name| mishaps.mesh.host(name));
        run(&a, "redis", &["redis-server", "--save", "", "--protected-mode", "no"]);
        wait_until(START_LIMIT, "redis to answer", || redis(&a, &["ping"]) == "PONG");
        run(&d, "keeper", &[&ours("connects"), "--listen", "[::]:9000", "--hold", "0"]);
        heard(&d, "keeper", "listening on");
        for client in 0..CLIENTS.len() {
            programs.begin(&b, client);
        }
        programs
    }

    /// Full name of a capsule in this turn.
    pub(crate) fn name_of(&self, word: &str) -> String {
        let turn = match word {
            "sink" | "source" => self.turns[0],
            "counter" => self.turns[1],
            "holder" => self.turns[2],
            _ => return word.to_owned(),
        };
        format!("{word}-{turn}")
    }

    /// Full names of all.
    pub(crate) fn names(&self) -> Vec<String> {
        crate::schedule::CAPSULES.iter().map(|word| self.name_of(word)).collect()
    }

    fn begin(&self, host: &Host, client: usize) {
        let name = self.name_of(CLIENTS[client]);
        let bytes = (TURN_S * STREAM_RATE).to_string();
        let (rate, seconds) = (STREAM_RATE.to_string(), TURN_S.to_string());
        let stream = ["--send", &bytes, "--receive", &bytes, "--rate", &rate];
        match CLIENTS[client] {
            "source" => {
                let sink = self.name_of("sink");
                let peer = ours("stream-peer");
                run(host, &sink, &[&[peer.as_str(), "--listen", "[::]:7000"], &stream[..]].concat());
                heard(host, &sink, "listening on");
                let place = format!("{sink}.capsule.internal:7000");
                run(host, &name, &[&[peer.as_str(), "--connect", &place], &stream[..]].concat());
                heard(host, &name, "connected");
            }
            "counter" => {
                let (count_rate, counter) = (COUNT_RATE.to_string(), counter_name(self.turns[1]));
                let place = ["--redis", "redis.capsule.internal:6379", "--name", &counter];
                let pace = ["--rate", &count_rate, "--seconds", &seconds, "--json"];
                run(host, &name, &[&[ours("db-client").as_str()], &place[..], &pace[..]].concat());
            }
            _ => {
                let place = ["--connect", "keeper.capsule.internal:9000"];
                let hold = ["--hold", IDLE_CONNECTIONS, "--seconds", &seconds];
                run(host, &name, &[&[ours("connects").as_str()], &place[..], &hold[..]].concat());
                heard(host, &name, "are open after");
            }
        }
    }

    /// Checks those that have ended, and starts others in their place.
    pub(crate) fn take_turns(&mut self, mishaps: &Mishaps) {
        for client in 0..CLIENTS.len() {
            if self.take_turn(&mishaps.anyone(), client) {
                let host = usize::try_from(self.turns[client]).unwrap_or_default() % HOSTS.len();
                self.begin(&mishaps.mesh.host(HOSTS[host]), client);
            }
        }
    }

    /// Waits for the end of those that talk, and checks them.
    pub(crate) fn end(&mut self, mishaps: &Mishaps) {
        let host = mishaps.anyone();
        for (client, word) in CLIENTS.iter().enumerate() {
            wait_until(END_LIMIT, &format!("the end of the last {word}"), || self.take_turn(&host, client));
        }
    }

    /// Checks a client that has ended; says whether it had.
    fn take_turn(&mut self, host: &Host, client: usize) -> bool {
        let words: &[&str] = if client == 0 { &["source", "sink"] } else { &CLIENTS[client..=client] };
        let names: Vec<String> = words.iter().map(|word| self.name_of(word)).collect();
        if !names.iter().all(|name| has_ended(host, name)) {
            return false;
        }
        for name in &names {
            self.check(host, client, name);
            host.capsule(["rm", name]).ok();
        }
        self.turns[client] += 1;
        true
    }

    /// # Panics
    /// When it lost, repeated or mixed up anything, or its connection broke.
    fn check(&mut self, host: &Host, client: usize, name: &str) {
        let logs = host.capsule(["logs", name, "--json"]).ok().json();
        let (stdout, stderr) = (text(&logs["stdout"]), text(&logs["stderr"]));
        let inspected = host.capsule(["--json", "inspect", name]).ok().json();
        assert_eq!(inspected["exit_code"], 0, "{name} failed: {stdout}\n{stderr}\n{inspected}");
        let summary: Value =
            stdout.lines().next_back().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        let gap = summary["longest_gap_ms"].as_f64().unwrap_or_default();
        self.checked.longest_gap_ms = self.checked.longest_gap_ms.max(gap);
        match CLIENTS[client] {
            "source" => {
                assert_eq!(
                    (&summary["ok"], &summary["wrong"]),
                    (&true.into(), &0.into()),
                    "{name}: {summary}"
                );
                assert_eq!(summary["received"].as_u64(), Some(TURN_S * STREAM_RATE), "{name}: {summary}");
                self.checked.streams += 1;
                self.checked.bytes += TURN_S * STREAM_RATE;
            }
            "counter" => {
                assert_eq!(summary["ok"], true, "{name}: {summary}");
                let key = format!("db-client:{}", counter_name(self.turns[1]));
                let counted = redis(host, &["--raw", "get", &key]);
                assert_eq!(
                    counted,
                    summary["operations"].to_string(),
                    "{name}: lost or done twice: {summary}"
                );
                self.checked.operations += summary["operations"].as_u64().unwrap_or_default();
            }
            _ => self.checked.idle += IDLE_CONNECTIONS.parse::<u64>().unwrap_or_default(),
        }
    }
}

fn counter_name(turn: u64) -> String {
    format!("turn_{turn}")
}

fn ours(name: &str) -> String {
    program(name).display().to_string()
}

fn run(host: &Host, name: &str, argv: &[&str]) {
    host.capsule([&["run", "-d", name, "--"], argv].concat()).ok();
}

fn heard(host: &Host, name: &str, text: &str) {
    wait_until(START_LIMIT, &format!("{name} to say {text:?}"), || {
        host.capsule(["logs", name, "--json"]).stdout.contains(text)
    });
}

fn has_ended(host: &Host, name: &str) -> bool {
    let inspected = host.capsule(["--json", "inspect", name]).ok().json();
    inspected["state"] == "stopped"
}

fn redis(host: &Host, words: &[&str]) -> String {
    host.capsule([&["exec", "redis", "--", "redis-cli"], words].concat()).stdout.trim().to_owned()
}
