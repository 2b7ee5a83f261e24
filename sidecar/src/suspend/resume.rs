//! The host that a capsule is resumed on, or taken over to from a file.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use admin_api::result::{CheckView, Level, MoveBytes, ResumeResult};
use admin_api::{ErrorView, Frame};
use anyhow::{Context, bail, ensure};
use capsule_file::{FileError, Manifest, Reader};
use directory_api::{ApiError, ClientError, LookupKey};
use overlay_proto::Generation;
use runtime::files::base::Difference;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::back::put_back;
use super::pipe::{self, FromClient, Piece};
use super::recover::Recovery;
use super::sections::{self, Places};
use crate::admin::{Input, Output};
use crate::capsule::{Capsule, lifecycle};
use crate::moving::conversation::Prepare;
use crate::moving::journal::{Decision, Entry, Journal, Processes};
use crate::moving::landing::{Landing, Stuck, warm_links};
use crate::moving::phases::{Clock, Phase, tell};
use crate::moving::verdict::settle;
use crate::moving::{claimed, examine};
use crate::sidecar::Sidecar;

/// Carries out `capsule resume`: takes the file from the client, and claims the capsule when it stands at the gate.
///
/// # Errors
/// The capsule was not resumed here, and nothing of it is left here.
pub async fn command(
    sidecar: &Arc<Sidecar>,
    input: &mut Input,
    output: &mut Output,
) -> Result<ResumeResult, ErrorView> {
    from_file(sidecar, None, input, output).await
}

/// As [`command`]; with a `recovery` the claim is a takeover.
pub(super) async fn from_file(
    sidecar: &Arc<Sidecar>,
    recovery: Option<Recovery>,
    input: &mut Input,
    output: &mut Output,
) -> Result<ResumeResult, ErrorView> {
    let (pieces, file) = pipe::from_client();
    let cancel = CancellationToken::new();
    let resuming = resume(sidecar.clone(), recovery, file, cancel.clone(), output);
    tokio::select! {
        biased;
        result = resuming => result,
        () = listen(input, pieces, cancel) => unreachable!("listening never ends"),
    }
}

/// Hears what the client says: the file, and perhaps that it wants to undo.
async fn listen(input: &mut Input, pieces: mpsc::Sender<Piece>, cancel: CancellationToken) {
    let mut pieces = Some(pieces);
    loop {
        let piece = match input.next().await {
            Ok(Some(Frame::File(bytes))) => Piece::Bytes(bytes),
            Ok(Some(Frame::FileEnd)) => Piece::End,
            Ok(Some(Frame::Cancel)) => {
                cancel.cancel();
                pieces = None;
                continue;
            }
            Ok(Some(_)) => continue,
            Ok(None) | Err(_) => {
                // A client that is gone after it sent everything did not ask to undo.
                if pieces.take().is_some() {
                    cancel.cancel();
                }
                return std::future::pending().await;
            }
        };
        let ends = matches!(piece, Piece::End);
        if let Some(open) = &pieces {
            // Whoever no longer reads says why in the answer.
            let _ = open.send(piece).await;
        }
        if ends {
            pieces = None;
        }
    }
}

/// The person took it back, or the client went away.
#[derive(Debug, thiserror::Error)]
#[error("cancelled")]
struct Undone;

/// The checks of this host failed.
#[derive(Debug, thiserror::Error)]
#[error("this host can't take it")]
struct Refused(Vec<CheckView>);

/// The capsule does not go on from this file.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(super) struct Void {
    /// The second word of the code of the error.
    pub(super) code: &'static str,
    pub(super) why: String,
    pub(super) next: String,
}

async fn resume(
    sidecar: Arc<Sidecar>,
    recovery: Option<Recovery>,
    file: FromClient,
    cancel: CancellationToken,
    output: &mut Output,
) -> Result<ResumeResult, ErrorView> {
    let verb = if recovery.is_some() { RECOVER } else { RESUME };
    let opened = tokio::task::spawn_blocking(move || Reader::open(file)).await;
    let (manifest, reader) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return Err(failed(verb, None, &sidecar, &error.into())),
        Err(error) => return Err(failed(verb, None, &sidecar, &error.into())),
    };
    let mut resuming = Resuming {
        sidecar: sidecar.clone(),
        recovery,
        reader: Some(reader),
        cancel,
        clock: Clock::start(),
        bytes: MoveBytes::default(),
        prepare: None,
        differences: Vec::new(),
        sessions: Vec::new(),
        landing: None,
        capsule: None,
        claimed: None,
        manifest,
    };
    match resuming.phases(output).await {
        Ok((generation, sessions, waiting)) => Ok(resuming.result(generation, sessions, waiting)),
        Err(error) => {
            resuming.discard().await;
            Err(failed(verb, Some(&resuming.manifest), &sidecar, &error))
        }
    }
}

