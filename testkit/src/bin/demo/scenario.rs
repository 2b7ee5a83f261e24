//! What is shown: everything starts, everything moves, a host that was left dies, everything was right.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::{Host, Mesh};

use crate::programs::{self, NAMES};
use crate::stage::{Colour, Stage};
use crate::table;

/// How long the clients talk.
const TALK: Duration = Duration::from_secs(25);
/// No move begins so shortly before the clients' end.
const LAST_MOVE_BEFORE_END: Duration = Duration::from_secs(4);
const BETWEEN_MOVES: Duration = Duration::from_millis(500);
const AFTER_DEATH: Duration = Duration::from_secs(1);

const STARTS: [(&str, &str); 5] =
    [("redis", "a"), ("chat", "b"), ("counter", "b"), ("anna", "c"), ("ben", "a")];
/// Every program moves; redis meets its client on one host; host c is empty in the end.
const FIRST_ACT: [(&str, &str); 9] = [
    ("redis", "b"),
    ("chat", "c"),
    ("anna", "a"),
    ("counter", "c"),
    ("ben", "b"),
    ("redis", "c"),
    ("chat", "a"),
    ("counter", "a"),
    ("redis", "a"),
];
/// Round and round between the hosts that live, for as long as there is time.
const SECOND_ACT: [(&str, &str); 10] = [
    ("redis", "b"),
    ("chat", "b"),
    ("ben", "a"),
    ("counter", "b"),
    ("anna", "b"),
    ("redis", "a"),
    ("chat", "a"),
    ("ben", "b"),
    ("counter", "a"),
    ("anna", "a"),
];

/// Moves of one program.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    pub(crate) pauses_ms: Vec<f64>,
    /// Why one failed or lost sessions.
    pub(crate) failure: Option<String>,
}

struct Scenario<'a> {
    mesh: &'a Mesh,
    stage: &'a Stage,
    places: BTreeMap<&'static str, &'static str>,
    moves: BTreeMap<&'static str, Moves>,
    talk_ends: Instant,
}

/// Shows everything, removes everything, and says whether all was right.
pub(crate) fn show(mesh: Mesh, stage: &Stage) -> bool {
    stage.line("Three hosts a, b and c in network namespaces, a directory, and programs that talk while they move.\n");
    mesh.start(&["a", "b", "c"]);
    stage.event("the directory runs; a, b and c have joined");
    let mut scenario = Scenario {
        mesh: &mesh,
        stage,
        places: BTreeMap::new(),
        moves: BTreeMap::new(),
        talk_ends: Instant::now() + TALK,
    };
    scenario.start_programs();
    let host = mesh.host("a");
    let connection = programs::connection(&host);
    scenario.play(FIRST_ACT.iter());
    let undisturbed = scenario.kill_empty_host("c");
    scenario.play(SECOND_ACT.iter().cycle());
    let same = connection.is_some() && programs::connection(&host) == connection;
    stage.event("that were the moves; the clients go on to their end");
    programs::wait_for_clients(&host);
    let seen = programs::all_seen(&host, same);
    let moves = scenario.moves;
    let good = table::show(stage, &seen, &moves);
    stage.wait_if_stopped();
    let left = mesh.end();
    table::show_ending(stage, undisturbed, &left) && good
}

impl Scenario<'_> {
    fn start_programs(&mut self) {
        for (name, at) in STARTS {
            self.stage.wait_if_stopped();
            let host = self.mesh.host(at);
            let argv = programs::argv(name, TALK);
            let line = ["run", "-d", name, "--"].into_iter().map(str::to_owned).chain(argv);
            host.capsule(line).ok();
            self.places.insert(name, at);
            let description = programs::description(name);
            self.stage.event(&format!("{} starts on {at}: {description}", self.name(name)));
            if ["redis", "chat"].contains(&name) {
                programs::wait_for_server(&host, name);
            } else {
                // The first client to start is the first to end.
                self.talk_ends = self.talk_ends.min(Instant::now() + TALK);
            }
        }
    }

    /// One move after another, while the clients talk.
    fn play(&mut self, moves: impl Iterator<Item = &'static (&'static str, &'static str)>) {
        for &(name, to) in moves {
            if Instant::now() + LAST_MOVE_BEFORE_END > self.talk_ends {
                return;
            }
            if self.places[name] != to {
                self.move_one(name, to);
                thread::sleep(BETWEEN_MOVES);
            }
        }
    }

    fn move_one(&mut self, name: &'static str, to: &'static str) {
        self.stage.wait_if_stopped();
        let from = self.places[name];
        let output = self.mesh.host(from).capsule(["move", name, "--to", to, "--json"]);
        self.stage.wait_if_stopped();
        let answer: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
        let moves = self.moves.entry(name).or_default();
        let way = format!("{from} {} {to}", self.stage.arrow());
        let shown = match outcome(output.code, &answer) {
            Ok(pause_ms) => {
                self.places.insert(name, to);
                moves.pauses_ms.push(pause_ms);
                let (kept, before) = (&answer["sessions"], &answer["sessions_before"]);
                if kept != before {
                    moves.failure.get_or_insert(format!("{kept} of {before} sessions kept"));
                }
                format!("{way}   pause {pause_ms:4.0} ms   {kept} of {before} sessions kept")
            }
            Err(why) => {
                moves.failure.get_or_insert(format!("move {from} to {to} failed"));
                format!("{way}   {} {why}", self.stage.paint(Colour::Bad, "failed:"))
            }
        };
        self.stage.event(&format!("{} {shown}", self.name(name)));
    }

    /// Cuts and kills a host on which nothing runs any more; whether the counter counted on.
    fn kill_empty_host(&mut self, name: &str) -> Option<bool> {
        if self.places.values().any(|&place| place == name)
            || Instant::now() + LAST_MOVE_BEFORE_END > self.talk_ends
        {
            return None;
        }
        self.stage.wait_if_stopped();
        let (dying, witness) = (self.mesh.host(name), self.mesh.host("a"));
        dying.kill();
        self.stage.event(&format!(
            "{}   cable pulled, everything on it killed: nothing is left there that anybody needs",
            self.stage.paint(Colour::Strong, &format!("host {name}"))
        ));
        let further = count_further(&witness);
        self.stage.event(&format!(
            "         noticed by the programs: {}; {further} answers in the next second",
            if further > 0 { "nothing" } else { "redis stands still" }
        ));
        Some(further > 0)
    }

    fn name(&self, name: &str) -> String {
        let width = NAMES.iter().map(|name| name.len()).max().unwrap_or(0);
        self.stage.paint(Colour::Strong, &format!("{name:width$} "))
    }
}

fn outcome(code: i32, answer: &Value) -> Result<f64, String> {
    let error = &answer["error"];
    match answer["blackout_ms"].as_f64() {
        Some(pause_ms) if code == 0 => Ok(pause_ms),
        _ => Err(error["why"].as_str().map_or_else(|| format!("exit code {code}"), str::to_owned)),
    }
}

fn count_further(host: &Host) -> u64 {
    let before = programs::count(host);
    thread::sleep(AFTER_DEATH);
    programs::count(host).saturating_sub(before)
}
