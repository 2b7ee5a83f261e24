//! The host that a capsule is suspended on.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use admin_api::result::{CheckView, Level, MoveBytes, SuspendResult};
use admin_api::{ErrorView, Frame, Progress};
use anyhow::{Context, bail};
use bytes::Bytes;
use capsule_file::Manifest;
use directory_api::{CapsuleRecord, ClientError};
use overlay_proto::{ClaimKey, Generation, HostName, OfferId};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::pipe;
use super::sections::{self, Parts};
use crate::admin::{Input, Output};
use crate::assertion::Decided;
use crate::capsule::network::Network;
use crate::capsule::{Capsule, Stage};
use crate::moving::conversation::{Needs, Prepare};
use crate::moving::journal::{Decision, Entry, Journal, Processes};
use crate::moving::phases::{Clock, Phase, tell};
use crate::moving::standstill::Standstill;
use crate::moving::verdict::settle;
use crate::moving::{examine, superseded};
use crate::sidecar::Sidecar;

/// Carries out `capsule suspend`: sends the file, and commits when the client has stored it.
///
/// # Errors
/// The capsule was not suspended, and runs on here; the client has no use for what it was sent.
pub async fn command(
    sidecar: &Arc<Sidecar>,
    capsule: &Arc<Capsule>,
    input: &mut Input,
    output: &mut Output,
) -> Result<SuspendResult, ErrorView> {
    let name = capsule.name();
    let Ok(_busy) = capsule.busy().try_lock_owned() else {
        return Err(ErrorView::new(
            "capsule/busy",
            format!("{name} is being moved, suspended, started or stopped already"),
        )
        .next("wait for that to end; capsule ps shows it"));
    };
    let stopped = || {
        ErrorView::new("suspend/not-running", format!("{name} does not run, so it can't be suspended"))
            .next(format!("capsule start {name}"))
    };
    if capsule.stage() != Stage::Running {
        return Err(stopped());
    }
    let network = sidecar.networks.of(&capsule.id()).ok_or_else(stopped)?;
    let (client, heard) = Client::new();
    let saving = Saving::new(sidecar, capsule, network, client);
    tokio::select! {
        biased;
        result = saving.run(output) => result,
        () = heard.listen(input) => unreachable!("listening never ends"),
    }
}

/// What the client said.
#[derive(Clone)]
struct Client {
    /// It wants the suspend undone, or is gone without having stored the file.
    cancel: CancellationToken,
    stored: watch::Receiver<bool>,
}

/// Hears what the client says.
struct Heard {
    cancel: CancellationToken,
    stored: watch::Sender<bool>,
}

impl Client {
    fn new() -> (Self, Heard) {
        let cancel = CancellationToken::new();
        let (sender, stored) = watch::channel(false);
        (Self { cancel: cancel.clone(), stored }, Heard { cancel, stored: sender })
    }
}

impl Heard {
    async fn listen(self, input: &mut Input) {
        loop {
            match input.next().await {
                Ok(Some(Frame::Cancel)) => self.cancel.cancel(),
                Ok(Some(Frame::FileEnd)) => drop(self.stored.send_replace(true)),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    // A file that is stored is good without its client.
                    if !*self.stored.borrow() {
                        self.cancel.cancel();
                    }
                    std::future::pending().await
                }
            }
        }
    }
}

/// One suspend.
struct Saving {
    sidecar: Arc<Sidecar>,
    capsule: Arc<Capsule>,
    network: Arc<Network>,
    client: Client,
    still: Standstill,
    clock: Clock,
    suspension: OfferId,
    key: ClaimKey,
    /// At which the directory is asked.
    generation: Generation,
    sessions: Vec<u8>,
    sessions_count: u64,
    peers: Vec<HostName>,
    bytes: MoveBytes,
    file_bytes: u64,
    /// It is in the journal that the directory may be asked.
    asked: bool,
}

/// What is done in which order, up to the commit.
const PHASES: [Phase; 10] = [
    Phase::Preflight,
    Phase::Quiesce,
    Phase::Hold,
    Phase::Pause,
    Phase::Settle,
    Phase::Lock,
    Phase::Snapshot,
    Phase::Dump,
    Phase::Write,
    Phase::Commit,
];

/// The checks failed.
#[derive(Debug, thiserror::Error)]
#[error("it can't be captured")]
struct Refused(Vec<CheckView>);