/// One resume.
struct Resuming {
    sidecar: Arc<Sidecar>,
    /// A takeover, if it is one.
    recovery: Option<Recovery>,
    manifest: Manifest,
    reader: Option<Reader<FromClient>>,
    cancel: CancellationToken,
    clock: Clock,
    bytes: MoveBytes,
    prepare: Option<Prepare>,
    differences: Vec<Difference>,
    sessions: Vec<u8>,
    capsule: Option<Arc<Capsule>>,
    landing: Option<Landing>,
    claimed: Option<Generation>,
}

/// What is done in which order, up to running.
const PHASES: [Phase; 5] = [Phase::Preflight, Phase::Transfer, Phase::Restore, Phase::Claim, Phase::Thaw];

impl Resuming {
    /// The flat list. Gives generation, sessions, and how many of these wait for their peers.
    async fn phases(&mut self, output: &mut Output) -> anyhow::Result<(Generation, u64, u64)> {
        self.clock.pause();
        for phase in PHASES {
            self.phase(phase, output).await?;
        }
        self.clock.running();
        let generation = self.claimed.context("the capsule was not claimed")?;
        let landing = self.landing.as_mut().context("the capsule was not made")?;
        let (began, total) = (Instant::now(), landing.sessions());
        let waiting = landing.attach().await;
        self.clock.finish(Phase::Attach, began);
        tracing::info!(capsule = %self.manifest.name, %generation, sessions = total, waiting, "resumed");
        Ok((generation, total, waiting))
    }

    async fn phase(&mut self, phase: Phase, output: &mut Output) -> anyhow::Result<()> {
        // From the claim on the directory may have placed the capsule here.
        let may_leave = phase < Phase::Claim;
        if may_leave && self.cancel.is_cancelled() {
            bail!(Undone);
        }
        if may_leave {
            crate::faults::reach(&format!("resume-{}", phase.word()))?;
        }
        if let Some(capsule) = &self.capsule {
            capsule.set_phase(Some(phase.word()));
        }
        tell(output, self.clock.progress(phase, None)).await;
        let began = Instant::now();
        let done = self.work(phase).await.with_context(|| format!("phase {}", phase.word()));
        if may_leave && self.cancel.is_cancelled() {
            bail!(Undone);
        }
        done?;
        self.clock.finish(phase, began);
        tell(output, self.clock.progress(phase, Some(began.elapsed().as_secs_f64() * 1e3))).await;
        Ok(())
    }

    async fn work(&mut self, phase: Phase) -> anyhow::Result<()> {
        match phase {
            Phase::Preflight => self.preflight().await,
            Phase::Transfer => self.transfer().await,
            Phase::Restore => {
                let sessions = std::mem::take(&mut self.sessions);
                let landing = self.landing.as_mut().context("the capsule was not made")?;
                landing.rebuild(&sessions).await?;
                landing.restore().await?;
                Ok(crate::faults::reach("target-gate")?)
            }
            Phase::Claim => self.claim().await,
            Phase::Thaw => self.thaw().await,
            other => bail!("{} is no phase of a resume", other.word()),
        }
    }

    async fn preflight(&mut self) -> anyhow::Result<()> {
        let (manifest, zone) = (&self.manifest, &self.sidecar.zone);
        if manifest.zone != *zone {
            let why = format!("the file is of the mesh {}, this host is of {zone}", manifest.zone);
            bail!(Void::new("other-mesh", why));
        }
        let prepare = sections::prepare_of(manifest)?;
        match &mut self.recovery {
            Some(recovery) => recovery.look(&self.sidecar, &self.manifest).await?,
            None => self.may_be_resumed().await?,
        }
        let remains = match self.recovery {
            Some(_) => examine::Remains::Clear,
            None => examine::Remains::Keep,
        };
        let (checks, differences) = examine::can_take(&self.sidecar, &prepare, remains).await?;
        if checks.iter().any(|check| check.level == Level::Fail) {
            bail!(Refused(checks));
        }
        self.differences = differences;
        self.prepare = Some(prepare);
        Ok(())
    }

