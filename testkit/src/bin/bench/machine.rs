//! The machine on which it runs, and its CPU time.

use std::process::Command;
use std::time::Duration;
use std::{fs, thread};

use serde::Serialize;

/// Above it something else disturbs what is measured.
pub(crate) const BUSY_PERCENT_MAX: f64 = 5.0;
const LOOK: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) date: String,
    pub(crate) cpus: usize,
    pub(crate) cpu: String,
    pub(crate) kernel: String,
    pub(crate) memory_gib: f64,
    /// How busy all CPUs together were before anything was started.
    pub(crate) busy_percent: f64,
}

impl Machine {
    pub(crate) fn look() -> Machine {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let before = busy_seconds();
        thread::sleep(LOOK);
        let busy_percent = 100.0 * (busy_seconds() - before) / LOOK.as_secs_f64() / cpus as f64;
        let date =
            Command::new("date").args(["-u", "+%F"]).output().map(|output| output.stdout).unwrap_or_default();
        Machine {
            date: String::from_utf8_lossy(&date).trim().to_owned(),
            cpus,
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_default(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            memory_gib: kib("/proc/meminfo", "MemTotal") as f64 / f64::from(1 << 20),
            busy_percent,
        }
    }
}

/// CPU time of everything on this machine since its start: programs, sidecars and the kernel, interrupts included.
pub(crate) fn busy_seconds() -> f64 {
    let table = fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = table.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = first.split_whitespace().skip(1).map(|word| word.parse().unwrap_or(0)).collect();
    // user, nice, system, then idle and iowait, then irq and softirq; guests are in user already.
    let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|&at| ticks.get(at)).sum();
    busy as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// CPU time of one process since its start, in programs and in the kernel on its behalf.
pub(crate) fn process_seconds(pid: u32) -> f64 {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in brackets, may hold blanks; after it the state is the first field and utime the twelfth.
    let after = line.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks =
        after.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum::<u64>();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// Resident memory of a process, in KiB.
pub(crate) fn resident_kib(pid: u32) -> u64 {
    kib(&format!("/proc/{pid}/status"), "VmRSS")
}

fn kib(file: &str, name: &str) -> u64 {
    field(file, name).and_then(|value| value.split(' ').next()?.parse().ok()).unwrap_or(0)
}

fn field(file: &str, name: &str) -> Option<String> {
    let table = fs::read_to_string(file).ok()?;
    let mut lines = table.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}
