//! The seam to shim, OCI runtime and CRIU. Everything here blocks: call it where that is allowed.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use admin_api::request::Exec;
use anyhow::{Context, bail};
use bytes::Bytes;
use kernel::netns::Netns;
use runtime::bundle::{self, Placement, ProgramSpec, SharedVolume};
use runtime::cgroup::Cgroup;
use runtime::criu;
use runtime::dir::CapsuleDir;
use runtime::expedite::Expedite;
use runtime::root::{self, Base, Names};
use runtime::runc::{ExecSpec, Runc, restore_complaints};
use shim::{Client, Program, Reply, Request};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::Capsule;
use super::file::CapsuleFile;
use crate::sidecar::Sidecar;

/// Time that starting a program, or a shim, may take.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Time that a restore may take: a hundred gigabytes at the pace of memory.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(300);

/// Pieces of input that may wait for a program that does not read; more stays with the client.
const EXEC_INPUT_CHUNKS: usize = 256;

/// What is needed to run one capsule.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    id: String,
    dir: CapsuleDir,
    runc: Runc,
    cgroup: Cgroup,
    /// Directories of this host that no capsule may see.
    masks: Vec<PathBuf>,
    /// Where this sidecar's program and the shim's lie.
    programs: PathBuf,
    zone: String,
}

impl Engine {
    pub(super) fn new(sidecar: &Sidecar, directory: &Path, file: &CapsuleFile) -> anyhow::Result<Self> {
        let id = file.id.to_string();
        let mut masks = sidecar.config.masks.clone();
        masks.push(sidecar.data.clone());
        masks.extend(
            sidecar.config.admin.parent().filter(|parent| *parent != Path::new("/")).map(Path::to_owned),
        );
        let dir = CapsuleDir::new(directory)?;
        dir.create()?;
        Ok(Self {
            cgroup: Cgroup::new(&sidecar.label(), &id),
            runc: Runc::new(&sidecar.data.join("runc")),
            dir,
            masks,
            programs: sidecar.programs.clone(),
            zone: sidecar.zone.clone(),
            id,
        })
    }

    /// The shim, if it serves.
    fn shim(&self) -> anyhow::Result<Client> {
        Client::connect(&shim::place::socket(self.dir.path())).context("the capsule's shim does not answer")
    }

    fn ask(&self, request: &Request) -> anyhow::Result<Reply> {
        Ok(self.shim()?.ask(request, &[])?)
    }

    fn program(&self) -> Option<Program> {
        match self.ask(&Request::Status) {
            Ok(Reply::Status { program, .. }) => Some(program),
            _ => None,
        }
    }
}

/// Removes what a sidecar that ended left of a capsule that now comes back.
pub(crate) fn clear(sidecar: &Sidecar, directory: &Path, file: &CapsuleFile) -> anyhow::Result<()> {
    let engine = Engine::new(sidecar, directory, file)?;
    for error in engine.teardown() {
        tracing::warn!(capsule = %file.name, error = format!("{error:#}"), "teardown of an old copy");
    }
    Ok(runtime::teardown::remove_files(&engine.dir)?)
}

