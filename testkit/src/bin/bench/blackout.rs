//! The pause of a Redis that moves, phase by phase, and what its client sees; beside it CRIU alone on the same process.

use std::thread;
use std::time::Duration;

use serde_json::{Map, Value, json};
use testkit::figures::{median, percentile};
use testkit::{Host, Mesh, program, wait_until};

use crate::alone::{self, Alone};
use crate::{Extent, machine};

/// Often enough to see the gap to the millisecond, and next to no CPU.
pub(crate) const CLIENT_RATE: &str = "1000";
pub(crate) const READY_LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 6379;
/// From the start of the client until it is connected and asks.
const CLIENT_STARTS: Duration = Duration::from_millis(600);
/// Length of a value in the full one, and how many of them make 256 MiB.
const VALUE_BYTES: &str = "4096";
const VALUES: &str = "65536";

/// In their order, which a JSON object does not keep here.
const PHASES: [&str; 15] = [
    "preflight",
    "files",
    "quiesce",
    "hold",
    "pause",
    "settle",
    "lock",
    "snapshot",
    "dump",
    "transfer",
    "restore",
    "claim",
    "thaw",
    "attach",
    "release",
];

/// Redis with so much in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Size {
    Empty,
    Full,
}

impl Size {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Size::Empty => "empty",
            Size::Full => "256 MiB of values",
        }
    }

    /// How long a client asks: a move must fit.
    pub(crate) fn client_seconds(self) -> &'static str {
        match self {
            Size::Empty => "1.6",
            Size::Full => "3",
        }
    }

    /// What fills it, as words for `redis-cli`.
    pub(crate) fn fill(self) -> Option<[&'static str; 5]> {
        (self == Size::Full).then_some(["debug", "populate", VALUES, "value", VALUE_BYTES])
    }
}

/// Of one size: all moves, and all captures by CRIU alone.
#[derive(Debug)]
pub(crate) struct Blackout {
    pub(crate) size: Size,
    pub(crate) resident_mib: f64,
    pub(crate) pauses_ms: Vec<f64>,
    pub(crate) gaps_ms: Vec<f64>,
    pub(crate) durations_ms: Vec<f64>,
    phases_ms: Vec<Map<String, Value>>,
    pub(crate) alone: Alone,
}

impl Blackout {
    pub(crate) fn ratio(&self) -> f64 {
        median(&mut self.pauses_ms.clone()) / self.alone.median_ms()
    }

    /// Medians of the phases, in their order.
    pub(crate) fn phases(&self) -> Vec<(String, f64)> {
        let mut names: Vec<&String> = self.phases_ms.iter().flat_map(Map::keys).collect();
        names.sort_by_key(|name| {
            (PHASES.iter().position(|phase| phase == name).unwrap_or(PHASES.len()), *name)
        });
        names.dedup();
        let of = |name: &String| -> Vec<f64> {
            self.phases_ms.iter().filter_map(|phases| phases.get(name)?.as_f64()).collect()
        };
        names.into_iter().map(|name| (name.clone(), median(&mut of(name)))).collect()
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "redis": self.size.name(),
            "resident_mib": self.resident_mib,
            "blackout_ms": figures(&self.pauses_ms),
            "client_gap_ms": figures(&self.gaps_ms),
            "move_ms": figures(&self.durations_ms),
            "phases_ms": self.phases().into_iter().map(|(name, value)| (name, value.into())).collect::<Map<_, _>>(),
            "criu_alone_ms": {
                "dump": figures(&self.alone.dump_ms),
                "restore": figures(&self.alone.restore_ms),
                "both": self.alone.median_ms(),
            },
            "ratio": self.ratio(),
        })
    }
}

/// Median and extremes.
fn figures(samples: &[f64]) -> Value {
    let mut sorted = samples.to_vec();
    json!({ "median": median(&mut sorted), "min": percentile(&mut sorted, 0.0), "max": percentile(&mut sorted, 1.0) })
}

