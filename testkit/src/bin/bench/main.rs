//! What Capsule costs, against plain TCP between the same hosts and CRIU alone on the same process, in one run.
//!
//! See `docs/benchmarks.md` for what is measured and how.

mod alone;
mod blackout;
mod machine;
mod memory;
mod network;
mod report;
mod sides;
mod table;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use testkit::Mesh;

use machine::Machine;
use report::Report;
use sides::Sides;

/// Measures sessions against plain TCP and moves against plain CRIU; about three minutes.
#[derive(Parser)]
struct Arguments {
    /// Fewer and shorter measurements: 40 seconds.
    #[arg(long)]
    quick: bool,
    /// Only what is between two hosts: no moves.
    #[arg(long)]
    network: bool,
    /// Print one JSON document instead of the table.
    #[arg(long)]
    json: bool,
}

/// How often and how long.
struct Extent {
    /// Medians are of so many.
    repetitions: usize,
    /// Moves of each Redis, and captures by CRIU alone.
    moves: usize,
    stream_seconds: f64,
    small_seconds: f64,
    idle_connections: usize,
    far_seconds: f64,
}

const FULL: Extent = Extent {
    repetitions: 3,
    moves: 5,
    stream_seconds: 2.5,
    small_seconds: 1.5,
    idle_connections: 1000,
    far_seconds: 10.0,
};
const QUICK: Extent = Extent {
    repetitions: 1,
    moves: 3,
    stream_seconds: 1.5,
    small_seconds: 0.7,
    idle_connections: 1000,
    far_seconds: 3.0,
};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let missing = testkit::lacking(
        &["throughput", "roundtrip", "connects", "db-client"],
        &["redis-server", "redis-cli", "taskset"],
    );
    if !missing.is_empty() {
        eprintln!("bench: this machine can't measure it yet; nothing was started:");
        for thing in missing {
            eprintln!("  - {thing}");
        }
        return ExitCode::FAILURE;
    }
    let (extent, began) = (if arguments.quick { QUICK } else { FULL }, Instant::now());
    let machine = Machine::look();
    if machine.busy_percent > machine::BUSY_PERCENT_MAX {
        eprintln!(
            "bench: something else keeps the CPUs {:.0} % busy: all figures are worse for it, CPU figures wrong",
            machine.busy_percent
        );
    }
    let mesh = Mesh::running("bench", &["a", "b", "c"]);
    let mut report = Report::new(machine, arguments.quick, &extent);
    // First, while the sidecars are fresh: an allocator keeps what it once had.
    let sides = Sides::start(&mesh);
    report.memory = memory::measure(&mesh, &sides, &extent);
    network::measure(&mesh, &sides, &extent, &mut report);
    sides.end(&mesh);
    if !arguments.network {
        report.blackouts = blackout::measure(&mesh, &extent);
    }
    let left = mesh.end();
    network::measure_far(&extent, &mut report);
    report.seconds = began.elapsed().as_secs_f64();
    if arguments.json {
        table::print(&report.json())
    } else {
        table::print(&table::table(&report))
    }
    for failure in &report.failures {
        eprintln!("bench: {failure}");
    }
    if !left.is_empty() {
        eprintln!("bench: left behind: {left}");
    }
    if left.is_empty() && report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
