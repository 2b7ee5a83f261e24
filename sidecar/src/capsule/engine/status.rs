//! What can be seen of a capsule from outside.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use kernel::user_timeout;
use shim::{Program, Reply, Request};

use crate::capsule::Capsule;

/// All processes of the capsule.
pub(crate) fn pids(capsule: &Capsule) -> Vec<u32> {
    capsule.engine.cgroup.processes()
}

/// What processes use that can't be captured.
pub(crate) fn immovable(pids: &[u32]) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for pid in pids {
        let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for entry in entries.flatten() {
            let Ok(target) = std::fs::read_link(entry.path()) else { continue };
            if target.as_os_str() == "anon_inode:[io_uring]" {
                found.push((*pid, "io_uring".to_owned()));
            }
            if target.as_os_str() == "anon_inode:inotify" && watches_root(*pid, &entry.file_name()) {
                found.push((*pid, "inotify on files of its root".to_owned()));
            }
        }
    }
    found.dedup();
    found
}

/// A connection that the kernel ends when bytes wait in it for longer than so many milliseconds (TCP_USER_TIMEOUT,
/// tcp(7)).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Impatient {
    /// Whose it is.
    pub pid: u32,
    /// The time-out.
    pub timeout_ms: u32,
    /// The other end's address.
    pub peer: SocketAddr,
}

/// All such connections of these processes.
pub(crate) fn impatient(pids: &[u32]) -> Vec<Impatient> {
    let mut found = Vec::new();
    for pid in pids {
        user_timeout::each_connection(*pid, |socket| {
            if socket.timeout_ms > 0 {
                found.push(Impatient { pid: *pid, timeout_ms: socket.timeout_ms, peer: socket.peer });
            }
        });
    }
    found
}

/// Whether an inotify descriptor watches files of the process's root: overlayfs as it is mounted here gives out no
/// handles, by which CRIU would find them again.
fn watches_root(pid: u32, fd: &std::ffi::OsStr) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(root) = std::fs::metadata(format!("/proc/{pid}/root/")) else { return false };
    let (major, minor) = (rustix::fs::major(root.dev()), rustix::fs::minor(root.dev()));
    // As the kernel writes its own device numbers: MKDEV in include/linux/kdev_t.h.
    let device = format!("sdev:{:x}", (u64::from(major) << 20) | u64::from(minor));
    let info =
        std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", fd.to_string_lossy())).unwrap_or_default();
    info.lines().any(|line| line.starts_with("inotify ") && line.split(' ').any(|word| word == device))
}

/// The tools that this host needs, with their versions.
pub(crate) fn tools() -> Vec<(String, Option<String>)> {
    let version = |tool: &str| {
        let output = Command::new(tool).arg("--version").stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then(|| text.lines().next().unwrap_or_default().to_owned())
    };
    ["runc", "criu", "rsync"].into_iter().map(|tool| (tool.to_owned(), version(tool))).collect()
}

impl Capsule {
    /// Process id of the program, as the host numbers it.
    pub fn program_pid(&self) -> Option<u32> {
        match self.engine.program() {
            Some(Program::Running { pid }) => Some(pid),
            _ => None,
        }
    }

    /// Number of processes.
    pub fn processes(&self) -> Option<u64> {
        Some(pids(self).len() as u64)
    }

    /// Process id of the shim.
    pub fn shim_pid(&self) -> Option<u32> {
        match self.engine.ask(&Request::Status) {
            Ok(Reply::Status { shim_pid, .. }) => Some(shim_pid),
            _ => None,
        }
    }

    /// Bytes of the log file.
    pub fn log_bytes(&self) -> Option<u64> {
        std::fs::metadata(shim::place::log(self.engine.dir.path())).ok().map(|metadata| metadata.len())
    }

    /// Resident memory of all processes; what they share counts for each.
    pub fn memory_bytes(&self) -> Option<u64> {
        let resident = |pid: u32| -> Option<u64> {
            let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
            text.split(' ').nth(1)?.parse().ok()
        };
        let pages: u64 = pids(self).into_iter().filter_map(resident).sum();
        Some(pages * rustix::param::page_size() as u64)
    }
}
