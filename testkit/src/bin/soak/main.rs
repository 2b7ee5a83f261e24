//! Random faults on a mesh of real hosts, for as long as wanted, while programs talk and check every byte.
//!
//! A seed gives schedules of a few events each: capsules are moved and suspended, sidecars killed and upgraded, the
//! directory killed, cables pulled, addresses changed. After each schedule everything must be in its place again, each
//! capsule live at exactly one host. The first fault ends the run with a non-zero exit, the logs, and how to replay it.

mod mishaps;
mod programs;
mod schedule;

use std::io::{self, Write};
use std::time::{Duration, Instant};

use clap::Parser;
use testkit::Mesh;

use mishaps::Mishaps;
use programs::Programs;
use schedule::{HOSTS, Schedule};

/// Random faults on a mesh of real hosts, while programs talk and check every byte.
#[derive(Parser)]
struct Arguments {
    /// How long to go on.
    #[arg(long, default_value_t = 60.0, conflicts_with = "schedules")]
    minutes: f64,
    /// How many schedules, instead of a time.
    #[arg(long)]
    schedules: Option<u64>,
    /// Number of the first schedule under the seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Where everything random comes from; drawn if none is given.
    #[arg(long)]
    seed: Option<u64>,
    /// Seconds in which the events of one schedule begin and mostly end.
    #[arg(long, default_value_t = 8.0)]
    window: f64,
}

/// Says how to see it again, should this thread panic.
struct Replay {
    seed: u64,
    window: f64,
    schedule: Schedule,
}

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (seed, window, number) = (self.seed, self.window, self.schedule.number);
            eprintln!("soak: failed in or soon after {}", self.schedule);
            eprintln!("soak: replay: soak --seed {seed} --window {window} --from {number} --schedules 1");
        }
    }
}

fn main() {
    let arguments = Arguments::parse();
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seed = arguments.seed.unwrap_or(u64::from(clock.subsec_nanos()));
    let window = Duration::from_secs_f64(arguments.window);
    say(&format!("seed {seed}"));
    let began = Instant::now();
    let mesh = Mesh::new("soak");
    for host in HOSTS {
        // An address that changes is not one that a sidecar can be told to keep to.
        mesh.host(host).listen_everywhere();
    }
    mesh.start(&HOSTS);
    let mishaps = Mishaps::new(mesh);
    let mut programs = Programs::start(&mishaps);
    let deadline = Instant::now() + Duration::from_secs_f64(arguments.minutes * 60.0);
    let wanted = |done: u64| arguments.schedules.map_or(Instant::now() < deadline, |count| done < count);
    let mut done = 0;
    while wanted(done) {
        let schedule = Schedule::of(seed, arguments.from + done, window);
        say(&format!("{:6.1} s {schedule}", began.elapsed().as_secs_f64()));
        let replay = Replay { seed, window: arguments.window, schedule };
        mishaps.carry_out(&replay.schedule, &|word| programs.name_of(word));
        mishaps.settle(&programs.names());
        programs.take_turns(&mishaps);
        done += 1;
    }
    let last = Replay {
        seed,
        window: arguments.window,
        schedule: Schedule::of(seed, arguments.from + done.saturating_sub(1), window),
    };
    programs.end(&mishaps);
    drop(last);
    show(&mishaps, &programs, done, began.elapsed());
    let leftovers = mishaps.mesh.end();
    assert!(leftovers.is_empty(), "left behind: {leftovers:?}");
}

fn show(mishaps: &Mishaps, programs: &Programs, schedules: u64, took: Duration) {
    say(&format!("{schedules} schedules in {:.0} s", took.as_secs_f64()));
    say(&format!("{:24} {:>8} {:>8}", "", "tried", "worked"));
    for (kind, (tried, worked)) in mishaps.counts.lock().expect("nobody else runs").iter() {
        say(&format!("{kind:24} {tried:>8} {worked:>8}"));
    }
    let checked = &programs.checked;
    say(&format!(
        "streams                  {:>8} with {} bytes, every one checked",
        checked.streams, checked.bytes
    ));
    say(&format!("answers of redis         {:>8} counted once each", checked.operations));
    say(&format!("idle connections         {:>8} alive in the end", checked.idle));
    say(&format!("longest silence          {:>8.0} ms", checked.longest_gap_ms));
    say("no byte was lost");
}

fn say(line: &str) {
    // Whoever reads this may have gone away: the run ends in order all the same.
    let _ = writeln!(io::stdout(), "{line}");
}