/// The person took it back, or the client went away.
#[derive(Debug, thiserror::Error)]
#[error("cancelled")]
struct Undone;

impl Saving {
    fn new(sidecar: &Arc<Sidecar>, capsule: &Arc<Capsule>, network: Arc<Network>, client: Client) -> Self {
        Self {
            still: Standstill::new(sidecar.clone(), capsule.clone(), network.clone()),
            sidecar: sidecar.clone(),
            capsule: capsule.clone(),
            client,
            clock: Clock::start(),
            suspension: OfferId::from_bytes(crate::random::bytes()),
            key: ClaimKey::from_bytes(crate::random::bytes()),
            generation: network.generation(),
            network,
            sessions: Vec::new(),
            sessions_count: 0,
            peers: Vec::new(),
            bytes: MoveBytes::default(),
            file_bytes: 0,
            asked: false,
        }
    }

    async fn run(mut self, output: &mut Output) -> Result<SuspendResult, ErrorView> {
        self.capsule.set_stage(Stage::Moving);
        let saved = self.phases(output).await;
        self.capsule.set_phase(None);
        match saved {
            Ok(()) => Ok(self.result()),
            Err(error) => match error.downcast::<Superseded>() {
                Ok(Superseded) => Err(ErrorView::new(
                    "suspend/superseded",
                    format!("{} goes on elsewhere", self.capsule.name()),
                )
                .why("another host took it over while it was being suspended")
                .next("capsule ps shows where it is; the copy here is frozen, and kept")),
                Err(error) => {
                    self.undo().await;
                    Err(self.failed(&error))
                }
            },
        }
    }

    /// The flat list.
    async fn phases(&mut self, output: &mut Output) -> anyhow::Result<()> {
        for phase in PHASES {
            self.phase(phase, output).await?;
        }
        self.clock.running();
        tell(output, self.clock.progress(Phase::Release, None)).await;
        let began = Instant::now();
        self.still.release().await;
        self.capsule.set_stage(Stage::Suspended);
        self.sidecar.capsules.remove(&self.capsule.id());
        self.clock.finish(Phase::Release, began);
        Ok(())
    }

    async fn phase(&mut self, phase: Phase, output: &mut Output) -> anyhow::Result<()> {
        if self.client.cancel.is_cancelled() {
            bail!(Undone);
        }
        crate::faults::reach(phase.word())?;
        self.capsule.set_phase(Some(phase.word()));
        tell(output, self.clock.progress(phase, None)).await;
        let began = Instant::now();
        let cancelled = self.client.cancel.clone();
        // The write stops by itself: its thread must have ended before anything is undone.
        let may_leave = phase.can_be_left() && phase != Phase::Write;
        tokio::select! {
            biased;
            done = self.work(phase, output) => done.with_context(|| format!("phase {}", phase.word()))?,
            () = cancelled.cancelled(), if may_leave => bail!(Undone),
        }
        self.clock.finish(phase, began);
        tell(output, self.clock.progress(phase, Some(began.elapsed().as_secs_f64() * 1e3))).await;
        Ok(())
    }

    async fn work(&mut self, phase: Phase, output: &mut Output) -> anyhow::Result<()> {
        match phase {
            Phase::Preflight => self.preflight().await,
            Phase::Quiesce => self.still.quiesce().await,
            Phase::Hold => self.still.hold().await,
            Phase::Pause => {
                self.clock.pause();
                self.still.pause().await
            }
            Phase::Settle => self.still.settle().await,
            Phase::Lock => self.still.lock().await,
            Phase::Snapshot => self.snapshot().await,
            Phase::Dump => self.still.dump().await,
            Phase::Write => self.write(output).await,
            Phase::Commit => self.commit().await,
            other => bail!("{} is no phase of a suspend", other.word()),
        }
    }

    async fn preflight(&mut self) -> anyhow::Result<()> {
        // Without the directory the suspend could not be committed: better to know it while the capsule runs.
        self.sidecar.places.refresh(&self.capsule.id()).await.context("asking the directory")?;
        let (capsule, config) = (self.capsule.clone(), &self.sidecar.config);
        let (base, cpuinfo) = (config.base.clone(), config.cpuinfo.clone());
        let looked =
            tokio::task::spawn_blocking(move || examine::what_it_needs(&capsule, &base, &cpuinfo)).await;
        let (checks, _, _) = looked??;
        if checks.iter().any(|check| check.level == Level::Fail) {
            bail!(Refused(checks));
        }
        Ok(())
    }

