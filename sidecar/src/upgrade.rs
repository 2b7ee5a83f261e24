//! One sidecar for a data directory, and its replacement by the program on disk.
//!
//! An upgrade is the same event as a death and a restart: the process replaces itself by `exec`, and what it carried is
//! taken over from the capsules' shims. The process id stays.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use admin_api::{Call, Frame, FrameReader, FrameWriter, Request};
use anyhow::{Context, bail, ensure};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use crate::sidecar::Sidecar;

/// Time that the next sidecar may take to serve.
const SERVES_WITHIN: Duration = Duration::from_secs(30);

/// Time that verbs under way get to come to their end; a verb that is cut off is told as such.
const VERBS_END_WITHIN: Duration = Duration::from_secs(10);

/// Pause between looks whether it does.
const LOOK: Duration = Duration::from_millis(20);

/// Time that other hosts get to hear that the links end.
const FAREWELL: Duration = Duration::from_millis(20);

/// Who serves a data directory, for others to read; locked while it does.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    info: Info,
}

/// What the file of the lock says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Info {
    pid: i32,
    /// Drawn at each start: an upgrade keeps the process id.
    start: String,
    version: String,
    program: PathBuf,
    admin: PathBuf,
    /// Whether verbs are taken.
    serving: bool,
    /// Why the last upgrade did not begin.
    failed: Option<String>,
}

impl Lock {
    /// Takes the data directory.
    ///
    /// # Errors
    /// Another sidecar serves it.
    pub(crate) fn take(data: &Path, admin: &Path) -> anyhow::Result<Self> {
        let path = data.join("lock");
        let mut options = File::options();
        let opened = options.read(true).write(true).create(true).truncate(false).open(&path);
        let file = opened.with_context(|| format!("opening {}", path.display()))?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let other =
                read(data).map_or_else(|_| "another process".into(), |info| format!("process {}", info.pid));
            bail!("{other} serves {} already", data.display());
        }
        let start: [u8; 8] = crate::random::bytes();
        let info = Info {
            pid: i32::try_from(std::process::id())?,
            start: format!("{:016x}", u64::from_be_bytes(start)),
            version: env!("CARGO_PKG_VERSION").into(),
            program: std::env::current_exe()?,
            admin: admin.to_owned(),
            serving: false,
            failed: None,
        };
        let mut lock = Self { file, info };
        lock.write()?;
        Ok(lock)
    }

    /// Verbs are taken from here on.
    ///
    /// # Errors
    /// The file can't be written.
    pub(crate) fn serving(&mut self) -> anyhow::Result<()> {
        self.info.serving = true;
        self.write()
    }

    fn write(&mut self) -> anyhow::Result<()> {
        use std::os::unix::fs::FileExt;
        let text = serde_json::to_vec(&self.info)?;
        self.file.set_len(0)?;
        Ok(self.file.write_all_at(&text, 0)?)
    }

    /// Replaces this process by the program on disk, with the same arguments. Returns only when that failed.
    pub(crate) async fn replace(&mut self, sidecar: &Sidecar) {
        let deadline = Instant::now() + VERBS_END_WITHIN;
        while sidecar.acting.any() && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
        tracing::info!(program = %self.info.program.display(), "the program on disk takes over");
        for link in sidecar.links.all() {
            link.close("the sidecar is upgraded");
        }
        tokio::time::sleep(FAREWELL).await;
        let error = Command::new(&self.info.program).args(std::env::args_os().skip(1)).exec();
        tracing::error!(%error, program = %self.info.program.display(), "the program on disk can't be started");
        self.info.failed = Some(error.to_string());
        if let Err(error) = self.write() {
            tracing::error!(error = format!("{error:#}"), "writing the lock's file");
        }
    }
}

fn read(data: &Path) -> anyhow::Result<Info> {
    let path = data.join("lock");
    let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is being written", path.display()))
}

