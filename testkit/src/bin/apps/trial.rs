//! One program tried: it serves, it is used, and everything moves meanwhile.

use std::collections::BTreeSet;
use std::panic::{self, AssertUnwindSafe};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::{Host, Mesh, Output, program, wait_until};

use crate::app::{App, Program};
use crate::outside::{self, Outsider};
use crate::sockets;

/// What a server may take to begin, Java and a new database on a busy machine too.
const SERVES_WITHIN: Duration = Duration::from_secs(60);
/// What the clients may take until they are at work.
const AT_WORK_WITHIN: Duration = Duration::from_secs(30);
/// Clients may end so much later than they were meant to, for pauses and a busy machine.
const ENDS_WITHIN: Duration = Duration::from_secs(90);
/// Load without a move, in between.
const BETWEEN_MOVES: Duration = Duration::from_millis(400);
/// A connection that is still there after so long is one that lasts.
const LASTS: Duration = Duration::from_millis(700);
/// Each capsule is moved so often at least.
const MOVES_MIN: usize = 3;
const HOSTS: [&str; 3] = ["a", "b", "c"];
const SERVER: &str = "server";
const GATEWAY: &str = "g";

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Moves of the server, and of all clients together.
    pub(crate) moves: [usize; 2],
    /// Connections that were there before the first and after the last move.
    pub(crate) lasted: usize,
    /// The longest time for which a client heard nothing.
    pub(crate) gap_ms: Option<f64>,
    /// The longest pause of a move.
    pub(crate) pause_ms: f64,
    /// What clients say of their work.
    pub(crate) notes: Vec<String>,
    /// Why it is no pass.
    pub(crate) fault: Option<String>,
}

/// How clients reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From capsules of their own.
    Mesh,
    /// From a machine without a sidecar, by a gateway.
    Gateway,
}

/// Tries a program on a mesh of its own, which is gone afterwards, whatever happens.
pub(crate) fn of(app: &'static App, seconds: u64, way: Way) -> Outcome {
    let tried = panic::catch_unwind(AssertUnwindSafe(|| {
        let mesh = Mesh::new("apps");
        if way == Way::Gateway {
            mesh.host(GATEWAY).be_gateway();
            mesh.start(&[GATEWAY]);
        }
        mesh.start(&HOSTS);
        let outcome = Trial::start(&mesh, app, seconds, way).run();
        let left = mesh.end();
        assert!(left.is_empty(), "left behind: {left}");
        outcome
    }));
    tried.unwrap_or_else(|cause| {
        let text = cause.downcast_ref::<String>().map(String::as_str);
        let fault = text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("it broke off");
        Outcome { fault: Some(fault.to_owned()), ..Outcome::default() }
    })
}

struct Trial<'a> {
    mesh: &'a Mesh,
    app: &'static App,
    /// Capsules and the indices of their hosts, the server first.
    places: Vec<(String, usize)>,
    /// Clients on a machine outside.
    outside: Vec<Outsider>,
    ends: Instant,
    seconds: u64,
    outcome: Outcome,
}

