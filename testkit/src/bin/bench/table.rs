//! The report as people read it.

use std::fmt::Write;

use testkit::figures::{median, percentile};

use crate::blackout::Blackout;
use crate::report::Report;

/// How the two ways are compared.
enum Compared {
    /// Not with plain TCP, which has none of it.
    No,
    Ratio,
    Difference,
}

const ROWS: [(&str, &str, Compared, usize); 10] = [
    ("stream forward, Gbit/s", "stream_forward_gbit_per_s", Compared::Ratio, 2),
    ("stream reverse, Gbit/s", "stream_reverse_gbit_per_s", Compared::Ratio, 2),
    ("  CPU forward, s per GiB", "cpu_forward_s_per_gib", Compared::Ratio, 2),
    ("    of it the sidecars", "cpu_forward_sidecars_s_per_gib", Compared::No, 2),
    ("  CPU reverse, s per GiB", "cpu_reverse_s_per_gib", Compared::Ratio, 2),
    ("    of it the sidecars", "cpu_reverse_sidecars_s_per_gib", Compared::No, 2),
    ("round trip of 64 bytes, p50 µs", "round_trip_p50_us", Compared::Difference, 0),
    ("round trip of 64 bytes, p99 µs", "round_trip_p99_us", Compared::Difference, 0),
    ("connects per s, one by one", "connects_per_s", Compared::Ratio, 0),
    ("connects per s, 16 at once", "connects_at_once_per_s", Compared::Ratio, 0),
];

#[expect(clippy::print_stdout, reason = "the figures are the output of this program")]
pub(crate) fn print(text: &str) {
    println!("{text}");
}

pub(crate) fn table(report: &Report) -> String {
    // Writing into a string does not fail.
    let mut out = String::new();
    let _ = head(report, &mut out)
        .and_then(|()| network(report, &mut out))
        .and_then(|()| connect(report, &mut out))
        .and_then(|()| blackouts(report, &mut out));
    out.trim_end().to_owned()
}

fn head(report: &Report, out: &mut String) -> std::fmt::Result {
    let machine = &report.machine;
    writeln!(
        out,
        "{}, {} CPUs ({}), {:.0} GiB, Linux {}; {:.0} % busy before; {:.0} s\n",
        machine.date,
        machine.cpus,
        machine.cpu,
        machine.memory_gib,
        machine.kernel,
        machine.busy_percent,
        report.seconds
    )
}

fn network(report: &Report, out: &mut String) -> std::fmt::Result {
    let count = report.repetitions;
    writeln!(
        out,
        "{:36}{:>12}{:>16}{:>12}   medians of {count}",
        "BETWEEN TWO HOSTS", "PLAIN TCP", "TWO SIDECARS", ""
    )?;
    for (title, name, compared, digits) in &ROWS {
        let (plain, capsules) = report.medians(name);
        let verdict = match compared {
            Compared::No => String::new(),
            Compared::Ratio => format!("{:.2} ×", capsules / plain),
            Compared::Difference => format!("{:+.0}", capsules - plain),
        };
        let row = format!("{title:36}{plain:>12.digits$}{capsules:>16.digits$}{verdict:>12}");
        writeln!(out, "{}", row.trim_end())?;
    }
    let memory = &report.memory;
    writeln!(out, "{:36}{:>12}{:>16.1}", "memory of a fresh sidecar, MiB", "", memory.start_mib)?;
    let each = format!("{:.1} + {:.1}", memory.opener_kib_per_session, memory.acceptor_kib_per_session);
    writeln!(
        out,
        "{:36}{:>12}{each:>16}              opener + acceptor, {} sessions\n",
        "  per idle session, KiB", "", memory.sessions
    )
}

