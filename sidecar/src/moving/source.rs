//! The host that a capsule leaves: the phases in one flat list, and their undoing.

mod ahead;
mod commit;
mod freeze;
mod undo;

use std::sync::Arc;
use std::time::Instant;

use admin_api::result::{AnchoredView, CheckView, MoveBytes, MoveResult, PreflightResult};
use admin_api::{ErrorView, Frame, Memory};
use anyhow::{Context, bail};
use overlay_proto::{ClaimKey, Generation, HostName, OfferId};
use runtime::files::private::Rounds;
use tokio_util::sync::CancellationToken;

use super::conversation::ToSource;
use super::log::LogSent;
use super::phases::{Clock, Phase, tell};
use super::standstill::Standstill;
use crate::admin::{Input, Output};
use crate::capsule::network::Network;
use crate::capsule::{Capsule, Stage};
use crate::requests::{self, Kind};
use crate::sidecar::Sidecar;

/// How a capsule is to move.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// How its memory goes.
    pub memory: Memory,
    /// This host carries connections on that are bound to it.
    pub keep_anchored: bool,
}

/// Carries out `capsule move`.
///
/// # Errors
/// The capsule did not move, and runs on here.
pub async fn command(
    sidecar: &Arc<Sidecar>,
    capsule: &Arc<Capsule>,
    to: &str,
    how: How,
    input: &mut Input,
    output: &mut Output,
) -> Result<MoveResult, ErrorView> {
    let target = target_named(sidecar, to)?;
    let name = capsule.name();
    if target == sidecar.me {
        let generation = sidecar.places.capsule(&capsule.id()).map_or(0, |record| record.generation.number());
        let (from, to) = (target.to_string(), target.to_string());
        let capsule = name.to_string();
        return Ok(MoveResult { capsule, from, to, generation, already: true, ..MoveResult::default() });
    }
    let memory = how.memory;
    if matches!(memory, Memory::Lazy | Memory::Precopy) {
        return Err(ErrorView::new("move/memory", format!("{name} stays on {} and runs", sidecar.me))
            .why(format!("this version does not move memory by `{memory}`"))
            .next("leave --memory out, or say full"));
    }
    let Ok(_busy) = capsule.busy().try_lock_owned() else {
        return Err(ErrorView::new(
            "capsule/busy",
            format!("{name} is being moved, started or stopped already"),
        )
        .next("wait for that to end; capsule ps shows it"));
    };
    let cancel = CancellationToken::new();
    let departure = Departure::begin(sidecar.clone(), capsule.clone(), target, cancel.clone()).await?;
    let departure = Departure { keep_anchored: how.keep_anchored, ..departure };
    let listen = listen_for_cancel(input, cancel);
    tokio::select! {
        biased;
        result = departure.run(output) => result,
        () = listen => unreachable!("listening never ends"),
    }
}

/// Asks the target of a move that may come whether it can take the capsule.
///
/// # Errors
/// The target can't be asked.
pub async fn preflight(
    sidecar: &Arc<Sidecar>,
    capsule: &Arc<Capsule>,
    to: &HostName,
    keep_anchored: bool,
) -> Result<PreflightResult, ErrorView> {
    let cancel = CancellationToken::new();
    let departure = Departure::begin(sidecar.clone(), capsule.clone(), to.clone(), cancel).await?;
    let mut departure = Departure { keep_anchored, ..departure };
    let asked = departure.ask_target(true).await;
    let (checks, needs) = asked.map_err(|error| departure.stays("move/preflight", &error))?;
    Ok(PreflightResult {
        capsule: Some(capsule.name().to_string()),
        from: Some(sidecar.me.to_string()),
        to: Some(to.to_string()),
        memory_bytes: Some(needs.memory_bytes),
        files_bytes: Some(needs.files_bytes),
        anchored: departure.anchored,
        checks,
        ..PreflightResult::default()
    })
}

/// The host of this name, or which there are.
pub(crate) fn target_named(sidecar: &Sidecar, to: &str) -> Result<HostName, ErrorView> {
    let hosts = sidecar.places.hosts();
    let known = to.parse::<HostName>().ok().filter(|to| hosts.iter().any(|host| host.name == *to));
    known.ok_or_else(|| {
        let mut names: Vec<_> = hosts.iter().map(|host| host.name.to_string()).collect();
        names.sort();
        ErrorView::new("move/unknown-host", format!("there is no host {to}"))
            .next(format!("hosts are: {}", names.join(", ")))
    })
}

