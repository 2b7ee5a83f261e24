//! Stream, round trip and connects, plain and through two sidecars in turns.

use std::thread;
use std::time::Duration;

use serde_json::Value;
use testkit::{Mesh, Weather};

use crate::Extent;
use crate::machine::{busy_seconds, process_seconds};
use crate::report::Report;
use crate::sides::{CONNECTS, DATAGRAMS, ROUNDTRIP, Sides, THROUGHPUT, Way};

/// The start of a program inside a capsule takes CPU too: that of a stream is counted after it.
const STARTED: Duration = Duration::from_millis(600);
/// And only for so much of the time that it is told to take.
const COUNTED_SHARE: f64 = 0.6;

/// What a packet takes over the link that takes long, one way.
const FAR: Duration = Duration::from_millis(10);

pub(crate) fn measure(mesh: &Mesh, sides: &Sides, extent: &Extent, report: &mut Report) {
    for round in 1..=extent.repetitions {
        eprintln!("bench: stream, round trip and connects, {round} of {}", extent.repetitions);
        for way in [Way::Plain, Way::Capsules] {
            stream(mesh, sides, extent, way, report);
            round_trip(sides, extent, way, report);
            connects(sides, extent, way, report);
        }
    }
}

fn stream(mesh: &Mesh, sides: &Sides, extent: &Extent, way: Way, report: &mut Report) {
    let directions: [(&[&str], [&str; 3]); 2] = [
        (&[], ["stream_forward_gbit_per_s", "cpu_forward_s_per_gib", "cpu_forward_sidecars_s_per_gib"]),
        (
            &["--reverse"],
            ["stream_reverse_gbit_per_s", "cpu_reverse_s_per_gib", "cpu_reverse_sidecars_s_per_gib"],
        ),
    ];
    let sidecars = ["a", "b"].map(|host| mesh.host(host).sidecar_pid().unwrap_or(0));
    let used = || (busy_seconds(), sidecars.iter().map(|&pid| process_seconds(pid)).sum::<f64>());
    for (flags, [speed, cost, sidecar_cost]) in directions {
        let seconds = extent.stream_seconds.to_string();
        let more: Vec<&str> = ["--seconds", &seconds].iter().chain(flags).copied().collect();
        let counted = Duration::from_secs_f64(extent.stream_seconds * COUNTED_SHARE);
        let (found, before, after) = thread::scope(|scope| {
            let running = scope.spawn(|| sides.run(way, "throughput", THROUGHPUT, &more));
            thread::sleep(STARTED);
            let before = used();
            thread::sleep(counted);
            let after = used();
            (running.join().expect("a failed measurement has said why"), before, after)
        });
        let gbit_per_s = number(&found, "gbit_per_s");
        let gib = gbit_per_s * 1e9 / 8.0 / f64::from(1 << 30) * counted.as_secs_f64();
        report.sample(speed, way, gbit_per_s);
        report.sample(cost, way, (after.0 - before.0) / gib);
        report.sample(sidecar_cost, way, (after.1 - before.1) / gib);
    }
}

fn round_trip(sides: &Sides, extent: &Extent, way: Way, report: &mut Report) {
    let found = sides.run(way, "roundtrip", ROUNDTRIP, &["--seconds", &extent.small_seconds.to_string()]);
    report.sample("round_trip_p50_us", way, number(&found, "p50_us"));
    report.sample("round_trip_p99_us", way, number(&found, "p99_us"));
    if way == Way::Plain {
        let more = ["--udp", "--seconds", &extent.small_seconds.to_string()];
        let found = sides.run(way, "roundtrip", DATAGRAMS, &more);
        report.sample("link_round_trip_p50_us", way, number(&found, "p50_us"));
        report.sample("link_round_trip_p99_us", way, number(&found, "p99_us"));
    }
}

fn connects(sides: &Sides, extent: &Extent, way: Way, report: &mut Report) {
    for (parallel, name) in [("1", "connects_per_s"), ("16", "connects_at_once_per_s")] {
        let seconds = extent.small_seconds.to_string();
        let found = sides.run_with_failures(
            way,
            "connects",
            CONNECTS,
            &["--seconds", &seconds, "--parallel", parallel],
        );
        report.sample(name, way, number(&found, "per_second"));
        if parallel == "1" {
            report.sample("connect_p50_us", way, number(&found, "connect_p50_us"));
            report.sample("connect_p99_us", way, number(&found, "connect_p99_us"));
        }
        if found["failed"] != 0 {
            let (of, way) = (&found["connections"], if way == Way::Plain { "plain" } else { "two sidecars" });
            report.failures.push(format!(
                "{name}, {way}: {} failed beside {of}: {}",
                found["failed"], found["first_failure"]
            ));
        }
    }
}

/// Over a link that takes long: how many round trips a connect is.
pub(crate) fn measure_far(extent: &Extent, report: &mut Report) {
    eprintln!("bench: connects over a link of {} ms there and back", 2 * FAR.as_millis());
    let mesh = Mesh::new("bench-far");
    let relay = mesh.relay();
    for host in ["a", "b"] {
        relay.carry(&mesh.host(host));
    }
    mesh.start(&["a", "b"]);
    relay.set_weather(Weather { delay: FAR, ..Weather::default() });
    let sides = Sides::start(&mesh);
    let seconds = extent.far_seconds.to_string();
    let found = sides.run(Way::Capsules, "roundtrip", ROUNDTRIP, &["--seconds", &seconds]);
    report.sample("far_round_trip_p50_us", Way::Capsules, number(&found, "p50_us"));
    report.sample("far_round_trip_p99_us", Way::Capsules, number(&found, "p99_us"));
    let found = sides.run(Way::Capsules, "connects", CONNECTS, &["--seconds", &seconds]);
    report.sample("far_connect_p50_us", Way::Capsules, number(&found, "connect_p50_us"));
    report.sample("far_connect_p99_us", Way::Capsules, number(&found, "connect_p99_us"));
    sides.end(&mesh);
    let left = mesh.end();
    if !left.is_empty() {
        report.failures.push(format!("left behind: {left}"));
    }
}

fn number(found: &Value, key: &str) -> f64 {
    found[key].as_f64().unwrap_or_else(|| panic!("no {key} in {found}"))
}