/// A connect alone, and how many round trips it is.
fn connect(report: &Report, out: &mut String) -> std::fmt::Result {
    writeln!(out, "{:36}{:>12}{:>16}{:>12}", "CONNECT ALONE", "PLAIN TCP", "TWO SIDECARS", "ADDED")?;
    for share in ["p50", "p99"] {
        let (plain, capsules) = report.medians(&format!("connect_{share}_us"));
        let (title, added) = (format!("connect, {share} µs"), capsules - plain);
        writeln!(out, "{title:36}{plain:>12.0}{capsules:>16.0}{added:>+12.0}")?;
    }
    for share in ["p50", "p99"] {
        let (link, _) = report.medians(&format!("link_round_trip_{share}_us"));
        let title = format!("UDP between the hosts, {share} µs");
        writeln!(out, "{title:36}{link:>12.0}")?;
    }
    let of = |name: &str, pick: fn((f64, f64)) -> f64| pick(report.medians(name));
    let added = of("connect_p50_us", |(plain, capsules)| capsules - plain);
    let link = of("link_round_trip_p50_us", |(plain, _)| plain);
    writeln!(out, "{:36}{:>40}", "  added, in round trips of it", format!("{:.2} ×", added / link))?;
    for (name, what) in [("far_round_trip", "  round trip"), ("far_connect", "  connect")] {
        for share in ["p50", "p99"] {
            let took = of(&format!("{name}_{share}_us"), |(_, capsules)| capsules);
            writeln!(
                out,
                "{:36}{:>28}",
                format!("over 20 ms:{what}, {share} ms"),
                format!("{:.2}", took / 1000.0)
            )?;
        }
    }
    let far = |name| of(name, |(_, capsules)| capsules);
    let round_trips = far("far_connect_p50_us") / far("far_round_trip_p50_us");
    writeln!(out, "{:36}{:>40}\n", "  a connect, in round trips", format!("{round_trips:.2} ×"))
}

fn blackouts(report: &Report, out: &mut String) -> std::fmt::Result {
    if report.blackouts.is_empty() {
        return Ok(());
    }
    let mut columns = |title: &str, value: &dyn Fn(&Blackout) -> String| {
        let values: String =
            report.blackouts.iter().map(|blackout| format!("{:>24}", value(blackout))).collect();
        writeln!(out, "{title:36}{values}")
    };
    columns("MOVE OF A REDIS", &|blackout| blackout.size.name().to_owned())?;
    columns("resident, MiB", &|blackout| format!("{:.0}", blackout.resident_mib))?;
    columns("blackout, ms: median (min, max)", &|blackout| spread(&blackout.pauses_ms))?;
    columns("  longest gap of its client, ms", &|blackout| spread(&blackout.gaps_ms))?;
    columns("  whole move, ms", &|blackout| spread(&blackout.durations_ms))?;
    columns("CRIU alone, dump + restore, ms", &|blackout| {
        let of = |samples: &[f64]| median(&mut samples.to_vec());
        let (dump, restore) = (of(&blackout.alone.dump_ms), of(&blackout.alone.restore_ms));
        format!("{:.0} ({dump:.0} + {restore:.0})", blackout.alone.median_ms())
    })?;
    columns("blackout to CRIU alone", &|blackout| format!("{:.2} ×", blackout.ratio()))?;
    writeln!(out, "\nphases of a move, ms (medians of {})", report.moves)?;
    for blackout in &report.blackouts {
        let phases: Vec<String> =
            blackout.phases().iter().map(|(name, ms)| format!("{name} {ms:.0}")).collect();
        let (before, after) = phases.split_at(phases.len().div_ceil(2));
        writeln!(out, "  {:20}{}\n{:22}{}", blackout.size.name(), before.join("  "), "", after.join("  "))?;
    }
    Ok(())
}

fn spread(samples: &[f64]) -> String {
    let mut sorted = samples.to_vec();
    let (middle, least, most) =
        (median(&mut sorted), percentile(&mut sorted, 0.0), percentile(&mut sorted, 1.0));
    format!("{middle:.0} ({least:.0}, {most:.0})")
}
