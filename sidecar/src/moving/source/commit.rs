//! The commit and what comes after it. From the moment the key is sent only the directory can say who goes on.

use std::time::{Duration, Instant};

use admin_api::ErrorView;
use admin_api::result::MoveResult;
use anyhow::bail;
use directory_api::{ApiError, CapsuleRecord, CapsuleState, ClientError, Outcome};
use overlay_proto::{ClaimKey, Generation, OfferId};
use tokio::io::AsyncWriteExt;

use super::{ASK_AGAIN, Departure, Undone, unexpected};
use crate::admin::Output;
use crate::capsule::Stage;
use crate::moving::conversation::{ToSource, ToTarget, hear, say};
use crate::moving::phases::{Phase, tell};

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
    pub(super) async fn take_back(
        &mut self,
        offer: OfferId,
        key: ClaimKey,
        why: String,
    ) -> anyhow::Result<MoveResult> {
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
    pub(super) fn settle_generation(&self, record: CapsuleRecord) -> anyhow::Result<()> {
        self.network.set_generation(record.generation);
        self.capsule.set_generation(record.generation)?;
        self.sidecar.places.take(record);
        Ok(())
    }

    /// The capsule runs at the target: nothing of it stays here.
    pub(super) async fn finish(&mut self, generation: u64, output: &mut Output) -> MoveResult {
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
            sessions,
            sessions_before: self.sessions_before,
            bytes: self.bytes,
            memory: "full".into(),
            already: false,
        }
    }

    pub(super) async fn release(&mut self, generation: Generation) {
        self.still.release().await;
        self.capsule.set_stage(Stage::Left { to: self.target.clone(), generation });
    }

    /// The conversation broke after the key was sent: the directory says who has the capsule.
    pub(super) async fn decide(
        mut self,
        error: anyhow::Error,
        output: &mut Output,
    ) -> Result<MoveResult, ErrorView> {
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
}
