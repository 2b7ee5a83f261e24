//! The same programs on the same two hosts in both ways: plain, and in capsules.

use std::thread;
use std::time::Duration;

use serde_json::Value;
use testkit::{Host, Mesh, Output, Process, program, wait_until};

pub(crate) const THROUGHPUT: u16 = 7001;
pub(crate) const ROUNDTRIP: u16 = 7002;
pub(crate) const CONNECTS: u16 = 7003;
pub(crate) const HOLD: u16 = 7004;
pub(crate) const DATAGRAMS: u16 = 7005;

const READY_LIMIT: Duration = Duration::from_secs(10);
const RUN_LIMIT: Duration = Duration::from_secs(60);

/// How two programs are connected.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Way {
    Plain,
    Capsules,
}

/// Servers on host a, in both ways, and the capsule on host b in which clients are run.
pub(crate) struct Sides {
    plain: Host,
    client: Host,
    locator: String,
    _servers: Vec<Process>,
}

impl Sides {
    pub(crate) fn start(mesh: &Mesh) -> Sides {
        let (a, b) = (mesh.host("a"), mesh.host("b"));
        let lines: Vec<String> = servers().iter().map(|words| words.join(" ")).collect();
        let script = format!("{} & wait", lines.join(" & "));
        let started = a.capsule(["run", "-d", "servers", "--json", "--", "sh", "-c", &script]).ok().json();
        b.capsule(["run", "-d", "clients", "--", "sleep", "100000"]).ok();
        let plain = servers().iter().map(|words| a.spawn(words)).collect::<Vec<_>>();
        let locator = started["locators"][0].as_str().unwrap_or_default().to_owned();
        wait_until(READY_LIMIT, "the plain servers", || {
            plain.iter().all(|server| server.stderr().contains("listening"))
        });
        wait_until(READY_LIMIT, "the servers in the capsule", || {
            let logs = a.capsule(["logs", "servers", "--json"]).json();
            logs["stderr"].as_str().is_some_and(|text| text.matches("listening").count() == servers().len())
        });
        Sides { plain: a, client: b, locator, _servers: plain }
    }

    /// Runs a measuring program on host b against its server on host a, and gives what it found.
    pub(crate) fn run(&self, way: Way, name: &str, port: u16, more: &[&str]) -> Value {
        let line = self.line(way, name, port, more);
        self.output(way, line).ok().json()
    }

    /// As `run`, also when some of it failed: what is printed says how much.
    pub(crate) fn run_with_failures(&self, way: Way, name: &str, port: u16, more: &[&str]) -> Value {
        self.output(way, self.line(way, name, port, more)).json()
    }

    fn output(&self, way: Way, line: Vec<String>) -> Output {
        match way {
            Way::Plain => self.client.run(line),
            Way::Capsules => self.client.capsule_within(RUN_LIMIT, line),
        }
    }

    /// As `run`, without waiting for the end.
    pub(crate) fn start_in_capsule(&self, name: &str, port: u16, more: &[&str]) -> Process {
        self.client.spawn_capsule(self.line(Way::Capsules, name, port, more))
    }

    fn line(&self, way: Way, name: &str, port: u16, more: &[&str]) -> Vec<String> {
        let (before, address): (&[&str], _) = match way {
            Way::Plain => (&[], self.plain.address().to_string()),
            Way::Capsules => (&["exec", "clients", "--"], self.locator.clone()),
        };
        let mut line: Vec<String> = before.iter().map(|&word| word.to_owned()).collect();
        if name == "roundtrip" {
            line.extend(on_cpu(thread::available_parallelism().map_or(1, usize::from) - 1));
        }
        line.extend([ours(name), "--connect".to_owned(), format!("{address}:{port}")]);
        line.extend(more.iter().map(|&word| word.to_owned()));
        line
    }

    /// Ends them, so that nothing runs beside the moves.
    pub(crate) fn end(self, mesh: &Mesh) {
        let remove =
            |host: &str, name: &str| -> Output { mesh.host(host).capsule(["rm", "--force", name]).ok() };
        remove("a", "servers");
        remove("b", "clients");
    }
}

/// Two programs that only take turns may be put on one CPU, or on two: 6 or 70 µs. Hosts have CPUs of their own.
fn on_cpu(cpu: usize) -> [String; 3] {
    ["taskset".to_owned(), "-c".to_owned(), cpu.to_string()]
}

fn servers() -> [Vec<String>; 5] {
    let server = |name: &str, port: u16, more: &[&str]| {
        let mut words = if name == "roundtrip" { on_cpu(0).to_vec() } else { Vec::new() };
        words.extend([ours(name), "--listen".to_owned(), format!("0.0.0.0:{port}")]);
        words.extend(more.iter().map(|&word| word.to_owned()));
        words
    };
    [
        server("throughput", THROUGHPUT, &[]),
        server("roundtrip", ROUNDTRIP, &[]),
        server("connects", CONNECTS, &[]),
        server("connects", HOLD, &["--hold", "1"]),
        server("roundtrip", DATAGRAMS, &["--udp"]),
    ]
}

fn ours(name: &str) -> String {
    program(name).display().to_string()
}