    async fn snapshot(&mut self) -> anyhow::Result<()> {
        let sessions = self.sidecar.table.describe(Some(self.capsule.id())).await;
        self.sessions_count = sessions.len() as u64;
        let peers = sessions.iter().filter_map(|session| self.sidecar.places.capsule(&session.facts.peer));
        self.peers = peers.filter(|peer| peer.suspension.is_none()).map(|peer| peer.host).collect();
        self.peers.sort();
        self.peers.dedup();
        self.sessions = self.still.capture().await?;
        Ok(())
    }

    /// Sends the whole file, and waits until the client has stored it.
    async fn write(&mut self, output: &mut Output) -> anyhow::Result<()> {
        let image = self.still.image()?.to_owned();
        let (capsule, config) = (self.capsule.clone(), &self.sidecar.config);
        let (base, cpuinfo) = (config.base.clone(), config.cpuinfo.clone());
        let staging = self.sidecar.data.join("moves").join(format!("{}.base", self.suspension));
        let manifest = self.manifest();
        let prepare = (self.suspension, self.capsule.file(), self.peers.clone());
        let sessions = std::mem::take(&mut self.sessions);
        let (pipe, receiver) = pipe::to_client();
        let writing = tokio::task::spawn_blocking(move || -> anyhow::Result<MoveBytes> {
            let (open, needs) = sections::open_now(&capsule, &base, &cpuinfo)?;
            let manifest = Manifest { contents: contents(prepare, needs, open.clone())?, ..manifest };
            let root = capsule.file().run.rootfs.map_or(base, Into::into);
            let (upper, directory) = (capsule.upper(), capsule.directory().to_owned());
            let parts = Parts { sessions, image, upper, base: root, open, staging, directory };
            sections::write(pipe, &manifest, &parts)
        });
        let sent = self.send(receiver, output).await;
        // Whoever no longer takes anything makes the thread end.
        let written = writing.await?;
        sent?;
        self.bytes = written?;
        crate::faults::reach("suspend-written")?;
        output.write(&Frame::FileEnd).await.context("the client went away")?;
        let mut stored = self.client.stored.clone();
        tokio::select! {
            biased;
            stored = stored.wait_for(|stored| *stored) => drop(stored?),
            () = self.client.cancel.cancelled() => bail!(Undone),
        }
        crate::faults::reach("suspend-stored")?;
        Ok(())
    }

    async fn send(&mut self, mut receiver: mpsc::Receiver<Bytes>, output: &mut Output) -> anyhow::Result<()> {
        /// Bytes between two words about progress.
        const TELL_EVERY: u64 = 64 << 20;
        let mut told = 0;
        loop {
            let bytes = tokio::select! {
                biased;
                () = self.client.cancel.cancelled() => bail!(Undone),
                bytes = receiver.recv() => bytes,
            };
            let Some(bytes) = bytes else { return Ok(()) };
            self.file_bytes += bytes.len() as u64;
            output.write(&Frame::File(bytes)).await.context("the client went away")?;
            if self.file_bytes - told >= TELL_EVERY {
                told = self.file_bytes;
                let progress = self.clock.progress(Phase::Write, None);
                tell(output, Progress { done_bytes: Some(told), ..progress }).await;
            }
        }
    }

    fn manifest(&self) -> Manifest {
        let file = self.capsule.file();
        Manifest {
            writer: super::writer(),
            zone: self.sidecar.zone.clone(),
            capsule: file.id,
            name: file.name,
            owner: file.owner,
            locators: file.locators,
            suspension: self.suspension,
            key: self.key,
            generation: self.generation.next(),
            host: self.sidecar.me.clone(),
            suspended_at: SystemTime::now(),
            sessions: self.sessions_count,
            contents: serde_json::Value::Null,
        }
    }

