//! Removing everything that belongs to a mesh, whoever made it and however it ended.
//!
//! A process belongs to a mesh when one of these says so: its network namespace is a host's; its environment has the
//! mark that [`crate::Host::command`] sets (children inherit it); its command line names the mesh's folder (a shim); its
//! root is an overlay whose upper layer lies in that folder (a capsule); or it shares the namespace of one of those.

mod belongings;
mod cgroups;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::network::NAMES;
pub(crate) use belongings::Found;

/// Marks every process of a host with the name of its namespace.
pub(crate) const HOST_VARIABLE: &str = "TESTKIT_HOST";
const DEATH_LIMIT: Duration = Duration::from_secs(10);

/// Capsule ids seen in meshes of this process: cgroups carry them in their names.
static CAPSULES: Mutex<BTreeSet<(String, String)>> = Mutex::new(BTreeSet::new());

/// What to look for: a mesh or one of its hosts.
#[derive(Debug)]
pub(crate) struct Scope {
    /// A whole name, or the beginning of several.
    name: String,
    whole: bool,
    dir: PathBuf,
}

impl Scope {
    pub(crate) fn mesh(prefix: &str) -> Scope {
        Scope { name: prefix.to_owned(), whole: false, dir: folder(prefix) }
    }

    pub(crate) fn host(netns: &str, dir: &Path) -> Scope {
        Scope { name: netns.to_owned(), whole: true, dir: dir.to_owned() }
    }

    fn names(&self, name: &str) -> bool {
        if self.whole { name == self.name } else { name.starts_with(&self.name) }
    }

    pub(crate) fn netns(&self) -> Vec<String> {
        let entries = fs::read_dir(NAMES).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| self.names(name))
            .collect()
    }

    /// Mount points inside its folder, the newest first.
    pub(crate) fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        let mut found: Vec<PathBuf> =
            points.map(unescape).filter(|point| point.starts_with(&self.dir)).collect();
        found.reverse();
        found
    }

    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        note_folder(&self.name, &self.dir);
        let ids: Vec<String> = {
            let known = CAPSULES.lock().unwrap_or_else(PoisonError::into_inner);
            known.iter().filter(|(name, _)| name.starts_with(&self.name)).map(|(_, id)| id.clone()).collect()
        };
        cgroups::named(|name| name.contains(&self.name) || ids.iter().any(|id| name.contains(id)))
    }

    /// Kills every process of it, frozen ones too; returns those that are still there.
    pub(crate) fn kill(&self) -> Vec<Found> {
        let end = Instant::now() + DEATH_LIMIT;
        loop {
            let found = self.processes();
            if found.is_empty() || Instant::now() > end {
                return found;
            }
            for process in &found {
                cgroups::thaw(process.pid);
                if let Some(pid) = Pid::from_raw(process.pid) {
                    // One that has just ended by itself is as good as killed.
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The folder of a mesh.
pub(crate) fn folder(prefix: &str) -> PathBuf {
    env::temp_dir().join(prefix.trim_end_matches('-'))
}

/// Remembers the capsules that a host has now, so that their cgroups are known after they are gone.
pub(crate) fn note_capsules(name: &str, host_dir: &Path) {
    let mut known = CAPSULES.lock().unwrap_or_else(PoisonError::into_inner);
    for entry in fs::read_dir(host_dir.join("data/capsules")).into_iter().flatten().flatten() {
        known.insert((name.to_owned(), entry.file_name().to_string_lossy().into_owned()));
    }
}

fn note_folder(name: &str, dir: &Path) {
    for host in fs::read_dir(dir).into_iter().flatten().flatten() {
        note_capsules(name, &host.path());
    }
    note_capsules(name, dir);
}

/// Removes everything whose name begins with `prefix`; goes on past failures and returns them.
pub fn sweep(prefix: &str) -> Vec<String> {
    let scope = Scope::mesh(prefix);
    let mut failures = Vec::new();
    let mut groups = scope.cgroups();
    groups.extend(scope.processes().iter().flat_map(|process| cgroups::of(process.pid)));
    failures.extend(scope.kill().into_iter().map(|process| format!("can't kill {process}")));
    for point in scope.mounts() {
        note(&mut failures, &point, unmount(&point, UnmountFlags::DETACH).map_err(io::Error::from));
    }
    for group in groups {
        note(&mut failures, &group, cgroups::remove(&group));
    }
    for name in scope.netns() {
        let path = Path::new(NAMES).join(name);
        note(&mut failures, &path, unmount(&path, UnmountFlags::DETACH).map_err(io::Error::from));
        note(&mut failures, &path, fs::remove_file(&path));
    }
    // A mount that could not be taken away must not have its files deleted.
    if scope.mounts().is_empty() {
        note(&mut failures, &scope.dir, fs::remove_dir_all(&scope.dir));
    }
    failures
}

/// Sweeps every mesh whose maker has died; returns their prefixes and the failures.
pub fn sweep_dead() -> (BTreeSet<String>, Vec<String>) {
    let places = [PathBuf::from(NAMES), env::temp_dir()];
    let entries = places.iter().flat_map(|place| fs::read_dir(place).into_iter().flatten().flatten());
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let dead: BTreeSet<String> = names.filter_map(|name| dead_prefix(&name)).collect();
    let failures = dead.iter().flat_map(|prefix| sweep(prefix)).collect();
    (dead, failures)
}

/// `cx-NAME-PID-NUMBER-` when `name` begins like that and no process PID lives.
fn dead_prefix(name: &str) -> Option<String> {
    let words: Vec<&str> = name.split('-').collect();
    let at = (2..words.len().saturating_sub(1))
        .find(|&at| [words[at], words[at + 1]].iter().all(|word| word.parse::<u32>().is_ok()))?;
    let alive = Path::new("/proc").join(words[at]).exists();
    (words[0] == "cx" && !alive).then(|| format!("{}-", words[..=at + 1].join("-")))
}

fn note(failures: &mut Vec<String>, what: &Path, result: io::Result<()>) {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            failures.push(format!("{}: {error}", what.display()))
        }
        _ => {}
    }
}

/// The kernel writes blanks and backslashes in mount tables as octal numbers.
fn unescape(field: &str) -> PathBuf {
    let mut parts = field.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => text.extend([char::from(byte)].into_iter().chain(part[3..].chars())),
            None => text.push_str(part),
        }
    }
    PathBuf::from(text)
}
