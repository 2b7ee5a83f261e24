//! Which processes belong to a mesh.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{HOST_VARIABLE, Scope};
use crate::network::NAMES;

const OURS: [&str; 3] = ["capsule", "runc", "criu"];

/// A process that belongs to a mesh.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) pid: i32,
    command: String,
}

impl Display for Found {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "process {} ({})", self.pid, self.command)
    }
}

impl Scope {
    pub(crate) fn processes(&self) -> Vec<Found> {
        let spaces: BTreeSet<u64> = self
            .netns()
            .iter()
            .filter_map(|name| fs::metadata(Path::new(NAMES).join(name)).ok())
            .map(|m| m.ino())
            .collect();
        let all: Vec<Seen> = pids().into_iter().filter_map(Seen::look).collect();
        let own = Seen::look(own_pid());
        let own_netns = own.as_ref().map(|own| own.netns);
        let own_mounts = own.as_ref().map(|own| own.mounts);
        let direct: Vec<&Seen> =
            all.iter().filter(|seen| spaces.contains(&seen.netns) || self.marks(seen, own_mounts)).collect();
        let shared: BTreeSet<u64> =
            direct.iter().map(|seen| seen.netns).filter(|netns| Some(*netns) != own_netns).collect();
        let direct: BTreeSet<i32> = direct.iter().map(|seen| seen.pid).collect();
        let belongs = |seen: &&Seen| direct.contains(&seen.pid) || shared.contains(&seen.netns);
        all.iter()
            .filter(belongs)
            .map(|seen| Found { pid: seen.pid, command: seen.command.join(" ") })
            .collect()
    }

    fn marks(&self, seen: &Seen, own_mounts: Option<u64>) -> bool {
        let folder = format!("{}/", self.dir.display());
        let named = seen.mark.as_deref().is_some_and(|mark| self.names(mark));
        // By the words of Capsule's own programs only: somebody may be reading the logs.
        let ours = seen.command.first().is_some_and(|program| OURS.iter().any(|name| program.contains(name)));
        let told = ours && seen.command.iter().any(|word| word.contains(&folder));
        named || told || (Some(seen.mounts) != own_mounts && seen.root_lies_in(&folder))
    }
}

struct Seen {
    pid: i32,
    netns: u64,
    mounts: u64,
    mark: Option<String>,
    command: Vec<String>,
}

impl Seen {
    /// Nothing for kernel threads, zombies and those that have just ended.
    fn look(pid: i32) -> Option<Seen> {
        let place = Path::new("/proc").join(pid.to_string());
        let command = words(&fs::read(place.join("cmdline")).ok()?);
        if command.is_empty() {
            return None;
        }
        let netns = fs::metadata(place.join("ns/net")).ok()?.ino();
        let mounts = fs::metadata(place.join("ns/mnt")).ok()?.ino();
        let environment = words(&fs::read(place.join("environ")).unwrap_or_default());
        let mark = environment.iter().find_map(|word| word.strip_prefix(HOST_VARIABLE)?.strip_prefix('='));
        Some(Seen { pid, netns, mounts, mark: mark.map(str::to_owned), command })
    }

    fn root_lies_in(&self, folder: &str) -> bool {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.pid)).unwrap_or_default();
        let root = table.lines().find(|line| line.split(' ').nth(4) == Some("/"));
        root.is_some_and(|line| {
            line.contains(&format!("upperdir={folder}")) || line.contains(&format!(" {folder}"))
        })
    }
}

/// Every process but this one, those above it and a sweeper, whose command line names the mesh too.
fn pids() -> Vec<i32> {
    let mut above = BTreeSet::from([own_pid()]);
    let mut pid = own_pid();
    while let Some(parent) = parent(pid).filter(|parent| *parent > 0) {
        above.insert(parent);
        pid = parent;
    }
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| !above.contains(pid) && !is_sweeper(*pid)).collect()
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

fn parent(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn is_sweeper(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "testkit-sweep")
}

fn words(bytes: &[u8]) -> Vec<String> {
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}