/// Starts the capsule's shim; its network namespace is the capsule's.
pub(crate) fn start_shim(capsule: &Capsule) -> anyhow::Result<Netns> {
    let engine = &capsule.engine;
    let program = engine.programs.join("capsule-shim");
    let output = Command::new(&program)
        .arg("--dir")
        .arg(engine.dir.path())
        .args(["--id", &engine.id])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", program.display()))?;
    if !output.status.success() {
        bail!("{} failed: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    match engine.ask(&Request::Status)? {
        Reply::Status { netns_pid, .. } => Ok(Netns::of_process(netns_pid)?),
        other => bail!("the shim said {other:?}"),
    }
}

/// What an earlier sidecar left of a capsule.
pub(crate) enum Found {
    /// Its program runs, or stands still in the middle of a move.
    Running { frozen: bool },
    /// Its program ended.
    Stopped(Option<i32>),
    /// It never ran here.
    HalfRestored,
}

/// Looks at what is there of a capsule.
pub(crate) fn find(capsule: &Capsule) -> Found {
    let engine = &capsule.engine;
    match engine.program() {
        Some(Program::Running { .. }) => {
            Found::Running { frozen: engine.cgroup.is_frozen().unwrap_or(false) }
        }
        Some(Program::Exited { code }) => Found::Stopped(Some(code)),
        Some(Program::None | Program::Starting | Program::AtGate) => Found::HalfRestored,
        None => Found::Stopped(None),
    }
}

/// The network namespace of a capsule that runs; the sockets that the shim kept of its sessions are reset.
pub(crate) fn netns_of(capsule: &Capsule) -> anyhow::Result<Netns> {
    let engine = &capsule.engine;
    let Reply::Status { netns_pid, .. } = engine.ask(&Request::Status)? else {
        bail!("the shim does not say its pid")
    };
    let netns = Netns::of_process(netns_pid)?;
    kernel::netns::Worker::start(&netns)?.run(kernel::rules::unlock)?;
    for (session, socket) in engine.shim()?.take_sockets()? {
        let _ = kernel::repair::resume(&socket);
        if let Err(error) = kernel::tcp::reset(&socket) {
            tracing::debug!(%session, %error, "reset of a session's socket");
        }
        engine.ask(&Request::Release { session })?;
    }
    Ok(netns)
}

/// Where the shim answers.
pub(crate) fn shim_socket(capsule: &Capsule) -> PathBuf {
    shim::place::socket(capsule.engine.dir.path())
}

/// Mounts the capsule's root over its private layer, and its shared memory.
pub(crate) fn mount(capsule: &Capsule, base: &Path) -> anyhow::Result<()> {
    let (engine, base) = (&capsule.engine, below(capsule, base));
    root::mask(&engine.dir, &base, &engine.masks)?;
    Ok(root::mount(&engine.dir, &base)?)
}

/// Fills the private layer of a new capsule: names, masks, volumes. Before the root is mounted.
pub(crate) fn furnish(capsule: &Capsule, base: &Path) -> anyhow::Result<()> {
    let engine = &capsule.engine;
    let (file, base) = (capsule.file(), below(capsule, base));
    let names = Names {
        name: file.name.to_string(),
        zone: engine.zone.clone(),
        v4: file.locators.v4,
        v6: file.locators.v6,
    };
    root::prepare(&engine.dir, &base, &engine.masks, &names)?;
    for volume in file.run.volumes.iter().filter(|volume| !volume.shared) {
        let (source, destination) = (Path::new(&volume.source), Path::new(&volume.destination));
        runtime::files::volume::copy_into(source, base.path(), &engine.dir.upper(), destination)?;
    }
    Ok(())
}

/// The layer below a capsule's private files.
fn below(capsule: &Capsule, base: &Path) -> Base {
    match capsule.file().run.rootfs {
        Some(rootfs) => Base::Rootfs(rootfs.into()),
        None => Base::Host(base.to_owned()),
    }
}

fn write_bundle(capsule: &Capsule, gate: bool) -> anyhow::Result<()> {
    let engine = &capsule.engine;
    let run = capsule.file().run;
    let shared = run.volumes.iter().filter(|volume| volume.shared);
    let program = ProgramSpec {
        argv: run.argv.clone(),
        env: run.env.iter().map(|variable| format!("{}={}", variable.name, variable.value)).collect(),
        workdir: run.workdir.clone(),
        user: run.user.clone(),
        hostname: capsule.name().to_string(),
        shared: shared
            .map(|volume| SharedVolume {
                source: PathBuf::from(&volume.source),
                destination: PathBuf::from(&volume.destination),
            })
            .collect(),
        sysfs: false,
    };
    let Reply::Status { netns_pid, .. } = engine.ask(&Request::Status)? else {
        bail!("the shim does not say its pid")
    };
    bundle::write(&program, &Placement { dir: &engine.dir, netns_pid, cgroup: &engine.cgroup })?;
    criu::write_options(&engine.dir, gate)?;
    Ok(())
}

/// Starts the capsule's program.
pub(crate) fn run(capsule: &Capsule) -> anyhow::Result<()> {
    let engine = &capsule.engine;
    write_bundle(capsule, false)?;
    let mut shim = engine.shim()?;
    shim.set_timeout(Some(START_TIMEOUT))?;
    let argv = engine.runc.run_argv(&engine.id, &engine.dir);
    shim.ask(&Request::Run { argv }, &[])?;
    Ok(())
}

/// Freezes all processes; their output so far is in the log afterwards.
pub(crate) fn pause(capsule: &Capsule) -> anyhow::Result<()> {
    capsule.engine.cgroup.freeze()?;
    capsule.engine.ask(&Request::DrainPipes)?;
    Ok(())
}

/// Lets frozen processes go on.
pub(crate) fn resume(capsule: &Capsule) -> anyhow::Result<()> {
    Ok(capsule.engine.cgroup.thaw()?)
}

/// Makes the directory in memory that images lie in.
pub(crate) fn mount_images(capsule: &Capsule) -> anyhow::Result<PathBuf> {
    let images = capsule.engine.dir.images();
    runtime::memory::mount(&images, 0o700)?;
    Ok(images)
}

/// Writes the image of the frozen processes, which stay frozen.
pub(crate) fn dump(capsule: &Capsule) -> anyhow::Result<()> {
    let engine = &capsule.engine;
    let _expedite = Expedite::begin();
    criu::write_options(&engine.dir, false)?;
    Ok(engine.runc.checkpoint(&engine.id, &engine.dir, &engine.dir.images())?)
}

/// Everything of a restore that needs no image.
pub(crate) fn prepare_restore(capsule: &Capsule) -> anyhow::Result<()> {
    let dir = &capsule.engine.dir;
    let shim_program = capsule.engine.programs.join("capsule-shim");
    std::fs::write(dir.gate_script(), shim::gate::script(&shim_program, dir.path()))?;
    std::fs::set_permissions(dir.gate_script(), std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(())
}

/// Restores the processes up to the gate, where they make no step.
pub(crate) fn restore(capsule: &Capsule) -> anyhow::Result<()> {
    let engine = &capsule.engine;
    let images = engine.dir.images();
    let _expedite = Expedite::begin();
    runtime::shm::load(&images, &engine.dir.shm())?;
    write_bundle(capsule, true)?;
    let argv = engine.runc.restore_argv(&engine.id, &engine.dir, &images);
    let mut shim = engine.shim()?;
    shim.set_timeout(Some(RESTORE_TIMEOUT))?;
    match shim.ask(&Request::Restore { argv, gate: true }, &[]).map_err(anyhow::Error::from) {
        Ok(Reply::AtGate) => Ok(()),
        Ok(other) => bail!("the shim said {other:?}"),
        Err(error) => {
            let complaints = restore_complaints(&images);
            Err(error.context(if complaints.is_empty() {
                "restoring".to_owned()
            } else {
                format!("CRIU: {complaints}")
            }))
        }
    }
}

/// Lets the restored processes run.
pub(crate) fn open_gate(capsule: &Capsule) -> anyhow::Result<()> {
    let _expedite = Expedite::begin();
    capsule.engine.ask(&Request::OpenGate)?;
    Ok(())
}

/// Sends a signal to the capsule's program.
pub(crate) fn signal(capsule: &Capsule, signal: i32) -> anyhow::Result<()> {
    capsule.engine.ask(&Request::Signal { signal, exec: None })?;
    Ok(())
}

/// Waits for the program's end; `None` if the shim went away first.
pub(crate) fn wait_exit(capsule: &Capsule) -> Option<i32> {
    capsule.engine.shim().ok()?.watch_exit().ok()
}

/// Ends everything of the capsule here but its files. Goes on past failures and returns them.
pub(crate) fn teardown(capsule: &Capsule) -> Vec<anyhow::Error> {
    capsule.engine.teardown()
}

/// Removes the capsule's files, after [`teardown`].
pub(crate) fn remove_files(capsule: &Capsule) -> anyhow::Result<()> {
    Ok(runtime::teardown::remove_files(&capsule.engine.dir)?)
}

impl Engine {
    fn teardown(&self) -> Vec<anyhow::Error> {
        let mut failures = Vec::new();
        if let Some(Program::AtGate) = self.program() {
            failures.extend(self.ask(&Request::AbortGate).err());
        }
        let torn = runtime::teardown::teardown(&self.id, &self.dir, &self.runc, &self.cgroup);
        failures.extend(torn.into_iter().map(anyhow::Error::from));
        if let Ok(mut shim) = self.shim() {
            failures.extend(shim.ask(&Request::SilenceAll, &[]).err().map(anyhow::Error::from));
            failures.extend(shim.ask(&Request::Quit, &[]).err().map(anyhow::Error::from));
        }
        failures
    }
}

/// Output in the log so far, in bytes.
pub(crate) fn log_bytes(capsule: &Capsule) -> u64 {
    read_log(capsule, u64::MAX).map_or(0, |(_, end)| end)
}

/// One piece of output: whether it is standard error, and the bytes.
pub(crate) type Chunk = (bool, Vec<u8>);

/// The output after a position (bytes of output since the log began), and the position after that.
pub(crate) fn read_log(capsule: &Capsule, position: u64) -> anyhow::Result<(Vec<Chunk>, u64)> {
    let mut reader = shim::log::Reader::open(capsule.engine.dir.path())?;
    let (mut at, mut bytes, mut chunks) = (0_u64, 0, Vec::new());
    while bytes < admin_api::limits::GROUP_BYTES_MAX / 2 {
        let Some(mut chunk) = reader.next_chunk()? else { break };
        let end = at + chunk.bytes.len() as u64;
        if end > position {
            let skip = usize::try_from(position.saturating_sub(at)).unwrap_or(usize::MAX);
            let rest = chunk.bytes.split_off(skip);
            bytes += rest.len();
            chunks.push((chunk.stream == shim::log::Stream::Err, rest));
        }
        at = end;
    }
    Ok((chunks, at))
}

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
        }
    }
    found.dedup();
    found
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

