//! runc: the seam behind which another OCI runtime could stand.
//!
//! The sidecar never is the parent of a capsule's processes, so what brings them to life is only written down here,
//! as a command line for the shim. What does not, is run here.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags};

use crate::dir::CapsuleDir;
use crate::{RuntimeError, criu, memory, shm};

const RUNC: &str = "runc";
/// Nothing else of the sidecar's environment reaches runc, CRIU and their helpers.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Seconds that a dump may take: a terabyte at 1 GB/s, and more than any other command needs.
const DUMP_SECONDS_MAX: u64 = 1_200;
/// Seconds for a command that does next to nothing.
const COMMAND_SECONDS_MAX: u64 = 30;

/// runc with its state directory, which belongs to one sidecar.
#[derive(Debug, Clone)]
pub struct Runc {
    state: PathBuf,
}

/// What is run by `exec` inside a capsule.
#[derive(Debug, Clone, Default)]
pub struct ExecSpec {
    /// The command line.
    pub argv: Vec<String>,
    /// Further `NAME=VALUE`.
    pub env: Vec<String>,
    /// The working directory, if not the capsule's own.
    pub workdir: Option<String>,
    /// The user, as `UID[:GID]`, if not the capsule's own.
    pub user: Option<String>,
    /// Written when it was started: runc's exit code alone does not tell.
    pub pid_file: Option<PathBuf>,
}

impl Runc {
    /// runc with its state in a directory.
    pub fn new(state: &Path) -> Runc {
        Runc { state: state.to_owned() }
    }

    /// The command line that starts a capsule from its bundle. For [`shim::Request::Run`], which adds the time
    /// namespace.
    ///
    /// [`shim::Request::Run`]: ../../shim/enum.Request.html
    pub fn run_argv(&self, id: &str, dir: &CapsuleDir) -> Vec<String> {
        let mut argv = self.start(dir);
        argv.extend(["run".into(), "--detach".into()]);
        argv.extend(born(dir));
        argv.push(id.into());
        argv
    }

    /// The command line that restores a capsule from images.
    pub fn restore_argv(&self, id: &str, dir: &CapsuleDir, images: &Path) -> Vec<String> {
        let mut argv = self.start(dir);
        argv.extend(["restore".into(), "--detach".into()]);
        argv.extend(born(dir));
        argv.extend(captured(images));
        argv.push(id.into());
        argv
    }

    /// The command line that runs something inside a capsule.
    pub fn exec_argv(&self, id: &str, spec: &ExecSpec) -> Vec<String> {
        let mut argv: Vec<String> = vec![RUNC.into(), "--root".into(), text(&self.state), "exec".into()];
        if let Some(pid_file) = &spec.pid_file {
            argv.extend(["--pid-file".into(), text(pid_file)]);
        }
        if let Some(user) = &spec.user {
            argv.extend(["--user".into(), user.clone()]);
        }
        if let Some(workdir) = &spec.workdir {
            argv.extend(["--cwd".into(), workdir.clone()]);
        }
        for variable in &spec.env {
            argv.extend(["--env".into(), variable.clone()]);
        }
        argv.push(id.into());
        argv.extend(spec.argv.iter().cloned());
        argv
    }

    /// Captures a frozen capsule into images, which it survives; it stays frozen.
    ///
    /// # Errors
    /// It can't be captured; the message has CRIU's reason.
    pub fn checkpoint(&self, id: &str, dir: &CapsuleDir, images: &Path) -> Result<(), RuntimeError> {
        let mut argv = self.start(dir);
        argv.extend(["checkpoint".into(), "--leave-running".into()]);
        argv.extend(captured(images));
        argv.push(id.into());
        run("checkpoint", &argv, DUMP_SECONDS_MAX).map_err(|error| with_reason(error, images, "dump.log"))?;
        shm::save(&dir.shm(), images)
    }

