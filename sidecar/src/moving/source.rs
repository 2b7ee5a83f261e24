//! The host that a capsule leaves: the phases in one flat list, and their undoing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use admin_api::result::{CheckView, Level, MoveBytes, MoveResult, PreflightResult};
use admin_api::{ErrorView, Frame, Memory};
use anyhow::{Context, bail};
use directory_api::{ApiError, CapsuleRecord, CapsuleState, ClientError, Outcome};
use overlay_proto::{ClaimKey, Generation, HostName, OfferId};
use runtime::files::private::{Ended, Pace, Rounds};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::conversation::{Prepare, ToSource, ToTarget, hear, say};
use super::files::Tree;
use super::image::MemoryDirectory;
use super::log::LogSent;
use super::phases::{Clock, Phase, tell};
use super::{examine, files, image, sockets};
use crate::admin::{Input, Output};
use crate::capsule::network::Network;
use crate::capsule::{Capsule, Stage, engine};
use crate::limits::{FEW_FILES, FILE_ROUNDS, QUIESCE_TIMEOUT};
use crate::requests::{self, Kind};
use crate::session::Parked;
use crate::sidecar::Sidecar;

/// Time that sessions may take to attach before the move is called complete without them.
const ATTACH_WAIT: Duration = Duration::from_secs(5);

