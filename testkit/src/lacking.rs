//! What this machine lacks to run a mesh: for programs that say so before they begin.

use std::fmt::{self, Display, Formatter};
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, fs};

use crate::programs;

/// The oldest kernel on which peeking at an offset, and all else that is needed, works.
const KERNEL_MIN: (u32, u32) = (6, 9);
const MEMORY_KIB_MIN: u64 = 1 << 20;
const PROGRAMS: [&str; 5] =
    ["capsule", "capsule-directory", "capsule-shim", "capsule-sidecar", "testkit-sweep"];
const TOOLS: [&str; 6] = ["criu", "ip", "nft", "nsenter", "rsync", "runc"];

/// A thing that is missing, and what to do about it.
#[derive(Clone, Debug)]
pub struct Lacking {
    /// What is missing.
    pub what: String,
    /// What brings it.
    pub remedy: &'static str,
}

impl Display for Lacking {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.what, self.remedy)
    }
}

/// Everything that a mesh needs and that is not there; `programs` of this workspace and `tools` of the machine beyond
/// the mesh's own. Changes nothing.
pub fn lacking(programs: &[&str], tools: &[&str]) -> Vec<Lacking> {
    let mut lacking = Vec::new();
    let mut say = |what: String, remedy| lacking.push(Lacking { what, remedy });
    let root = rustix::process::geteuid().is_root();
    if !root {
        say("you are not root".into(), "namespaces, TCP_REPAIR and CRIU are for root only; use sudo");
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if version(&release) < KERNEL_MIN {
        say(format!("the kernel is {}", release.trim()), "Linux 6.9 or newer is needed");
    }
    let available = available_kib();
    if available < MEMORY_KIB_MIN {
        say(format!("{} MiB of memory are free", available / 1024), "1 GiB is needed; end something");
    }
    for name in PROGRAMS.iter().chain(programs).filter(|name| programs::find(name).is_none()) {
        say(format!("{name} is not built"), "make build");
    }
    let absent: Vec<&&str> = TOOLS.iter().chain(tools).filter(|tool| !is_in_path(tool)).collect();
    for tool in &absent {
        say(format!("no {tool} in {}", env::var("PATH").unwrap_or_default()), "make setup");
    }
    if root && !absent.contains(&&"criu") && !criu_works() {
        say("CRIU does not pass its own check on this kernel".into(), "make setup; criu check says why");
    }
    lacking
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers =
        release.split(|letter: char| !letter.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn available_kib() -> u64 {
    let table = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = table.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn is_in_path(tool: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| Path::new(&folder).join(tool).is_file())
}

fn criu_works() -> bool {
    let mut command = Command::new("criu");
    command.arg("check").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_kernels() {
        assert_eq!(version("6.18.44-fc\n"), (6, 18));
        assert_eq!(version("5.4"), (5, 4));
        assert!(version("10.0.1") > KERNEL_MIN && version("6.8.12") < KERNEL_MIN && version("") < KERNEL_MIN);
    }
}