    /// The file is on disk. From here on only the directory can say whether the capsule lies in it.
    async fn commit(&mut self) -> anyhow::Result<()> {
        // A directory that is away now was not asked, so nothing is in doubt yet.
        self.sidecar.places.refresh(&self.capsule.id()).await.context("asking the directory")?;
        let (suspension, generation) = (self.suspension, self.generation);
        self.capsule.journal(&Entry::Suspending { suspension, generation })?;
        self.asked = true;
        crate::faults::reach("suspend-asking")?;
        match self.suspend().await {
            Some(record) => {
                self.sidecar.places.take(record);
                crate::faults::pass("suspend-committed");
                return Ok(());
            }
            None => tracing::info!(capsule = %self.capsule.name(), "the outcome is asked at the directory"),
        }
        let journal = Journal::Suspending { suspension, generation };
        match settle(&self.sidecar, &self.capsule, &journal, Processes::Frozen).await {
            Decision::Undo { generation, .. } => {
                if let Some(generation) = generation {
                    self.network.set_generation(generation);
                    self.capsule.set_generation(generation)?;
                }
                bail!(Undone)
            }
            // It had been carried out, and lies in the file.
            Decision::Discard => Ok(()),
            other => {
                let by = if let Decision::Supersede { by } = other { by } else { None };
                superseded::keep(&self.sidecar, &self.capsule, by).await;
                bail!(Superseded)
            }
        }
    }

    /// Asks until there is an answer, or the client wants it undone. `None`: it has to be found out.
    async fn suspend(&self) -> Option<CapsuleRecord> {
        let directory = self.sidecar.places.directory();
        loop {
            let _deciding = self.sidecar.assertions.deciding().await;
            let asked =
                directory.suspend(self.capsule.id(), self.generation, self.suspension, self.key.hash());
            let answer = tokio::select! {
                answer = asked => answer,
                () = self.client.cancel.cancelled() => return None,
            };
            if answer.is_ok() {
                self.capsule.decide(Decided::Gone);
            }
            match answer {
                Ok(record) => return Some(record),
                Err(ClientError::Away { .. }) => {
                    tracing::warn!(capsule = %self.capsule.name(), "frozen until the directory answers");
                }
                Err(error) => {
                    tracing::warn!(capsule = %self.capsule.name(), %error, "it was not noted as suspended");
                    return None;
                }
            }
        }
    }

    /// Back to how it was, in reverse.
    async fn undo(&mut self) {
        if self.asked
            && let Err(error) = self.capsule.journal(&Entry::Undone)
        {
            tracing::error!(capsule = %self.capsule.name(), error = format!("{error:#}"), "its going on is not in its journal");
        }
        crate::faults::pass("suspend-undo");
        self.still.undo().await;
    }

    fn result(&self) -> SuspendResult {
        let file = self.capsule.file();
        SuspendResult {
            capsule: file.name.to_string(),
            id: file.id.to_string(),
            from: self.sidecar.me.to_string(),
            generation: self.generation.next().number(),
            file: String::new(),
            encrypted: false,
            paused_ms: self.clock.blackout_ms(),
            duration_ms: self.clock.duration_ms(),
            phases_ms: self.clock.phases(),
            sessions: self.sessions_count,
            bytes: self.bytes,
            file_bytes: self.file_bytes,
        }
    }

    fn failed(&self, error: &anyhow::Error) -> ErrorView {
        let name = self.capsule.name();
        let stays =
            |code: &str| ErrorView::new(code, format!("{name} stays on {} and runs", self.sidecar.me));
        if let Some(Refused(checks)) = error.downcast_ref::<Refused>() {
            let failed = checks.iter().filter(|check| check.level == Level::Fail);
            let why: Vec<_> = failed.clone().map(|check| check.evidence.as_str()).collect();
            let mut view = stays("suspend/refused").why(why.join("; "));
            for check in failed {
                view = view.detail(check.code.clone(), check.evidence.clone(), check.remedy.clone());
            }
            return view;
        }
        if error.downcast_ref::<Undone>().is_some() {
            return stays("suspend/cancelled").why("it was cancelled before the commit");
        }
        stays("suspend/failed").why(format!("{error:#}")).next("it can be tried again")
    }
}

/// The capsule goes on at another host.
#[derive(Debug, thiserror::Error)]
#[error("it goes on elsewhere")]
struct Superseded;

fn contents(
    (offer, capsule, peers): (OfferId, crate::capsule::file::CapsuleFile, Vec<HostName>),
    needs: Needs,
    base: Vec<runtime::files::base::BaseFile>,
) -> anyhow::Result<serde_json::Value> {
    Ok(serde_json::to_value(Prepare { offer, capsule, dry_run: false, needs, base, peers })?)
}