/// Pause between questions to a directory that does not answer.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Carries out `capsule move`.
///
/// # Errors
/// The capsule did not move, and runs on here.
pub async fn command(
    sidecar: &Arc<Sidecar>,
    capsule: &Arc<Capsule>,
    to: &str,
    memory: Memory,
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
) -> Result<PreflightResult, ErrorView> {
    let cancel = CancellationToken::new();
    let mut departure = Departure::begin(sidecar.clone(), capsule.clone(), to.clone(), cancel).await?;
    let asked = departure.ask_target(true).await;
    let (checks, needs) = asked.map_err(|error| departure.stays("move/preflight", &error))?;
    Ok(PreflightResult {
        capsule: Some(capsule.name().to_string()),
        from: Some(sidecar.me.to_string()),
        to: Some(to.to_string()),
        memory_bytes: Some(needs.memory_bytes),
        files_bytes: Some(needs.files_bytes),
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

/// What has been done and would have to be undone.
#[derive(Default)]
struct Done {
    offered: bool,
    quiet: bool,
    held: bool,
    paused: bool,
    locked: bool,
    parked: Option<Vec<Parked>>,
    captured: bool,
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
    rounds: Rounds,
    log: LogSent,
    image: Option<MemoryDirectory>,
    bytes: MoveBytes,
    sessions_before: u64,
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
            network,
            offer: OfferId::from_bytes(crate::random::bytes()),
            key: ClaimKey::from_bytes(crate::random::bytes()),
            send,
            receive,
            clock: Clock::start(),
            cancel,
            done: Done::default(),
            rounds,
            log: LogSent::default(),
            image: None,
            bytes: MoveBytes::default(),
            sessions_before: 0,
            differences: Vec::new(),
            sidecar,
            capsule,
            target,
        })
    }

    async fn run(mut self, output: &mut Output) -> Result<MoveResult, ErrorView> {
        self.capsule.set_stage(Stage::Moving);
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
        tell(output, self.clock.progress(phase, None)).await;
        let began = Instant::now();
        let cancelled = self.cancel.clone();
        tokio::select! {
            biased;
            done = work(self) => done.with_context(|| format!("phase {}", phase.word()))?,
            () = cancelled.cancelled(), if phase.can_be_left() => bail!(Undone),
        }
        self.clock.finish(phase, began);
        tell(output, self.clock.progress(phase, Some(began.elapsed().as_secs_f64() * 1e3))).await;
        Ok(())
    }

    async fn ask_target(
        &mut self,
        dry_run: bool,
    ) -> anyhow::Result<(Vec<CheckView>, super::conversation::Needs)> {
        let (capsule, base_dir) = (self.capsule.clone(), self.sidecar.config.base.clone());
        let cpuinfo = self.sidecar.config.cpuinfo.clone();
        let (mut own_checks, needs, base) =
            tokio::task::spawn_blocking(move || examine::what_it_needs(&capsule, &base_dir, &cpuinfo))
                .await??;
        let sessions = self.sidecar.table.describe(Some(self.capsule.id())).await;
        self.sessions_before = sessions.len() as u64;
        let mut peers: Vec<HostName> = sessions
            .iter()
            .filter_map(|session| self.sidecar.places.capsule(&session.facts.peer))
            .map(|peer| peer.host)
            .collect();
        peers.sort();
        peers.dedup();
        self.bytes.memory = needs.memory_bytes;
        let files_bytes = needs.files_bytes;
        let prepare =
            Prepare { offer: self.offer, capsule: self.capsule.file(), dry_run, needs, base, peers };
        let needs =
            super::conversation::Needs { memory_bytes: self.bytes.memory, files_bytes, ..Default::default() };
        say(&mut self.send, &ToTarget::Prepare(Box::new(prepare))).await?;
        match hear(&mut self.receive).await? {
            ToSource::Examined { mut checks, differences } => {
                self.differences = differences;
                own_checks.append(&mut checks);
                Ok((own_checks, needs))
            }
            other => unexpected(other),
        }
    }

    async fn prepare(&mut self) -> anyhow::Result<()> {
        let (checks, _) = self.ask_target(false).await?;
        if checks.iter().any(|check| check.level == Level::Fail) {
            bail!(Refused(checks));
        }
        match hear(&mut self.receive).await? {
            ToSource::Ready => {}
            other => return unexpected(other),
        }
        // Before the answer: an offer whose answer is lost stands too.
        self.done.offered = true;
        let offered = self
            .sidecar
            .places
            .directory()
            .offer(self.capsule.id(), self.generation, self.offer, self.target.clone(), self.key.hash())
            .await
            .context("offering the capsule at the directory")?;
        self.sidecar.places.take(offered);
        Ok(())
    }

    async fn files_ahead(&mut self) -> anyhow::Result<()> {
        for _ in 0..FILE_ROUNDS {
            let rounds = std::mem::replace(&mut self.rounds, Rounds::new(&self.capsule.upper()));
            let (rounds, round) = tokio::task::spawn_blocking(move || {
                let round = rounds.next();
                (rounds, round)
            })
            .await?;
            self.rounds = rounds;
            let round = round?;
            if round.is_empty() {
                self.rounds.note(round, Ended::Complete);
                break;
            }
            let few = round.paths().len() < FEW_FILES;
            let ended =
                self.send_files(Tree::Private, &self.capsule.upper(), round.paths(), Pace::Running).await?;
            self.rounds.note(round, ended);
            if ended == Ended::Complete && few {
                break;
            }
        }
        if !self.differences.is_empty() {
            self.ship_base().await?;
        }
        self.log.send_news(&mut self.send, self.capsule.directory()).await
    }

    /// Base files that the target lacks go into the private layer there.
    async fn ship_base(&mut self) -> anyhow::Result<()> {
        let staging = self.sidecar.data.join("moves").join(format!("{}.base", self.offer));
        let (base, differences, to) =
            (self.sidecar.config.base.clone(), self.differences.clone(), staging.clone());
        let staged = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&to)?;
            anyhow::Ok(runtime::files::base::stage(&base, &differences, &to)?)
        })
        .await?;
        let sent = match staged {
            Ok(_) => {
                files::send(&self.sidecar, &self.target, self.offer, Tree::Base, &staging, None, Pace::Frozen)
                    .await
            }
            Err(error) => Err(error),
        };
        let _ = std::fs::remove_dir_all(&staging);
        sent.map(|_| ())
    }

    async fn send_files(
        &self,
        tree: Tree,
        directory: &std::path::Path,
        paths: &[std::path::PathBuf],
        pace: Pace,
    ) -> anyhow::Result<Ended> {
        files::send(&self.sidecar, &self.target, self.offer, tree, directory, Some(paths), pace).await
    }

    /// New connections wait from here on; dials under way and full accept queues get a moment.
    async fn quiesce(&mut self) -> anyhow::Result<()> {
        self.done.quiet = true;
        self.network.quiet().set(true);
        let deadline = Instant::now() + QUIESCE_TIMEOUT;
        let locators = self.network.locators();
        while Instant::now() < deadline {
            let waiting =
                self.network.sockets(move |sockets| sockets::unaccepted(sockets, &locators)).await?;
            if waiting == 0 && self.network.quiet().dials() == 0 && self.network.connecting() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    async fn hold(&mut self) -> anyhow::Result<()> {
        self.done.held = true;
        let limit = Duration::from_millis(self.sidecar.config.hold_ms_max);
        let (agreed, silent) = self.sidecar.table.hold(self.capsule.id(), limit).await;
        tracing::debug!(capsule = %self.capsule.name(), agreed, silent, "held");
        Ok(())
    }

    async fn pause(&mut self) -> anyhow::Result<()> {
        self.done.paused = true;
        let capsule = self.capsule.clone();
        tokio::task::spawn_blocking(move || engine::pause(&capsule)).await??;
        Ok(())
    }

    async fn settle(&mut self) -> anyhow::Result<()> {
        let mut parked = self.sidecar.table.park(self.capsule.id()).await;
        let settled;
        (parked, settled) = self
            .network
            .sockets(move |sockets| {
                let settled = sockets::settle(&mut parked, sockets);
                Ok((parked, settled))
            })
            .await?;
        self.done.parked = Some(parked);
        settled.context("settling the capsule's connections")
    }

    async fn lock(&mut self) -> anyhow::Result<()> {
        self.done.locked = true;
        self.network.in_netns(kernel::rules::lock).await?;
        Ok(())
    }

    async fn snapshot(&mut self) -> anyhow::Result<()> {
        self.done.captured = true;
        let parked = self.done.parked.take().unwrap_or_default();
        let (parked, images) = self
            .network
            .sockets(move |sockets| {
                let images = sockets::capture(&parked, sockets);
                Ok((parked, images))
            })
            .await?;
        self.done.parked = Some(parked);
        let blob = postcard::to_stdvec(&images?)?;
        say(&mut self.send, &ToTarget::Sessions { bytes: blob.len() as u64 }).await?;
        self.send.write_all(&blob).await?;
        Ok(())
    }

    async fn dump(&mut self) -> anyhow::Result<()> {
        self.image = Some(MemoryDirectory::of(&self.capsule)?);
        let capsule = self.capsule.clone();
        tokio::task::spawn_blocking(move || engine::dump(&capsule)).await?
    }

    /// The last private files and the image go over side by side.
    async fn transfer(&mut self) -> anyhow::Result<()> {
        let rounds = std::mem::replace(&mut self.rounds, Rounds::new(&self.capsule.upper()));
        let (rounds, round) = tokio::task::spawn_blocking(move || {
            let round = rounds.last();
            (rounds, round)
        })
        .await?;
        self.rounds = rounds;
        let round = round?;
        if !round.is_empty() {
            tracing::debug!(capsule = %self.capsule.name(), changed = round.paths().len(), "files changed since the last round");
            self.send_files(Tree::Private, &self.capsule.upper(), round.paths(), Pace::Frozen).await?;
        }
        self.log.send_news(&mut self.send, self.capsule.directory()).await?;
        let image = self.image.as_ref().context("the image was not made")?;
        let list = image::list(image.path())?;
        self.bytes.memory = list.iter().map(|(_, length)| length).sum();
        say(&mut self.send, &ToTarget::Image { files: list.clone() }).await?;
        image::send(&mut self.send, image.path(), &list).await
    }

    async fn restore(&mut self) -> anyhow::Result<()> {
        say(&mut self.send, &ToTarget::Restore).await?;
        match hear(&mut self.receive).await? {
            ToSource::AtGate { restore_ms } => {
                tracing::debug!(capsule = %self.capsule.name(), restore_ms, "at the gate");
                Ok(())
            }
            other => unexpected(other),
        }
    }

    /// From the key on only the directory can say who goes on.
    async fn commit(&mut self, output: &mut Output) -> anyhow::Result<MoveResult> {
        crate::faults::reach(Phase::Claim.word())?;
        if self.cancel.is_cancelled() {
            bail!(Undone);
        }
        self.capsule.journal(&format!("key sent {}", self.offer))?;
        self.done.key_sent = true;
        tell(output, self.clock.progress(Phase::Claim, None)).await;
        let began = Instant::now();
        say(&mut self.send, &ToTarget::Key { key: self.key }).await?;
        let claim_ms = match hear(&mut self.receive).await? {
            ToSource::Claimed { claim_ms } => claim_ms,
            other => return unexpected(other),
        };
        tracing::debug!(claim_ms, "claimed");
        self.clock.finish(Phase::Claim, began);
        let (generation, thaw_ms) = match hear(&mut self.receive).await? {
            ToSource::Running { generation, thaw_ms } => (generation, thaw_ms),
            ToSource::TakeBack { offer, key, why } => return self.take_back(offer, key, why).await,
            other => return unexpected(other),
        };
        self.clock.running();
        self.clock.note(Phase::Thaw, thaw_ms);
        Ok(self.finish(generation, output).await)
    }

    /// The target claimed, could not let the capsule run, destroyed its copy and offers it back: ours is the only
    /// one, and it goes on once the directory gave it to us.
    async fn take_back(&mut self, offer: OfferId, key: ClaimKey, why: String) -> anyhow::Result<MoveResult> {
        loop {
            match self.sidecar.places.directory().claim(self.capsule.id(), offer, key).await {
                Ok(record) => {
                    self.settle_generation(record)?;
                    self.done.offered = false;
                    self.done.key_sent = false;
                    bail!("the target claimed it, could not let it run, and gave it back: {why}");
                }
                Err(ClientError::Refused(error)) => {
                    bail!("the target gave up ({why}), and the directory refuses: {error}")
                }
                Err(error) => {
                    tracing::warn!(capsule = %self.capsule.name(), %error, "frozen until the directory answers");
                    tokio::time::sleep(ASK_AGAIN).await;
                }
            }
        }
    }

    /// The directory placed the capsule here anew.
    fn settle_generation(&self, record: CapsuleRecord) -> anyhow::Result<()> {
        self.network.set_generation(record.generation);
        self.capsule.set_generation(record.generation)?;
        self.sidecar.places.take(record);
        Ok(())
    }

    /// The capsule runs at the target: nothing of it stays here.
    async fn finish(&mut self, generation: u64, output: &mut Output) -> MoveResult {
        tell(output, self.clock.progress(Phase::Release, None)).await;
        let began = Instant::now();
        self.release(Generation::new(generation)).await;
        self.clock.finish(Phase::Release, began);
        let attached = tokio::time::timeout(ATTACH_WAIT, hear(&mut self.receive)).await;
        let sessions = match attached {
            Ok(Ok(ToSource::Attached { sessions, attach_ms, waiting })) => {
                self.clock.note(Phase::Attach, attach_ms);
                tracing::info!(capsule = %self.capsule.name(), to = %self.target, sessions, waiting, "moved");
                sessions
            }
            _ => 0,
        };
        let _ = self.send.shutdown().await;
        MoveResult {
            capsule: self.capsule.name().to_string(),
            from: self.sidecar.me.to_string(),
            to: self.target.to_string(),
            generation,
            blackout_ms: self.clock.blackout_ms(),
            duration_ms: self.clock.duration_ms(),
            phases_ms: self.clock.phases(),
            sessions,
            sessions_before: self.sessions_before,
            bytes: self.bytes,
            memory: "full".into(),
            already: false,
        }
    }

    async fn release(&mut self, generation: Generation) {
        let parked = self.done.parked.take().unwrap_or_default();
        sockets::silence(&parked);
        for half in &parked {
            self.sidecar.table.remove((half.half.id(), half.half.role()));
        }
        self.image = None;
        let _ = self.sidecar.places.refresh(&self.capsule.id()).await;
        crate::capsule::lifecycle::discard(&self.sidecar, &self.capsule).await;
        drop(parked);
        self.capsule.set_stage(Stage::Left { to: self.target.clone(), generation });
    }

    /// The conversation broke after the key was sent: the directory says who has the capsule.
    async fn decide(mut self, error: anyhow::Error, output: &mut Output) -> Result<MoveResult, ErrorView> {
        tracing::warn!(capsule = %self.capsule.name(), error = format!("{error:#}"), "the outcome is asked at the directory");
        loop {
            let directory = self.sidecar.places.directory().clone();
            match directory.revoke(self.capsule.id(), self.offer).await {
                Ok(record) => {
                    self.done.offered = false;
                    if let Err(error) = self.settle_generation(record) {
                        tracing::error!(error = format!("{error:#}"), "its generation was not written down");
                    }
                    self.undo().await;
                    return Err(self.failed(&error));
                }
                Err(ClientError::Refused(ApiError::OfferEnded { outcome }))
                    if outcome.outcome == Outcome::Claimed =>
                {
                    // Frozen until the target says that it runs: ours may be the only image.
                    let claimed = outcome.generation;
                    let runs = |record: Option<&CapsuleRecord>| {
                        record.is_none_or(|record| {
                            record.generation > claimed || record.state == CapsuleState::Running
                        })
                    };
                    self.sidecar.places.wait_until(&self.capsule.id(), runs).await;
                    self.clock.running();
                    return Ok(self.finish(claimed.number(), output).await);
                }
                Err(other) => {
                    tracing::warn!(capsule = %self.capsule.name(), error = %other, "frozen until the directory answers");
                    tokio::time::sleep(ASK_AGAIN).await;
                }
            }
        }
    }

    /// Back to how it was, in reverse; goes on past failures.
    async fn undo(&mut self) {
        let _ = self.send.reset(quinn::VarInt::from_u32(0));
        let _ = self.receive.stop(quinn::VarInt::from_u32(0));
        self.image = None;
        let parked = self.done.parked.take();
        if self.done.captured {
            sockets::undo(parked.as_deref().unwrap_or_default());
        }
        if self.done.locked
            && let Err(error) = self.network.in_netns(kernel::rules::unlock).await
        {
            tracing::error!(capsule = %self.capsule.name(), %error, "the capsule's network stays locked");
        }
        if self.done.paused {
            let capsule = self.capsule.clone();
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || engine::resume(&capsule)).await {
                tracing::error!(capsule = %self.capsule.name(), error = format!("{error:#}"), "the capsule was not thawed");
            }
        }
        for mut half in parked.into_iter().flatten() {
            half.half.link_lost();
            half.half.release();
            self.sidecar.table.drive(half, None);
        }
        if self.done.held {
            self.sidecar.table.release(self.capsule.id());
        }
        if self.done.quiet {
            self.network.quiet().set(false);
        }
        self.capsule.set_stage(Stage::Running);
        if self.done.offered {
            tokio::spawn(withdraw(
                self.sidecar.clone(),
                self.capsule.clone(),
                self.network.clone(),
                self.offer,
            ));
        }
    }

    fn failed(&self, error: &anyhow::Error) -> ErrorView {
        if let Some(Refused(checks)) = error.downcast_ref::<Refused>() {
            let failed: Vec<_> = checks.iter().filter(|check| check.level == Level::Fail).collect();
            let why: Vec<_> = failed.iter().map(|check| check.evidence.as_str()).collect();
            let mut view = self.stays_view("move/refused").why(why.join("; ")).next(format!(
                "mend that, then: capsule preflight {} --to {}",
                self.capsule.name(),
                self.target
            ));
            for check in failed {
                view = view.detail(check.code.clone(), check.evidence.clone(), check.remedy.clone());
            }
            return view;
        }
        if error.downcast_ref::<Undone>().is_some() {
            return self.stays_view("move/cancelled").why("it was cancelled before the commit");
        }
        self.stays("move/failed", error)
    }

    fn stays_view(&self, code: &str) -> ErrorView {
        ErrorView::new(code, format!("{} stays on {} and runs", self.capsule.name(), self.sidecar.me))
    }

    fn stays(&self, code: &str, error: &anyhow::Error) -> ErrorView {
        self.stays_view(code).why(format!("{error:#}")).next(format!(
            "capsule preflight {} --to {} looks closer",
            self.capsule.name(),
            self.target
        ))
    }
}

/// Ends an offer that nobody can claim, since its key was never sent; the directory may be away for a while.
async fn withdraw(sidecar: Arc<Sidecar>, capsule: Arc<Capsule>, network: Arc<Network>, offer: OfferId) {
    loop {
        match sidecar.places.directory().revoke(capsule.id(), offer).await {
            Ok(record) => {
                network.set_generation(record.generation);
                if let Err(error) = capsule.set_generation(record.generation) {
                    tracing::error!(error = format!("{error:#}"), "its generation was not written down");
                }
                sidecar.places.take(record);
                return;
            }
            Err(ClientError::Refused(error)) => {
                tracing::warn!(capsule = %capsule.name(), %error, "the offer was not withdrawn");
                return;
            }
            Err(_) => tokio::time::sleep(ASK_AGAIN).await,
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
