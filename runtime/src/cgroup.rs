//! The cgroup of a capsule: frozen, thawed and ended by itself, without runc.
//!
//! `runc pause` takes 5 ms to start and read its state before it writes this one word, and it waits in steps; at a
//! move all of that would be pause.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::RuntimeError;

mod vfork;

const MOUNT: &str = "/sys/fs/cgroup";
/// Milliseconds that all processes of a capsule have to stop or go on; one in an uninterruptible wait may need long.
const FREEZE_MS_MAX: u64 = 5_000;
/// Milliseconds that killed processes have to be gone.
const KILL_MS_MAX: u64 = 5_000;
const STEP: Duration = Duration::from_micros(200);
/// Milliseconds that processes have to finish starting programs: an `execve` takes one or two, more on a busy disk.
const VFORK_MS_MAX: u64 = 1_000;
/// Time that they get before they are frozen anew.
const VFORK_STEP: Duration = Duration::from_millis(1);

/// A capsule's cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    path: String,
}

/// How this machine freezes.
enum Freezer {
    V1(PathBuf),
    V2(PathBuf),
}

impl Cgroup {
    /// The cgroup of a capsule under a sidecar. Sidecars on one kernel must have different names, since source and
    /// target of a move have the same capsule at the same time.
    pub fn new(sidecar: &str, capsule: &str) -> Cgroup {
        Cgroup { path: format!("/capsule/{sidecar}/{capsule}") }
    }

    /// As the OCI bundle names it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Stops all processes; returns when none runs any more.
    ///
    /// # Errors
    /// Some do not stop in time: then all go on.
    pub fn freeze(&self) -> Result<(), RuntimeError> {
        let result = self.freezer()?.set(true).and_then(|done| self.in_time(done, "freeze"));
        if result.is_err() {
            let _ = self.thaw();
        }
        result
    }

    /// As [`Cgroup::freeze`], at a moment when all can be dumped: none is just starting a program. Those that are get the
    /// time to finish that.
    ///
    /// # Errors
    /// Some do not stop, or do not finish, in time: then all go on.
    pub fn freeze_for_dump(&self) -> Result<(), RuntimeError> {
        let deadline = Instant::now() + Duration::from_millis(VFORK_MS_MAX);
        loop {
            self.freeze()?;
            let Some(pid) = self.processes().into_iter().find(|pid| vfork::is_starting_a_program(*pid))
            else {
                return Ok(());
            };
            self.thaw()?;
            if Instant::now() > deadline {
                return Err(RuntimeError::StartsProgram { pid, millis: VFORK_MS_MAX });
            }
            std::thread::sleep(VFORK_STEP);
        }
    }