    /// Whether the directory knows this file. Only for a good answer before any work: the claim decides.
    async fn may_be_resumed(&self) -> anyhow::Result<()> {
        let manifest = &self.manifest;
        let directory = self.sidecar.places.directory();
        let record = match directory.lookup(LookupKey::Id(manifest.capsule)).await {
            Ok(record) => record,
            Err(ClientError::Refused(ApiError::UnknownCapsule { .. })) => {
                let why = format!("{} was removed after it was suspended", manifest.name);
                bail!(Void::new("removed", why));
            }
            Err(error) => return Err(error).context("asking the directory"),
        };
        let generation = record.generation;
        let why = match &record.suspension {
            Some(made) if made.id == manifest.suspension => {
                self.sidecar.places.take(record);
                return Ok(());
            }
            Some(made) => format!(
                "the file is of generation {}, and {} was suspended again since, by {} at generation \
                 {generation}: resume it from that file",
                manifest.generation, manifest.name, made.host
            ),
            None if generation < manifest.generation => format!(
                "the suspend that made the file came to nothing: {} is on {}, at generation {generation}",
                manifest.name, record.host
            ),
            None => {
                let by = record.last_outcome.as_ref().filter(|ended| ended.offer == manifest.suspension);
                let how = match by.map(|ended| ended.outcome) {
                    Some(directory_api::Outcome::Claimed) => "was resumed by",
                    Some(directory_api::Outcome::Revoked) => "was never suspended, and is on",
                    Some(directory_api::Outcome::TakenOver) | None => "was resumed, and is by now on",
                };
                format!("{} {how} {}, at generation {generation}", manifest.name, record.host)
            }
        };
        bail!(Void::new("already", why))
    }

    async fn make(&mut self) -> anyhow::Result<()> {
        if self.recovery.is_some() {
            super::recover::clear_what_died(&self.sidecar, &self.manifest).await;
        }
        let prepare = self.prepare.take().context("the manifest was not read")?;
        warm_links(&self.sidecar, prepare.peers);
        let (suspension, generation) = (self.manifest.suspension, self.manifest.generation);
        let file = crate::capsule::file::CapsuleFile { generation, ..prepare.capsule };
        let capsule = Capsule::arriving(&self.sidecar, file)?;
        self.capsule = Some(capsule.clone());
        capsule.journal(&Entry::Resuming { suspension, generation })?;
        let staged = self.sidecar.data.join("moves").join(format!("{suspension}.base"));
        let _ = std::fs::remove_dir_all(&staged);
        self.landing = Some(Landing::make(self.sidecar.clone(), capsule, staged).await?);
        Ok(())
    }

    /// Takes everything out of the file; it was whole when this returns.
    async fn transfer(&mut self) -> anyhow::Result<()> {
        self.make().await?;
        let (Some(reader), Some(capsule), Some(landing)) = (self.reader.take(), &self.capsule, &self.landing)
        else {
            bail!("the capsule was not made")
        };
        let places = Places {
            image: landing.image().to_owned(),
            upper: capsule.upper(),
            staged: landing.staged().to_owned(),
            differences: std::mem::take(&mut self.differences),
            directory: capsule.directory().to_owned(),
        };
        let read = tokio::task::spawn_blocking(move || sections::read(reader, &places)).await??;
        (self.bytes, self.sessions) = (read.bytes, read.sessions);
        Ok(())
    }

    /// The commit.
    async fn claim(&mut self) -> anyhow::Result<()> {
        let capsule = self.capsule.clone().context("the capsule was not made")?;
        if let Some(recovery) = &self.recovery {
            self.claimed = Some(recovery.take_over(&self.sidecar, &capsule, self.manifest.generation).await?);
            return Ok(());
        }
        let Manifest { suspension, generation, key, .. } = self.manifest;
        // It may have been put back since by another host that could not run it: the generation is the directory's.
        let directory = self.sidecar.places.directory();
        let record = directory.lookup(LookupKey::Id(capsule.id())).await.context("asking the directory")?;
        let lies = record.suspension.as_ref().is_some_and(|made| made.id == suspension);
        if !lies {
            self.may_be_resumed().await?;
        }
        ensure!(record.generation >= generation, "the directory is older than the file");
        let generation = record.generation;
        capsule.journal(&Entry::Resuming { suspension, generation })?;
        capsule.journal(&Entry::Key { key })?;
        crate::faults::reach("resume-asking")?;
        let journal = Journal::Resuming { suspension, generation, key };
        match settle(&self.sidecar, &capsule, &journal, Processes::AtGate).await {
            Decision::OpenGate { generation } => {
                self.claimed = Some(generation);
                Ok(())
            }
            _ => {
                self.may_be_resumed().await?;
                bail!("the directory did not give it to this host")
            }
        }
    }