/// A program run by `exec`.
pub(crate) struct Running {
    pub stdout: pipe::Receiver,
    pub stderr: pipe::Receiver,
    pub exit: oneshot::Receiver<Option<i32>>,
    input: Option<tokio::sync::mpsc::Sender<Bytes>>,
    engine: Engine,
    exec: u64,
}

impl Running {
    /// Ends when the program's input has room for one more piece.
    pub(crate) fn room(&self) -> impl Future<Output = ()> + Send + use<> {
        let input = self.input.clone();
        async move {
            if let Some(input) = input {
                let _ = input.reserve().await;
            }
        }
    }

    /// Gives the program input, for which there is [room](Self::room).
    pub(crate) fn feed(&mut self, bytes: Bytes) {
        if let Some(input) = &self.input
            && input.try_send(bytes).is_err()
        {
            tracing::debug!("a program no longer reads its input");
        }
    }

    /// Ends the program's input.
    pub(crate) fn end_input(&mut self) {
        self.input = None;
    }

    /// Sends the program a signal.
    pub(crate) fn signal(&self, signal: i32) {
        let (engine, exec) = (self.engine.clone(), self.exec);
        std::thread::spawn(move || {
            if let Err(error) = engine.ask(&Request::Signal { signal, exec: Some(exec) }) {
                tracing::debug!(error = format!("{error:#}"), "a signal to an exec");
            }
        });
    }
}

