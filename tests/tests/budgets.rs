//! Memory stays bounded however many programs read nothing.

use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::{Host, Mesh, wait_until};
use tests::{Talk, end, ended, exec, locators, start, tool, wait_logged};

const CONNECTIONS: u64 = 10_000;
const BYTES_EACH: u64 = 168 << 10;
/// Fewer than [`CONNECTIONS`] times the least that each has: the budget is used up.
const BUDGET_BYTES: u64 = 256 << 20;

/// What docs/limits.md states, for each of many stalled connections: memory of the sidecar, of the shim, and of the
/// kernel for the sidecar's ends, at the side that sends and at the side that does not read.
const SIDECAR_BYTES_MAX: u64 = 48 << 10;
const SHIM_BYTES_MAX: u64 = 1 << 10;
const KERNEL_SENDER_BYTES_MAX: u64 = 96 << 10;
const KERNEL_READER_BYTES_MAX: u64 = 96 << 10;

/// Ten thousand connections are written to and not read. They cost what is stated; a talk on the same link goes on all
/// the while; every byte arrives when the program reads.
#[test]
fn ten_thousand_stalled_connections() {
    let mesh = Mesh::new("budgets");
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    for host in [&a, &b] {
        host.configure(&format!("buffer_host_bytes = {BUDGET_BYTES}"));
    }
    mesh.start(&["a", "b"]);
    let mut talk = Talk::start(&a, &b);
    let before = [resident(&a), resident(&b)];
    let began = Instant::now();
    let (many, bytes) = (CONNECTIONS.to_string(), BYTES_EACH.to_string());
    let flags = ["--connections", &many, "--bytes", &bytes];
    start(&a, "sink", &[&[tool("stalls").as_str(), "--listen", "[::]:7000"], &flags[..]].concat());
    wait_logged(&a, "sink", "listening");
    let place = format!("{}:7000", locators(&b, "sink").0);
    start(&b, "source", &[&[tool("stalls").as_str(), "--connect", &place], &flags[..]].concat());
    logged(&a, "sink", &format!("holding {CONNECTIONS}"));
    eprintln!("all are open after {:.1} s", began.elapsed().as_secs_f64());
    talk.goes_on();
    let mut last = (0, Instant::now());
    wait_until(Duration::from_secs(60), "every connection to stall", || {
        talk.goes_on();
        let parked = metric(&b, "capsule_sessions{state=\"parked\"}");
        // In MiB: the talk has bytes under way as well.
        let moved = metric(&b, "capsule_buffer_bytes") >> 20;
        eprintln!("{parked} are parked, {moved} MiB wait after {:.1} s", began.elapsed().as_secs_f64());
        if moved != last.0 {
            last = (moved, Instant::now());
        }
        // How many have all their bytes in the reader's kernel by then depends on how its kernel packs them.
        parked >= CONNECTIONS / 4 && last.1.elapsed() > Duration::from_secs(2)
    });
    for (host, name, kernel_max, before) in
        [(&b, "source", KERNEL_SENDER_BYTES_MAX, before[1]), (&a, "sink", KERNEL_READER_BYTES_MAX, before[0])]
    {
        let sidecar = resident(host).saturating_sub(before) / CONNECTIONS;
        let view = host.capsule(["--json", "inspect", name]).ok().json();
        let shim = status(number(&view["shim_pid"])) / CONNECTIONS;
        let kernel = kernel_memory(host, &view) / CONNECTIONS;
        let (granted, limit) = (number(&view["buffer_granted_bytes"]), number(&view["buffer_limit_bytes"]));
        eprintln!(
            "{name}: each {sidecar} bytes of the sidecar, {shim} of the shim, {kernel} of the kernel; {granted} granted of {limit}"
        );
        assert_eq!(limit, BUDGET_BYTES / 2);
        assert!(granted <= BUDGET_BYTES / 2 + CONNECTIONS * (64 << 10), "{granted} were granted");
        assert!(sidecar <= SIDECAR_BYTES_MAX, "the sidecar of {name} has {sidecar} bytes for each");
        assert!(shim <= SHIM_BYTES_MAX, "the shim of {name} has {shim} bytes for each");
        assert!(kernel <= kernel_max, "the kernel has {kernel} bytes for each of {name}");
    }
    talk.goes_on();
    exec(&a, "sink", &["touch", "/tmp/read"]).ok();
    for (host, name) in [(&a, "sink"), (&b, "source")] {
        let summary = ended(host, name, Duration::from_secs(120)).json();
        assert_eq!(number(&summary["bytes"]), CONNECTIONS * BYTES_EACH, "{name}: {summary}");
        assert_eq!(summary["wrong"], 0, "{name}: {summary}");
    }
    talk.goes_on();
    eprintln!("all is there after {:.1} s", began.elapsed().as_secs_f64());
    end(mesh);
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// As [`wait_logged`], for what takes longer.
#[track_caller]
fn logged(host: &Host, name: &str, text: &str) {
    wait_until(Duration::from_secs(90), &format!("{text:?} in the log of {name}"), || {
        host.capsule(["logs", name]).stderr.contains(text)
    });
}

/// One figure of a host's metrics.
fn metric(host: &Host, name: &str) -> u64 {
    let (_, text) = host.http("/metrics").expect("metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.trim().parse::<f64>().ok()).map_or(0, |value| value as u64)
}

/// Resident memory of a host's sidecar, in bytes.
fn resident(host: &Host) -> u64 {
    status(host.sidecar_pid().expect("a sidecar").into())
}

fn status(pid: u64) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Memory that the kernel has for the sidecar's ends of a capsule's connections, which have foreign addresses.
fn kernel_memory(host: &Host, view: &Value) -> u64 {
    let locator = view["locators"][0].as_str().expect("a locator").to_owned();
    let pid = view["shim_pid"].to_string();
    let listed = host.run(["nsenter", "-t", &pid, "-n", "ss", "-tnmHO", "state", "connected"]).ok().stdout;
    let foreign = |line: &&str| line.split_whitespace().nth(3).is_some_and(|local| !local.contains(&locator));
    listed.lines().filter(foreign).map(memory_of).sum()
}

/// What `skmem:(r0,rb262144,t0,tb87040,f0,w0,…)` adds up to: received, reserved, and written.
fn memory_of(line: &str) -> u64 {
    let fields = line.split_once("skmem:(").and_then(|(_, rest)| rest.split_once(')')).expect("skmem").0;
    let number = |field: &str| field.trim_start_matches(char::is_alphabetic).parse::<u64>().unwrap_or(0);
    let counts = |field: &&str| {
        let name = field.trim_end_matches(|c: char| c.is_ascii_digit());
        ["r", "f", "w"].contains(&name)
    };
    fields.split(',').filter(counts).map(number).sum()
}