impl<'a> Trial<'a> {
    fn start(mesh: &'a Mesh, app: &'static App, seconds: u64, way: Way) -> Trial<'a> {
        let places = vec![(SERVER.to_owned(), 0)];
        let (ends, outcome, outside) = (Instant::now(), Outcome::default(), Vec::new());
        let mut trial = Trial { mesh, app, places, outside, ends, seconds, outcome };
        trial.begin(SERVER, 0, &app.server);
        for &port in app.listens {
            wait_until(SERVES_WITHIN, &format!("the server to listen; {}", trial.said(SERVER)), || {
                sockets::listens(&trial.host(0), SERVER, port)
            });
        }
        if way == Way::Gateway {
            outside::publish(&trial.host(0), GATEWAY, SERVER, app.listens);
        }
        trial.ends = Instant::now() + Duration::from_secs(seconds);
        for (number, client) in app.clients.iter().enumerate() {
            let (name, at) = (format!("client-{}", number + 1), 1 + number % 2);
            if way == Way::Gateway {
                let (mesh, gateway) = (trial.mesh, trial.mesh.host(GATEWAY));
                trial.outside.push(Outsider::start(
                    mesh,
                    &gateway,
                    &name,
                    &client.program,
                    &trial.environment(),
                ));
                continue;
            }
            trial.begin(&name, at, &client.program);
            trial.places.push((name, at));
        }
        trial
    }

    fn run(mut self) -> Outcome {
        let wanted: usize = self.app.clients.iter().map(|client| client.lasting).sum();
        let connections = |trial: &Self| {
            let at = trial.host(trial.places[0].1);
            sockets::connections(&at, SERVER, trial.app.listens)
        };
        let mut before = BTreeSet::new();
        wait_until(
            AT_WORK_WITHIN,
            &format!("{wanted} connections to the server; {}", self.all_said()),
            || {
                // Those that are still there after a while: not the short ones.
                let earlier = connections(&self);
                thread::sleep(LASTS);
                before = connections(&self).intersection(&earlier).cloned().collect();
                before.len() >= wanted
            },
        );
        self.move_everything();
        let after = connections(&self);
        self.outcome.lasted = before.intersection(&after).count();
        assert!(
            self.outcome.lasted >= wanted,
            "{} of {wanted} connections lasted; {}",
            self.outcome.lasted,
            self.all_said()
        );
        for number in 1..self.places.len() {
            self.judge(number);
        }
        let limit = ENDS_WITHIN + self.ends.saturating_duration_since(Instant::now());
        for outsider in std::mem::take(&mut self.outside) {
            let (name, output) = outsider.end(limit);
            let said = format!("{}{}", output.stdout, output.stderr);
            assert!(output.code == 0, "{name} ended with {}: {said}", output.code);
            self.note(&said);
        }
        self.outcome
    }

    /// What programs find in their environment.
    fn environment(&self) -> [String; 2] {
        let bin = program("witness").parent().expect("it is in a folder").display().to_string();
        [format!("T={}", self.seconds), format!("BIN={bin}")]
    }

    fn begin(&self, name: &str, at: usize, what: &Program) {
        let [seconds, bin] = self.environment();
        let line = ["run", "-d", name, "--env", &seconds, "--env", &bin, "--"].map(str::to_owned);
        let argv = what.argv().into_iter().map(str::to_owned);
        self.host(at).capsule(line.into_iter().chain(argv)).ok();
    }

    /// Each goes round over all hosts; in between a sidecar is killed, on the host where the server then is.
    fn move_everything(&mut self) {
        let moving: Vec<usize> = (0..self.places.len())
            .filter(|&number| number == 0 || self.app.clients[number - 1].moves)
            .collect();
        for round in 0..MOVES_MIN {
            for &number in &moving {
                self.move_one(number);
                thread::sleep(BETWEEN_MOVES);
            }
            if round == 0 {
                let mut hosts = vec![self.host(self.places[0].1)];
                if !self.outside.is_empty() {
                    hosts.push(self.mesh.host(GATEWAY));
                }
                for host in hosts {
                    host.kill_sidecar();
                    host.start_sidecar();
                }
            }
        }
    }

    fn move_one(&mut self, number: usize) {
        let (name, from) = self.places[number].clone();
        let to = (from + 1) % HOSTS.len();
        let late = Instant::now().saturating_duration_since(self.ends);
        assert!(late.is_zero(), "the moves took longer than the load, by {late:?}: --seconds");
        let moved = self.host(from).capsule(["move", &name, "--to", HOSTS[to], "--json"]);
        assert!(moved.code == 0, "move of {name}: {}", why(&moved));
        self.outcome.pause_ms =
            self.outcome.pause_ms.max(moved.json()["blackout_ms"].as_f64().unwrap_or_default());
        self.places[number].1 = to;
        self.outcome.moves[usize::from(number > 0)] += 1;
        // A client's end before its time is a fault that should be told as what it is.
        if number > 0 && self.exit_code(number).is_some_and(|code| code != 0) {
            self.judge(number);
        }
    }

    /// Waits for a client's end and takes what it says.
    fn judge(&mut self, number: usize) {
        let limit = ENDS_WITHIN + self.ends.saturating_duration_since(Instant::now());
        let name = self.places[number].0.clone();
        wait_until(limit, &format!("the end of {name}"), || self.exit_code(number).is_some());
        let (code, said) = (self.exit_code(number), self.said(&name));
        assert!(code == Some(0), "{name} ended with {}: {said}", code.unwrap_or_default());
        self.note(&said);
    }

    /// Takes what a client says of its work.
    fn note(&mut self, said: &str) {
        for line in said.lines() {
            if let Some(note) = line.strip_prefix("note ") {
                self.outcome.notes.push(note.to_owned());
            }
            if let Some(gap_ms) = gap(line) {
                self.outcome.gap_ms = Some(self.outcome.gap_ms.unwrap_or_default().max(gap_ms));
            }
        }
    }

    /// Of a client that has ended.
    fn exit_code(&self, number: usize) -> Option<i64> {
        let (name, at) = &self.places[number];
        let view = self.host(*at).capsule(["inspect", name, "--json"]).ok().json();
        (view["state"] == "stopped").then(|| view["exit_code"].as_i64().unwrap_or(-1))
    }

    /// What a capsule's program has printed.
    fn said(&self, name: &str) -> String {
        let said = self.host(0).capsule(["logs", name]);
        format!("{}{}", said.stdout, said.stderr)
    }

    fn all_said(&self) -> String {
        let of = |(name, _): &(String, usize)| format!("{name}: {}", self.said(name).trim());
        let outside = self.outside.iter().map(Outsider::said);
        self.places.iter().map(of).chain(outside).collect::<Vec<_>>().join("\n")
    }

    fn host(&self, number: usize) -> Host {
        self.mesh.host(HOSTS[number])
    }
}

/// The longest silence, if the line tells it.
fn gap(line: &str) -> Option<f64> {
    let rest = line.strip_prefix("gap_ms ").or_else(|| line.split("\"longest_gap_ms\":").nth(1))?;
    let number: String =
        rest.chars().take_while(|letter| letter.is_ascii_digit() || *letter == '.').collect();
    number.parse().ok()
}

/// Why a move failed: the reason in its answer, or all that it said.
fn why(moved: &Output) -> String {
    let answer: Option<Value> = serde_json::from_str(moved.stdout.trim()).ok();
    let reason = answer.as_ref().and_then(|answer| answer["error"]["why"].as_str());
    reason.map_or_else(|| format!("{}{}", moved.stdout.trim(), moved.stderr.trim()), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::gap;

    #[test]
    fn silences_as_clients_tell_them() {
        assert_eq!(gap("gap_ms 412"), Some(412.0));
        assert_eq!(gap(r#"{"ok":true,"longest_gap_ms":87.25,"x":1}"#), Some(87.25));
        assert_eq!(gap("note 12 lines"), None);
    }
}
