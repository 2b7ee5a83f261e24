//! The OCI bundle of a capsule: what is fixed for all, and what differs.
//!
//! Mounts are few on purpose: each costs time at every move, and CRIU packs the content of each tmpfs with tar. So
//! devices are nodes on the root itself, `/dev/shm` is a mount of ours (see [`crate::shm`]), and there is no `/sys`
//! unless it is asked for. Seccomp filters are left out (each is captured per thread); what keeps a capsule in are
//! its namespaces, the device rules, the short list of capabilities, and a `/proc` whose settings can't be written.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cgroup::Cgroup;
use crate::dir::CapsuleDir;
use crate::user::User;
use crate::{RuntimeError, criu};

/// What Docker gives a container, too: enough for servers that start as root and change their user.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];
/// The kernel's secrets; each is covered by the capsule's own `/dev/null`. Only files: a directory would be covered
/// by a tmpfs.
const MASKED: [&str; 5] =
    ["/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug"];
/// The kernel's settings.
const READ_ONLY: [&str; 8] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/scsi",
    "/proc/sys",
    "/proc/sysrq-trigger",
];
/// Open files that a program may have at the start; old programs that use select(2) break with more than 1024.
const FILES_SOFT: u64 = 1024;
/// Open files that a program may raise that to, if the host allows as many.
const FILES_HARD: u64 = 1 << 20;
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a capsule runs: the part of its bundle that is the same on every host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramSpec {
    /// The command line.
    pub argv: Vec<String>,
    /// `NAME=VALUE`, beside and before what every capsule gets.
    pub env: Vec<String>,
    /// The working directory; the user's home, or `/`, if none is given.
    pub workdir: Option<String>,
    /// `USER[:GROUP]`, names or numbers; root if none is given.
    pub user: Option<String>,
    /// The host name inside: the capsule's name.
    pub hostname: String,
    /// Directories that are the same on all hosts and do not move.
    pub shared: Vec<SharedVolume>,
    /// Whether `/sys` is there, read-only. Costs some milliseconds at each move.
    pub sysfs: bool,
}

/// A directory of the host inside a capsule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedVolume {
    /// On the host.
    pub source: PathBuf,
    /// In the capsule.
    pub destination: PathBuf,
}

/// Where a capsule is: the part of its bundle that differs from host to host.
#[derive(Debug, Clone)]
pub struct Placement<'a> {
    /// Its directory, with the root mounted.
    pub dir: &'a CapsuleDir,
    /// A process in its network namespace.
    pub netns_pid: u32,
    /// Its cgroup.
    pub cgroup: &'a Cgroup,
}

/// Writes the bundle's `config.json`.
///
/// # Errors
/// The user is not known in the root, or the file can't be written.
pub fn write(program: &ProgramSpec, placement: &Placement<'_>) -> Result<(), RuntimeError> {
    let user = match &program.user {
        Some(user) => User::resolve(&placement.dir.root(), user)?,
        None => User::resolve(&placement.dir.root(), "0").unwrap_or_else(|_| User::root()),
    };
    let config = config(program, placement, &user);
    let path = placement.dir.bundle().join("config.json");
    let text = serde_json::to_vec_pretty(&config).unwrap_or_default();
    std::fs::write(&path, text).map_err(|error| RuntimeError::io("write", &path, error))
}

fn config(program: &ProgramSpec, placement: &Placement<'_>, user: &User) -> Value {
    let capabilities = json!(CAPABILITIES);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.groups },
            "args": program.argv,
            "env": environment(program, user),
            "cwd": workdir(program, &placement.dir.root(), user),
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "rlimits": [files_limit()],
            "noNewPrivileges": false,
            "oomScoreAdj": 0,
        },
        "root": { "path": placement.dir.root(), "readonly": false },
        "hostname": program.hostname,
        "mounts": mounts(program, &placement.dir.shm()),
        "annotations": { criu::ANNOTATION: placement.dir.criu_options() },
        "linux": {
            "cgroupsPath": placement.cgroup.path(),
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" },
                { "type": "mount" },
                { "type": "ipc" },
                { "type": "uts" },
                { "type": "cgroup" },
                { "type": "network", "path": format!("/proc/{}/ns/net", placement.netns_pid) },
            ],
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    })
}

fn mounts(program: &ProgramSpec, shm: &Path) -> Vec<Value> {
    let mut mounts = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] }),
        json!({
            "destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        }),
        json!({ "destination": "/dev/shm", "type": "bind", "source": shm, "options": ["bind", "nosuid", "nodev"] }),
    ];
    if program.sysfs {
        mounts.push(json!({
            "destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"],
        }));
    }
    for volume in &program.shared {
        mounts.push(json!({
            "destination": volume.destination, "type": "bind", "source": volume.source,
            "options": ["bind", "nosuid", "nodev"],
        }));
    }
    mounts
}

/// What the program's specification says wins.
fn environment(program: &ProgramSpec, user: &User) -> Vec<String> {
    let defaults = [PATH.to_owned(), format!("HOME={}", user.home), format!("HOSTNAME={}", program.hostname)];
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let given = |variable: &String| program.env.iter().any(|other| name(other) == name(variable));
    defaults.into_iter().filter(|variable| !given(variable)).chain(program.env.iter().cloned()).collect()
}

fn workdir(program: &ProgramSpec, root: &Path, user: &User) -> String {
    if let Some(workdir) = &program.workdir {
        return workdir.clone();
    }
    let there = user.home.starts_with('/') && root.join(user.home.trim_start_matches('/')).is_dir();
    if there { user.home.clone() } else { "/".into() }
}

/// A limit above the sidecar's own would need a capability that not every machine gives.
fn files_limit() -> Value {
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(FILES_HARD);
    let hard = own.min(FILES_HARD);
    json!({ "type": "RLIMIT_NOFILE", "soft": FILES_SOFT.min(hard), "hard": hard })
}

/// Which of a bundle's paths another host must have for a restore there: the covered parts of `/proc`.
pub fn covered_paths() -> impl Iterator<Item = &'static Path> {
    MASKED.iter().chain(&READ_ONLY).map(Path::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_variable_replaces_the_default() {
        let program = ProgramSpec {
            argv: vec!["true".into()],
            env: vec!["HOME=/srv".into(), "A=b=c".into()],
            workdir: None,
            user: None,
            hostname: "box".into(),
            shared: Vec::new(),
            sysfs: false,
        };
        let all = environment(&program, &User::root());
        assert_eq!(all, [PATH, "HOSTNAME=box", "HOME=/srv", "A=b=c"]);
    }
}