pub(crate) fn measure(mesh: &Mesh, extent: &Extent) -> Vec<Blackout> {
    let (a, c) = (mesh.host("a"), mesh.host("c"));
    let server = ["run", "-d", "redis", "--json", "--"].iter().chain(&SERVER);
    let started = a.capsule(server).ok().json();
    c.capsule(["run", "-d", "client", "--", "sleep", "100000"]).ok();
    let place = format!("{}:{PORT}", started["locators"][0].as_str().unwrap_or_default());
    let ask = |words: &[&str]| {
        let line = ["exec", "redis", "--", "redis-cli"].iter().chain(words);
        a.capsule(line).stdout.trim().to_owned()
    };
    wait_until(READY_LIMIT, "redis to answer", || ask(&["ping"]) == "PONG");
    let sizes = [Size::Empty, Size::Full].into_iter();
    let found = sizes.map(|size| {
        if let Some(words) = size.fill() {
            assert_eq!(ask(&words), "OK", "redis can't be filled");
        }
        moves(mesh, size, &place, extent)
    });
    let found: Vec<Blackout> = found.collect();
    a.capsule(["rm", "--force", "redis"]).ok();
    c.capsule(["rm", "--force", "client"]).ok();
    found
}

/// Redis in both ways; it saves nothing and may be filled by a word.
pub(crate) const SERVER: [&str; 7] =
    ["redis-server", "--save", "", "--protected-mode", "no", "--enable-debug-command", "yes"];

/// To and fro between a and b, with a client on c; then CRIU alone on a Redis of the same size.
fn moves(mesh: &Mesh, size: Size, place: &str, extent: &Extent) -> Blackout {
    let mut found = Blackout {
        size,
        resident_mib: resident_mib(&mesh.host("a")),
        pauses_ms: Vec::new(),
        gaps_ms: Vec::new(),
        durations_ms: Vec::new(),
        phases_ms: Vec::new(),
        alone: Alone::default(),
    };
    for number in 1..=extent.moves {
        eprintln!("bench: move of a Redis ({}), {number} of {}", size.name(), extent.moves);
        let listed = mesh.host("a").capsule(["resolve", "redis", "--json"]).ok().json();
        let from = if listed["host"] == "a" { "a" } else { "b" };
        let to = if from == "a" { "b" } else { "a" };
        let (answer, seen) = thread::scope(|scope| {
            let client = scope.spawn(|| client_in_capsule(&mesh.host("c"), size, place));
            thread::sleep(CLIENT_STARTS);
            let answer = mesh.host(from).capsule(["move", "redis", "--to", to, "--json"]).ok().json();
            (answer, client.join().expect("a failed client has said why"))
        });
        assert!(answer["sessions"] == answer["sessions_before"], "sessions were lost: {answer}");
        let number =
            |value: &Value| value.as_f64().unwrap_or_else(|| panic!("a number is missing in {answer}"));
        found.pauses_ms.push(number(&answer["blackout_ms"]));
        found.durations_ms.push(number(&answer["duration_ms"]));
        found.gaps_ms.push(number(&seen["longest_gap_ms"]));
        found.phases_ms.push(answer["phases_ms"].as_object().cloned().unwrap_or_default());
    }
    found.alone = alone::measure(mesh, size, extent);
    found
}

fn client_in_capsule(host: &Host, size: Size, place: &str) -> Value {
    let client = program("db-client").display().to_string();
    let line = ["exec", "client", "--", &client, "--redis", place, "--rate", CLIENT_RATE];
    host.capsule(line.iter().chain(&["--seconds", size.client_seconds(), "--json"])).ok().json()
}

/// Of the Redis in the capsule, wherever it is.
fn resident_mib(host: &Host) -> f64 {
    let inspected = host.capsule(["inspect", "redis", "--json"]).ok().json();
    let pid = inspected["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
    machine::resident_kib(pid) as f64 / 1024.0
}