    async fn thaw(&mut self) -> anyhow::Result<()> {
        let (Some(landing), Some(capsule), Some(generation)) =
            (&mut self.landing, self.capsule.clone(), self.claimed)
        else {
            bail!("the capsule was not claimed")
        };
        match landing.thaw(generation).await {
            Ok(()) => Ok(()),
            Err(Stuck::AtGate(error)) if self.recovery.is_none() => {
                landing.forget();
                self.landing = None;
                self.capsule = None;
                let Manifest { suspension, key, .. } = self.manifest;
                put_back(&self.sidecar, &capsule, generation, suspension, &key).await;
                Err(error.context("it could not be let run, and lies in its file again"))
            }
            Err(Stuck::AtGate(error) | Stuck::Unknown(error)) => {
                landing.forget();
                self.landing = None;
                self.capsule = None;
                claimed::died(&self.sidecar, &capsule, generation).await;
                Err(error.context("it is shown as lost: capsule recover --from goes on from the file"))
            }
        }
    }

    /// Nothing of it stays here.
    async fn discard(&mut self) {
        if let Some(mut landing) = self.landing.take() {
            landing.forget();
        }
        if let Some(capsule) = self.capsule.take() {
            lifecycle::discard(&self.sidecar, &capsule).await;
        }
    }

    fn result(&self, generation: Generation, sessions: u64, waiting: u64) -> ResumeResult {
        if let Some(capsule) = &self.capsule {
            capsule.set_phase(None);
        }
        let lay = SystemTime::now().duration_since(self.manifest.suspended_at).unwrap_or_default();
        ResumeResult {
            capsule: self.manifest.name.to_string(),
            id: self.manifest.capsule.to_string(),
            from: self.manifest.host.to_string(),
            to: self.sidecar.me.to_string(),
            generation: generation.number(),
            suspended_s: lay.as_secs(),
            duration_ms: self.clock.duration_ms(),
            phases_ms: self.clock.phases(),
            sessions: sessions - waiting,
            sessions_before: sessions,
            bytes: self.bytes,
        }
    }
}

impl Void {
    pub(super) fn new(code: &'static str, why: String) -> Self {
        Self { code, why, next: "capsule ps shows where it is".to_owned() }
    }
}

/// How errors name what was asked for: the first word of their codes, and the participle.
type Verb = (&'static str, &'static str);
const RESUME: Verb = ("resume", "resumed");
const RECOVER: Verb = ("recover", "recovered");

fn failed(
    (verb, done): Verb,
    manifest: Option<&Manifest>,
    sidecar: &Sidecar,
    error: &anyhow::Error,
) -> ErrorView {
    let name = manifest.map_or("the capsule", |manifest| manifest.name.as_str());
    let not = |code: &str| {
        ErrorView::new(format!("{verb}/{code}"), format!("{name} was not {done} on {}", sidecar.me))
    };
    if let Some(Refused(checks)) = error.downcast_ref::<Refused>() {
        let failed = checks.iter().filter(|check| check.level == Level::Fail);
        let why: Vec<_> = failed.clone().map(|check| check.evidence.as_str()).collect();
        let mut view =
            not("refused").why(why.join("; ")).next(format!("mend that, or {verb} it on another host"));
        for check in failed {
            view = view.detail(check.code.clone(), check.evidence.clone(), check.remedy.clone());
        }
        return view;
    }
    if let Some(Void { code, why, next }) = error.downcast_ref::<Void>() {
        return not(code).why(why).next(next.as_str());
    }
    if error.downcast_ref::<Undone>().is_some() {
        return not("cancelled").why("it was cancelled before the commit");
    }
    if let Some(error) = error.downcast_ref::<FileError>() {
        let code = match error {
            FileError::Damaged { .. } => "damaged",
            FileError::Truncated { .. } | FileError::Empty => "truncated",
            FileError::Newer { .. } => "newer",
            _ => "file",
        };
        return not(code).why(error).next("nothing was changed; take another copy of the file");
    }
    not("failed").why(format!("{error:#}")).next("the file is as good as before")
}