    /// Removes what runc knows of a capsule and ends what is left of it; no capsule is no failure.
    ///
    /// # Errors
    /// runc fails, and its state can't be removed by hand either.
    pub fn delete(&self, id: &str) -> Result<(), RuntimeError> {
        let state = self.state.join(id);
        if !state.exists() {
            return Ok(());
        }
        // A restore that was killed leaves the capsule's root mounted there, which is not to be emptied through it.
        memory::unmount(&state.join("criu-root"))?;
        let argv: Vec<String> =
            [RUNC, "--root", &text(&self.state), "delete", "--force", id].map(str::to_owned).into();
        let deleted = run("delete", &argv, COMMAND_SECONDS_MAX);
        if deleted.is_err() && state.exists() {
            // A state that runc can't read, it can't delete either.
            std::fs::remove_dir_all(&state).map_err(|error| RuntimeError::io("remove", &state, error))?;
        }
        Ok(())
    }

    fn start(&self, dir: &CapsuleDir) -> Vec<String> {
        [RUNC, "--root", &text(&self.state), "--log", &text(&dir.runc_log())].map(str::to_owned).into()
    }
}

/// The shim's answer to a restore that failed says little: CRIU's log among the images says why.
pub fn restore_complaints(images: &Path) -> String {
    criu::complaints(images, "restore.log")
}

fn born(dir: &CapsuleDir) -> [String; 4] {
    ["--bundle".into(), text(&dir.bundle()), "--pid-file".into(), text(&dir.program_pid())]
}

fn captured(images: &Path) -> Vec<String> {
    let images = text(images);
    ["--image-path", &images, "--work-path", &images, "--tcp-established", "--file-locks"]
        .map(str::to_owned)
        .into()
}

fn with_reason(error: RuntimeError, images: &Path, log: &str) -> RuntimeError {
    let reason = criu::complaints(images, log);
    match error {
        RuntimeError::Runc { verb, .. } if !reason.is_empty() => RuntimeError::Runc { verb, tail: reason },
        other => other,
    }
}

/// Runs a command of runc to its end, or ends it when it takes too long.
fn run(verb: &'static str, argv: &[String], seconds_max: u64) -> Result<(), RuntimeError> {
    let failed = |error: std::io::Error| RuntimeError::io("run", RUNC, error);
    let said = File::from(
        rustix::fs::memfd_create("runc", rustix::fs::MemfdFlags::CLOEXEC).map_err(|e| failed(e.into()))?,
    );
    let mut child = Command::new(RUNC)
        .args(argv.get(1..).unwrap_or_default())
        .env_clear()
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said.try_clone().map_err(failed)?)
        .spawn()
        .map_err(failed)?;
    if !ends_in_time(&child, seconds_max).map_err(failed)? {
        let _ = child.kill();
        let _ = child.wait();
        return Err(RuntimeError::TimedOut { verb, seconds: seconds_max });
    }
    if child.wait().map_err(failed)?.success() {
        return Ok(());
    }
    Err(RuntimeError::Runc { verb, tail: tail(&said) })
}

fn ends_in_time(child: &Child, seconds_max: u64) -> std::io::Result<bool> {
    let pid = Pid::from_raw(child.id().cast_signed()).ok_or(std::io::ErrorKind::NotFound)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let timeout = Timespec::try_from(Duration::from_secs(seconds_max)).map_err(std::io::Error::other)?;
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    Ok(rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timeout)))? > 0)
}

fn tail(said: &File) -> String {
    const BYTES_MAX: u64 = 4096;
    use std::os::unix::fs::FileExt;
    let length = said.metadata().map_or(0, |metadata| metadata.len());
    let mut bytes = vec![0; usize::try_from(length.min(BYTES_MAX)).unwrap_or_default()];
    let _ = said.read_exact_at(&mut bytes, length.saturating_sub(BYTES_MAX));
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// Paths were checked to be plain when the capsule's directory was taken.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