    /// Lets all processes go on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn thaw(&self) -> Result<(), RuntimeError> {
        self.freezer()?.set(false).and_then(|done| self.in_time(done, "thaw"))
    }

    /// Whether the processes are stopped.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn is_frozen(&self) -> Result<bool, RuntimeError> {
        self.freezer()?.is(true)
    }

    /// Its processes, as the host numbers them; none when there is no such cgroup.
    pub fn processes(&self) -> Vec<u32> {
        let Ok(Freezer::V1(dir) | Freezer::V2(dir)) = self.freezer() else { return Vec::new() };
        let mut all = Vec::new();
        read_processes(&dir, &mut all);
        all
    }

    /// Ends all processes without letting any make a step, and returns when they are gone.
    ///
    /// # Errors
    /// Some are still there after a while.
    pub fn kill(&self) -> Result<(), RuntimeError> {
        let deadline = Instant::now() + Duration::from_millis(KILL_MS_MAX);
        loop {
            let alive: Vec<u32> = self.processes().into_iter().filter(|pid| !is_zombie(*pid)).collect();
            if alive.is_empty() {
                return Ok(());
            }
            // Frozen processes get the signal before anything else when they go on.
            for pid in alive.iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            let _ = self.freezer()?.set(false);
            if Instant::now() > deadline {
                return self.in_time(false, "end");
            }
            std::thread::sleep(STEP);
        }
    }

    /// Removes it in every hierarchy. Goes on past failures and returns them.
    pub fn remove(&self) -> Vec<RuntimeError> {
        let mut failures = Vec::new();
        for hierarchy in hierarchies() {
            let dir = self.below(&hierarchy);
            if let Err(error) = remove_tree(&dir) {
                failures.push(RuntimeError::io("remove the cgroup", &dir, error));
            }
            // The directories above it go with the last capsule.
            for above in dir.ancestors().skip(1).take_while(|above| *above != hierarchy) {
                if std::fs::remove_dir(above).is_err() {
                    break;
                }
            }
        }
        failures
    }

    fn freezer(&self) -> Result<Freezer, RuntimeError> {
        let v1 = Path::new(MOUNT).join("freezer");
        if v1.is_dir() {
            return Ok(Freezer::V1(self.below(&v1)));
        }
        if Path::new(MOUNT).join("cgroup.controllers").exists() {
            return Ok(Freezer::V2(self.below(Path::new(MOUNT))));
        }
        Err(RuntimeError::NoFreezer)
    }

    fn below(&self, hierarchy: &Path) -> PathBuf {
        hierarchy.join(self.path.trim_start_matches('/'))
    }

    fn in_time(&self, done: bool, state: &'static str) -> Result<(), RuntimeError> {
        match done {
            true => Ok(()),
            false => Err(RuntimeError::Freezer { cgroup: self.path.clone(), state, millis: FREEZE_MS_MAX }),
        }
    }
}

impl Freezer {
    /// Says whether it came to be so in time.
    fn set(&self, frozen: bool) -> Result<bool, RuntimeError> {
        let (file, word) = match (self, frozen) {
            (Freezer::V1(dir), true) => (dir.join("freezer.state"), "FROZEN"),
            (Freezer::V1(dir), false) => (dir.join("freezer.state"), "THAWED"),
            (Freezer::V2(dir), true) => (dir.join("cgroup.freeze"), "1"),
            (Freezer::V2(dir), false) => (dir.join("cgroup.freeze"), "0"),
        };
        let deadline = Instant::now() + Duration::from_millis(FREEZE_MS_MAX);
        std::fs::write(&file, word).map_err(|error| RuntimeError::io("write", &file, error))?;
        loop {
            if self.is(frozen)? {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            std::thread::sleep(STEP);
            if matches!(self, Freezer::V1(_)) {
                // A process that was forked at the wrong moment is only caught by writing again.
                std::fs::write(&file, word).map_err(|error| RuntimeError::io("write", &file, error))?;
            }
        }
    }

    fn is(&self, frozen: bool) -> Result<bool, RuntimeError> {
        let (file, wanted) = match self {
            Freezer::V1(dir) => (dir.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" }),
            Freezer::V2(dir) => (dir.join("cgroup.events"), if frozen { "frozen 1" } else { "frozen 0" }),
        };
        let text = std::fs::read_to_string(&file).map_err(|error| RuntimeError::io("read", &file, error))?;
        Ok(text.lines().any(|line| line == wanted))
    }
}

fn hierarchies() -> Vec<PathBuf> {
    if Path::new(MOUNT).join("cgroup.controllers").exists() {
        return vec![PathBuf::from(MOUNT)];
    }
    let entries = std::fs::read_dir(MOUNT).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink()).collect()
}

fn read_processes(dir: &Path, all: &mut Vec<u32>) {
    let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    all.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    for child in children(dir) {
        read_processes(&child, all);
    }
}

fn children(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

fn is_zombie(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before it may hold anything but ends at the last parenthesis.
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

fn remove_tree(dir: &Path) -> std::io::Result<()> {
    for child in children(dir) {
        remove_tree(&child)?;
    }
    let deadline = Instant::now() + Duration::from_millis(KILL_MS_MAX);
    loop {
        match std::fs::remove_dir(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            // The kernel lets go of ended processes a moment after they ended.
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(STEP);
            }
            result => return result,
        }
    }
}
