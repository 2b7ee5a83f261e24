//! The seam to shim, OCI runtime and CRIU. Everything here blocks: call it where that is allowed.

mod exec;
mod log;
mod status;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use kernel::netns::Netns;
use runtime::bundle::{self, Placement, ProgramSpec, SharedVolume};
use runtime::cgroup::Cgroup;
use runtime::criu;
use runtime::dir::CapsuleDir;
use runtime::expedite::Expedite;
use runtime::root::{self, Base, Names};
use runtime::runc::{Runc, restore_complaints};
use shim::{Client, Program, Reply, Request};

use super::Capsule;
use super::file::CapsuleFile;
use crate::moving::journal::Processes;
use crate::sidecar::Sidecar;

pub(crate) use exec::exec;
pub(crate) use log::{log_bytes, read_log};
pub(crate) use status::{immovable, impatient, pids, tools};

/// Time that starting a program, or a shim, may take.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Time that a restore may take: a hundred gigabytes at the pace of memory.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(300);

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
    start_shim_in(&engine.programs, engine.dir.path(), &engine.id)?;
    netns_of(capsule)
}

/// Starts a shim that serves in a directory, with a network namespace of its own.
pub(crate) fn start_shim_in(programs: &Path, dir: &Path, id: &str) -> anyhow::Result<()> {
    let program = programs.join("capsule-shim");
    let output = Command::new(&program)
        .arg("--dir")
        .arg(dir)
        .args(["--id", id])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", program.display()))?;
    if !output.status.success() {
        bail!("{} failed: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Has the capsule's shim replace itself by the program on disk, if that is of another version or if `always`. What it
/// holds stays where it is.
pub(crate) fn renew_shim(capsule: &Capsule, always: bool) -> anyhow::Result<()> {
    let Ok(shim) = capsule.engine.shim() else { return Ok(()) };
    if let Some(process) = replace_shim(shim, &capsule.engine.programs, always)? {
        tracing::info!(capsule = %capsule.name(), process, to = shim::VERSION, "its shim is replaced");
    }
    Ok(())
}

/// Has a shim replace itself by the program on disk, if that is of another version or if `always`; its process id if it
/// did.
pub(crate) fn replace_shim(mut shim: Client, programs: &Path, always: bool) -> anyhow::Result<Option<u32>> {
    let Reply::Status { version, shim_pid, .. } = shim.ask(&Request::Status, &[])? else {
        bail!("the shim does not say its version")
    };
    if version == shim::VERSION && !always {
        return Ok(None);
    }
    let program = programs.join("capsule-shim").display().to_string();
    // The connection ends when it is done.
    if let Err(error) = shim.ask(&Request::Replace { program }, &[])
        && !matches!(error, shim::ClientError::Gone)
    {
        return Err(error.into());
    }
    Ok(Some(shim_pid))
}

/// The state of the capsule's processes.
pub(crate) fn processes(capsule: &Capsule) -> Processes {
    let engine = &capsule.engine;
    match engine.program() {
        Some(Program::Running { .. }) if engine.cgroup.is_frozen().unwrap_or(false) => Processes::Frozen,
        Some(Program::Running { .. }) => Processes::Running,
        Some(Program::AtGate) => Processes::AtGate,
        Some(Program::None | Program::Starting) => Processes::Unfinished,
        Some(Program::Exited { code }) => Processes::Exited(code),
        None => Processes::Gone,
    }
}

/// The network namespace of a capsule whose shim serves.
pub(crate) fn netns_of(capsule: &Capsule) -> anyhow::Result<Netns> {
    match capsule.engine.ask(&Request::Status)? {
        Reply::Status { netns_pid, .. } => Ok(Netns::of_process(netns_pid)?),
        other => bail!("the shim said {other:?}"),
    }
}

/// Everything that the shim holds, by name.
pub(crate) fn held(capsule: &Capsule) -> anyhow::Result<HashMap<String, OwnedFd>> {
    Ok(capsule.engine.shim()?.take_sockets()?.into_iter().collect())
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

/// As [`pause`], so that they can be dumped.
pub(crate) fn pause_for_dump(capsule: &Capsule) -> anyhow::Result<()> {
    capsule.engine.cgroup.freeze_for_dump()?;
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
