//! What CRIU is told, and what it has to say.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::RuntimeError;
use crate::dir::CapsuleDir;

/// The annotation by which runc finds the file of CRIU options.
pub const ANNOTATION: &str = "org.criu.config";
/// Bytes of an unlinked file that an image may hold; CRIU's default of 1 MiB is less than databases use.
const GHOST_BYTES_MAX: u64 = 8 << 30;
/// Where the controllers of cgroup v1 are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Lines of a log that are shown to a person.
const COMPLAINTS_MAX: usize = 8;
/// Where CRIU keeps what it found out about the kernel, if `/run` is in memory.
const KERNEL_CACHE: &str = "/run/criu.kdat";

/// Writes the options for a dump, or for a restore with or without the gate.
///
/// - `network-lock skip`: the network is locked by us, and CRIU's own lock costs over 100 ms.
/// - `skip-in-flight`: connections not accepted yet are dialled again.
/// - `cgroup-yard`: with it CRIU walks the hierarchies that are mounted instead of mounting each again (12 ms).
///
/// # Errors
/// The file can't be written.
pub fn write_options(dir: &CapsuleDir, gate: bool) -> Result<(), RuntimeError> {
    let mut options = String::from("tcp-established\nskip-in-flight\nfile-locks\nnetwork-lock skip\n");
    options += &format!("ghost-limit {GHOST_BYTES_MAX}\n");
    if controllers_are_mounted() {
        options += &format!("cgroup-yard {CGROUPS}\n");
    }
    if gate {
        options += &format!("action-script {}\n", dir.gate_script().display());
    }
    let path = dir.criu_options();
    std::fs::write(&path, options).map_err(|error| RuntimeError::io("write", &path, error))
}

/// The errors in the log of a dump or a restore, shortest useful form.
pub fn complaints(images: &Path, log: &str) -> String {
    let text = std::fs::read(images.join(log)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let errors: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("Error"))
        .filter_map(|line| line.split_once(") "))
        .map(|(_, said)| said.trim())
        .collect();
    let first = errors.len().saturating_sub(COMPLAINTS_MAX);
    errors.get(first..).unwrap_or_default().join("; ")
}

/// Lets CRIU look at this kernel once, so that it need not at each of the four starts of a move: 25 ms of its pause.
///
/// CRIU keeps what it finds below `/run`, but only if that is a tmpfs, lest it outlive the kernel. Where it is none
/// the cache is made in a private mount namespace and put there by us. So call this at every start of the sidecar.
///
/// # Errors
/// CRIU is not there, or does not like this kernel.
pub fn look_at_kernel() -> Result<(), RuntimeError> {
    const LOOK: &str = "mount -t tmpfs tmpfs /run && criu check >/dev/null 2>&1 && cat /run/criu.kdat";
    let failed = |error: std::io::Error| RuntimeError::io("make", KERNEL_CACHE, error);
    let run = rustix::fs::statfs("/run").map_err(|error| failed(error.into()))?;
    if run.f_type == libc::TMPFS_MAGIC {
        let looked = Command::new("criu").arg("check").stdin(Stdio::null()).output().map_err(failed)?;
        let said = String::from_utf8_lossy(&looked.stderr).trim().to_owned();
        return if looked.status.success() { Ok(()) } else { Err(failed(std::io::Error::other(said))) };
    }
    let output = Command::new("unshare").args(["--mount", "sh", "-c", LOOK]).stdin(Stdio::null()).output();
    let output = output.map_err(failed)?;
    if !output.status.success() || output.stdout.is_empty() {
        return Err(failed(std::io::Error::other("criu check does not pass")));
    }
    let new = format!("{KERNEL_CACHE}.{}", std::process::id());
    std::fs::write(&new, &output.stdout).and_then(|()| std::fs::rename(&new, KERNEL_CACHE)).map_err(failed)
}

/// Whether every hierarchy that processes have is found below the mount point by its name.
fn controllers_are_mounted() -> bool {
    let Ok(own) = std::fs::read_to_string("/proc/self/cgroup") else { return false };
    own.lines().filter_map(|line| line.split(':').nth(1)).all(|name| {
        let folder = match name {
            "" => "unified",
            name => name.strip_prefix("name=").unwrap_or(name),
        };
        Path::new(CGROUPS).join(folder).join("cgroup.procs").exists()
    })
}