/// Whether the shims are to be replaced as well, which was asked for once.
pub(crate) fn renew_shims(data: &Path) -> bool {
    std::fs::remove_file(marker(data)).is_ok()
}

fn marker(data: &Path) -> PathBuf {
    data.join("renew-shims")
}

/// Carries out `capsule-sidecar upgrade`: has the sidecar of `data` replace itself by its program on disk, and waits
/// until that serves.
///
/// # Errors
/// Nothing was changed; or the next sidecar does not serve, which is said.
pub(crate) async fn command(data: &Path, shims: bool) -> anyhow::Result<()> {
    let before = read(data).with_context(|| format!("no sidecar has served {}", data.display()))?;
    ensure!(!is_free(data)?, "no sidecar serves {}: start it with capsule-sidecar serve", data.display());
    let pid = Pid::from_raw(before.pid).context("the lock names no process")?;
    try_out(&before)?;
    let leaving = leaving(&before.admin).await?;
    ensure!(
        leaving.is_empty(),
        "not upgraded: {} on the move; try again when that is over (capsule ps shows it)",
        leaving.join(", ")
    );
    if shims {
        File::create(marker(data))?.flush()?;
    }
    rustix::process::kill_process(pid, Signal::USR2).context("telling the sidecar")?;
    let deadline = Instant::now() + SERVES_WITHIN;
    loop {
        tokio::time::sleep(LOOK).await;
        match read(data) {
            Ok(now) if now.start != before.start && now.serving => {
                eprintln!(
                    "upgraded: {} took over from {} as process {}",
                    now.version, before.version, now.pid
                );
                return Ok(());
            }
            Ok(Info { failed: Some(why), start, .. }) if start == before.start => {
                bail!("not upgraded: {} can't be started: {why}", before.program.display())
            }
            _ if Instant::now() > deadline => bail!(
                "the next sidecar does not serve after {} s; its log says why. The capsules run on",
                SERVES_WITHIN.as_secs()
            ),
            _ => {}
        }
    }
}

fn is_free(data: &Path) -> anyhow::Result<bool> {
    let file = File::open(data.join("lock"))?;
    Ok(rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok())
}

/// Has the program on disk read the settings of the one that runs.
fn try_out(running: &Info) -> anyhow::Result<()> {
    let cmdline = std::fs::read(format!("/proc/{}/cmdline", running.pid))?;
    let arguments = cmdline.split(|byte| *byte == 0).skip(1).filter(|word| !word.is_empty());
    let arguments = arguments.map(std::os::unix::ffi::OsStrExt::from_bytes);
    let arguments: Vec<&std::ffi::OsStr> = arguments.collect();
    let mut command = Command::new(&running.program);
    let tried = command.args(arguments).arg("--check-config").output();
    let tried = tried.with_context(|| format!("not upgraded: starting {}", running.program.display()))?;
    ensure!(
        tried.status.success(),
        "not upgraded: {} refuses the settings: {}",
        running.program.display(),
        String::from_utf8_lossy(&tried.stderr).trim()
    );
    Ok(())
}

/// The capsules that leave this host at the moment.
async fn leaving(admin: &Path) -> anyhow::Result<Vec<String>> {
    let stream = tokio::net::UnixStream::connect(admin).await;
    let stream =
        stream.with_context(|| format!("not upgraded: asking the sidecar at {}", admin.display()))?;
    let (reader, writer) = stream.into_split();
    let (mut reader, mut writer) = (FrameReader::new(reader), FrameWriter::new(writer));
    writer.write(&Frame::Call(Call::new(Request::Ps { local: true }))).await?;
    while let Some(frame) = reader.next().await? {
        if let Frame::Result(body) = frame {
            let ps: admin_api::result::PsResult = body.parse()?;
            let moving = ps
                .capsules
                .into_iter()
                .filter(|capsule| capsule.state == admin_api::result::CapsuleState::Moving);
            return Ok(moving.map(|capsule| capsule.name).collect());
        }
    }
    bail!("not upgraded: the sidecar does not answer")
}