/// Starts a program inside the running capsule. Must be called inside a runtime.
pub(crate) fn exec(capsule: &Capsule, exec: &Exec) -> anyhow::Result<Running> {
    let engine = capsule.engine.clone();
    let spec = ExecSpec {
        argv: exec.argv.clone(),
        env: exec.env.iter().map(|variable| format!("{}={}", variable.name, variable.value)).collect(),
        workdir: exec.workdir.clone(),
        user: exec.user.as_deref().map(|user| numeric_user(&engine, user)).transpose()?,
    };
    let argv = engine.runc.exec_argv(&engine.id, &spec);
    let (stdin, to_stdin) = std::io::pipe()?;
    let (from_stdout, stdout) = std::io::pipe()?;
    let (from_stderr, stderr) = std::io::pipe()?;
    let id = u64::from_be_bytes(crate::random::bytes());
    let mut shim = engine.shim()?;
    let (ended, exit) = oneshot::channel();
    std::thread::Builder::new().name("exec".into()).spawn(move || {
        let answer = shim.ask(&Request::Exec { id, argv }, &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]);
        drop((stdin, stdout, stderr));
        let _ = ended.send(match answer {
            Ok(Reply::Exited { code }) => Some(code),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(error = format!("{:#}", anyhow::Error::from(error)), "exec");
                None
            }
        });
    })?;
    let (input, mut inputs) = tokio::sync::mpsc::channel::<Bytes>(EXEC_INPUT_CHUNKS);
    std::thread::Builder::new().name("exec input".into()).spawn(move || {
        let mut to_stdin = to_stdin;
        while let Some(bytes) = inputs.blocking_recv() {
            if to_stdin.write_all(&bytes).is_err() {
                return;
            }
        }
    })?;
    let receiver = |pipe: std::io::PipeReader| pipe::Receiver::from_owned_fd(OwnedFd::from(pipe));
    Ok(Running {
        stdout: receiver(from_stdout)?,
        stderr: receiver(from_stderr)?,
        exit,
        input: Some(input),
        engine,
        exec: id,
    })
}

/// runc takes numbers only.
fn numeric_user(engine: &Engine, user: &str) -> anyhow::Result<String> {
    let user = runtime::user::User::resolve(&engine.dir.root(), user)?;
    Ok(format!("{}:{}", user.uid, user.gid))
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
