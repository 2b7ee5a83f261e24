//! The commit and what comes after it. From the moment the key is sent only the directory can say who goes on.

use std::time::{Duration, Instant};

use admin_api::ErrorView;
use admin_api::result::MoveResult;
use anyhow::bail;
use directory_api::{CapsuleRecord, CapsuleState};
use overlay_proto::Generation;
use tokio::io::AsyncWriteExt;

use super::{Departure, Undone, unexpected};
use crate::admin::Output;
use crate::capsule::Stage;
use crate::moving::conversation::{ToSource, ToTarget, hear, say};
use crate::moving::journal::{Decision, Entry, Journal, Processes};
use crate::moving::phases::{Phase, tell};
use crate::moving::superseded;
use crate::moving::verdict::settle;

/// Time that sessions may take to attach before the move is called complete without them.
const ATTACH_WAIT: Duration = Duration::from_secs(5);

/// Time that this host's own view gets to show the capsule running elsewhere.
const SHOWN_WAIT: Duration = Duration::from_secs(1);

impl Departure {
    /// From the key on only the directory can say who goes on.
    pub(super) async fn commit(&mut self, output: &mut Output) -> anyhow::Result<MoveResult> {
        crate::faults::reach(Phase::Claim.word())?;
        if self.cancel.is_cancelled() {
            bail!(Undone);
        }
        {
            let _deciding = self.sidecar.assertions.deciding().await;
            if self.sidecar.assertions.made() != self.asserted {
                bail!("the directory was restored from a backup meanwhile, and has forgotten the offer");
            }
            self.capsule.journal(&Entry::KeySent { key: self.key })?;
        }
        self.done.key_sent = true;
        crate::faults::reach("key-sent")?;
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
            ToSource::TakeBack { why } => {
                bail!("the target claimed it, could not let it run, and gave it back: {why}")
            }
            other => return unexpected(other),
        };
        self.clock.running();
        self.clock.note(Phase::Thaw, thaw_ms);
        Ok(self.finish(generation, output).await)
    }

    /// The directory placed the capsule here anew.
    pub(super) fn settle_generation(&self, generation: Generation) -> anyhow::Result<()> {
        self.network.set_generation(generation);
        self.capsule.set_generation(generation)
    }

    /// The capsule runs at the target: nothing of it stays here.
    pub(super) async fn finish(&mut self, generation: u64, output: &mut Output) -> MoveResult {
        tell(output, self.clock.progress(Phase::Release, None)).await;
        let began = Instant::now();
        crate::faults::pass("release");
        let anchored = self.release(Generation::new(generation)).await;
        let ended = if self.keep_anchored { 0 } else { anchored };
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
        let runs = |record: Option<&CapsuleRecord>| {
            record.is_none_or(|record| {
                record.generation.number() > generation || record.state == CapsuleState::Running
            })
        };
        let id = self.capsule.id();
        let shown = self.sidecar.places.wait_until(&id, runs);
        let _ = tokio::time::timeout(SHOWN_WAIT, shown).await;
        let _ = self.send.shutdown().await;
        MoveResult {
            capsule: self.capsule.name().to_string(),
            from: self.sidecar.me.to_string(),
            to: self.target.to_string(),
            generation,
            blackout_ms: self.clock.blackout_ms(),
            duration_ms: self.clock.duration_ms(),
            phases_ms: self.clock.phases(),
            sessions: sessions.saturating_sub(ended),
            anchored,
            anchored_kept: anchored > 0 && self.keep_anchored,
            sessions_before: self.sessions_before,
            bytes: self.bytes,
            memory: "full".into(),
            already: false,
        }
    }

    /// Leaves nothing of the capsule here but the connections that this host carries on, if it is to. Returns how many of
    /// those there are, or ended.
    pub(super) async fn release(&mut self, generation: Generation) -> u64 {
        let (outlet, table) = (&self.sidecar.around.outward.outlet, &self.sidecar.table);
        let anchored = match self.keep_anchored {
            true => outlet.count_those_of(self.capsule.id(), table),
            // First: a sidecar that is killed here leaves a copy, from which the next one sees that it is to be done.
            false => outlet.end_those_of(self.capsule.id(), table).await,
        };
        crate::faults::pass("anchored-ended");
        self.still.release().await;
        self.capsule.set_stage(Stage::Left { to: self.target.clone(), generation });
        anchored
    }

    /// The conversation broke after the key was sent, or the capsule was given back: the directory says who has it.
    pub(super) async fn decide(
        mut self,
        error: anyhow::Error,
        output: &mut Output,
    ) -> Result<MoveResult, ErrorView> {
        tracing::warn!(capsule = %self.capsule.name(), error = format!("{error:#}"), "the outcome is asked at the directory");
        let journal = Journal::KeySent { offer: self.offer, generation: self.generation, key: self.key };
        match settle(&self.sidecar, &self.capsule, &journal, Processes::Frozen).await {
            Decision::Undo { generation, .. } => {
                self.done.offered = false;
                if let Some(generation) = generation
                    && let Err(error) = self.settle_generation(generation)
                {
                    tracing::error!(error = format!("{error:#}"), "its generation was not written down");
                }
                self.undo().await;
                Err(self.failed(&error))
            }
            Decision::Discard => {
                self.clock.running();
                Ok(self.finish(self.generation.next().number(), output).await)
            }
            other => {
                // Taken over by another host: what is here may be all there is, so it is kept as it stands.
                let by = if let Decision::Supersede { by } = other { by } else { None };
                superseded::keep(&self.sidecar, &self.capsule, by).await;
                Err(ErrorView::new("move/superseded", format!("{} goes on elsewhere", self.capsule.name()))
                    .why("another host took it over while its move was under way")
                    .next("capsule ps shows where it is; the copy here is frozen, and kept"))
            }
        }
    }
}