async fn listen_for_cancel(input: &mut Input, cancel: CancellationToken) {
    loop {
        match input.next().await {
            Ok(Some(Frame::Cancel)) => cancel.cancel(),
            Ok(Some(_)) => {}
            // A client that is gone did not ask to undo.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

/// What has been done and would have to be undone, beside the standstill.
#[derive(Default)]
struct Done {
    offered: bool,
    key_sent: bool,
}

/// One move, at its source.
struct Departure {
    sidecar: Arc<Sidecar>,
    capsule: Arc<Capsule>,
    network: Arc<Network>,
    target: HostName,
    generation: Generation,
    offer: OfferId,
    key: ClaimKey,
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    clock: Clock,
    cancel: CancellationToken,
    done: Done,
    /// Assertions that this host had made when it offered the capsule: after another one the offer may be forgotten.
    asserted: u64,
    rounds: Rounds,
    log: LogSent,
    still: Standstill,
    bytes: MoveBytes,
    sessions_before: u64,
    /// This host carries connections on that are bound to it.
    keep_anchored: bool,
    /// Those there were at the beginning.
    anchored: Vec<AnchoredView>,
    differences: Vec<runtime::files::base::Difference>,
}

impl Departure {
    async fn begin(
        sidecar: Arc<Sidecar>,
        capsule: Arc<Capsule>,
        target: HostName,
        cancel: CancellationToken,
    ) -> Result<Self, ErrorView> {
        let name = capsule.name();
        let stopped = || {
            ErrorView::new("move/not-running", format!("{name} does not run, so it can't move"))
                .next(format!("capsule start {name}"))
        };
        if capsule.stage() != Stage::Running {
            return Err(stopped());
        }
        let network = sidecar.networks.of(&capsule.id()).ok_or_else(stopped)?;
        let opened = requests::open(&sidecar, &target, Kind::Move).await;
        let (send, receive) = opened.map_err(|error| {
            ErrorView::new("link/host-away", format!("{name} stays on {} and runs", sidecar.me))
                .why(format!("{error:#}"))
                .next(format!("is the sidecar of {target} running? see: capsule hosts"))
        })?;
        let rounds = Rounds::new(&capsule.upper());
        Ok(Self {
            generation: network.generation(),
            still: Standstill::new(sidecar.clone(), capsule.clone(), network.clone()),
            network,
            offer: OfferId::from_bytes(crate::random::bytes()),
            key: ClaimKey::from_bytes(crate::random::bytes()),
            send,
            receive,
            clock: Clock::start(),
            cancel,
            done: Done::default(),
            asserted: 0,
            rounds,
            log: LogSent::default(),
            bytes: MoveBytes::default(),
            sessions_before: 0,
            keep_anchored: false,
            anchored: Vec::new(),
            differences: Vec::new(),
            sidecar,
            capsule,
            target,
        })
    }

    async fn run(self, output: &mut Output) -> Result<MoveResult, ErrorView> {
        self.capsule.set_stage(Stage::Moving);
        let capsule = self.capsule.clone();
        let moved = self.run_phases(output).await;
        capsule.set_phase(None);
        moved
    }

    async fn run_phases(mut self, output: &mut Output) -> Result<MoveResult, ErrorView> {
        match self.phases(output).await {
            Ok(result) => Ok(result),
            Err(error) if self.done.key_sent => self.decide(error, output).await,
            Err(error) => {
                self.undo().await;
                Err(self.failed(&error))
            }
        }
    }

    /// The flat list.
    async fn phases(&mut self, output: &mut Output) -> anyhow::Result<MoveResult> {
        self.phase(Phase::Preflight, output, Self::prepare).await?;
        self.phase(Phase::Files, output, Self::files_ahead).await?;
        self.phase(Phase::Quiesce, output, Self::quiesce).await?;
        self.phase(Phase::Hold, output, Self::hold).await?;
        self.clock.pause();
        self.phase(Phase::Pause, output, Self::pause).await?;
        self.phase(Phase::Settle, output, Self::settle).await?;
        self.phase(Phase::Lock, output, Self::lock).await?;
        self.phase(Phase::Snapshot, output, Self::snapshot).await?;
        self.phase(Phase::Dump, output, Self::dump).await?;
        self.phase(Phase::Transfer, output, Self::transfer).await?;
        self.phase(Phase::Restore, output, Self::restore).await?;
        self.commit(output).await
    }

    async fn phase(
        &mut self,
        phase: Phase,
        output: &mut Output,
        work: impl AsyncFnOnce(&mut Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        if self.cancel.is_cancelled() {
            bail!(Undone);
        }
        crate::faults::reach(phase.word())?;
        self.capsule.set_phase(Some(phase.word()));
        tell(output, self.clock.progress(phase, None)).await;
        let began = Instant::now();
        let cancelled = self.cancel.clone();
        let link_lost = lost(&self.send);
        tokio::select! {
            biased;
            done = work(self) => done.with_context(|| format!("phase {}", phase.word()))?,
            () = cancelled.cancelled(), if phase.can_be_left() => bail!(Undone),
            error = link_lost, if phase.can_be_left() => {
                return Err(error).with_context(|| format!("phase {}", phase.word()));
            }
        }
        self.clock.finish(phase, began);
        tell(output, self.clock.progress(phase, Some(began.elapsed().as_secs_f64() * 1e3))).await;
        Ok(())
    }
}

/// Waits until the connection to the target is gone: a long listing of files, or a disk that is slow to sync, would not
/// notice.
fn lost(send: &quinn::SendStream) -> impl Future<Output = anyhow::Error> + use<> {
    let stopped = send.stopped();
    async move {
        match stopped.await {
            Err(error) => error.into(),
            // A target that gave up says why on the other direction.
            Ok(_) => std::future::pending().await,
        }
    }
}

fn unexpected<T>(message: ToSource) -> anyhow::Result<T> {
    match message {
        ToSource::Failed { why } => bail!("the target gave up: {why}"),
        other => bail!("the target said something else than expected: {other:?}"),
    }
}

/// The target's checks failed.
#[derive(Debug, thiserror::Error)]
#[error("the target can't take it")]
struct Refused(Vec<CheckView>);

/// The person took the move back.
#[derive(Debug, thiserror::Error)]
#[error("cancelled")]
struct Undone;
