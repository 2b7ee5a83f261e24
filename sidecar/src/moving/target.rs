//! The host that a capsule comes to.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use admin_api::result::Level;
use anyhow::{Context, bail, ensure};
use overlay_proto::{ClaimKey, Generation, HostName, OfferId};

use super::claimed;
use super::conversation::{Prepare, ToSource, ToTarget, hear, say};
use super::examine;
use super::files::Tree;
use super::image;
use super::journal::{Decision, Entry, Journal, Processes};
use super::landing::{Landing, Stuck, warm_links};
use super::log;
use super::phases::ms;
use super::verdict::settle;
use crate::capsule::{Capsule, Stage, lifecycle};
use crate::limits::SESSIONS_BYTES_MAX;
use crate::sidecar::Sidecar;

/// Time that the clearing up after an undone move gets.
const CLEARED_WAIT: Duration = Duration::from_secs(5);

/// Moves to this host that are under way, for the file streams that belong to them.
#[derive(Default)]
pub struct Arrivals(Mutex<HashMap<OfferId, (HostName, PathBuf, PathBuf)>>);

impl Arrivals {
    /// Where files of a move from `host` go.
    pub(super) fn directory(&self, host: &HostName, offer: OfferId, tree: Tree) -> Option<PathBuf> {
        let arrivals = self.0.lock().expect("no panics under this lock");
        let (from, upper, base) = arrivals.get(&offer)?;
        let directory = match tree {
            Tree::Private => upper,
            Tree::Base => base,
        };
        (from == host).then(|| directory.clone())
    }

    fn begin(&self, offer: OfferId, host: HostName, upper: PathBuf, base: PathBuf) {
        self.0.lock().expect("no panics under this lock").insert(offer, (host, upper, base));
    }

    fn end(&self, offer: &OfferId) {
        self.0.lock().expect("no panics under this lock").remove(offer);
    }
}

/// Takes part in a move that `host` leads.
///
/// # Errors
/// The move failed; nothing of the capsule is here.
pub async fn serve(
    sidecar: Arc<Sidecar>,
    host: HostName,
    mut send: quinn::SendStream,
    mut receive: quinn::RecvStream,
) -> anyhow::Result<()> {
    let ToTarget::Prepare(prepare) = hear(&mut receive).await? else {
        bail!("the move did not begin with prepare")
    };
    cleared(&sidecar, &prepare).await;
    let examined = examine_all(&sidecar, &host, &prepare).await?;
    let refused = matches!(&examined, ToSource::Examined { checks, .. } if checks.iter().any(|check| check.level == Level::Fail));
    say(&mut send, &examined).await?;
    if refused || prepare.dry_run {
        let _ = send.finish();
        return Ok(());
    }
    let mut arrival = match Arrival::prepare(sidecar, host, *prepare).await {
        Ok(arrival) => arrival,
        Err(error) => {
            say(&mut send, &ToSource::Failed { why: format!("{error:#}") }).await?;
            return Err(error);
        }
    };
    let outcome = arrival.take(&mut send, &mut receive).await;
    if let Err(error) = &outcome {
        arrival.discard().await;
        let _ = say(&mut send, &ToSource::Failed { why: format!("{error:#}") }).await;
    }
    let _ = send.finish();
    outcome
}

/// A move that was just undone may still be clearing up here: the next one waits for it.
async fn cleared(sidecar: &Sidecar, prepare: &Prepare) {
    let deadline = Instant::now() + CLEARED_WAIT;
    let arriving = || {
        sidecar.capsules.get(&prepare.capsule.id).is_some_and(|capsule| capsule.stage() == Stage::Arriving)
    };
    while arriving() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn examine_all(sidecar: &Arc<Sidecar>, host: &HostName, prepare: &Prepare) -> anyhow::Result<ToSource> {
    let placed = sidecar.places.capsule(&prepare.capsule.id).is_some_and(|record| record.host == *host);
    if !placed {
        sidecar.places.refresh(&prepare.capsule.id).await?;
    }
    let record = sidecar.places.capsule(&prepare.capsule.id).context("an unknown capsule")?;
    ensure!(record.host == *host, "{} is not placed at {host}", record.name);
    let (checks, differences) = examine::can_take(sidecar, prepare, examine::Remains::Keep).await?;
    Ok(ToSource::Examined { checks, differences })
}

/// One capsule on its way to this host.
struct Arrival {
    sidecar: Arc<Sidecar>,
    capsule: Arc<Capsule>,
    source: HostName,
    offer: OfferId,
    landing: Landing,
}

impl Arrival {
    /// Everything that can be made before the freeze.
    async fn prepare(sidecar: Arc<Sidecar>, host: HostName, prepare: Prepare) -> anyhow::Result<Self> {
        let Prepare { offer, capsule: file, peers, .. } = prepare;
        let moves = sidecar.data.join("moves");
        let staged = moves.join(format!("{offer}.base"));
        let capsule = Capsule::arriving(&sidecar, file)?;
        let made = async {
            capsule.journal(&Entry::Arriving { offer, source: host.clone() })?;
            sidecar.arrivals.begin(offer, host.clone(), capsule.upper(), staged.clone());
            Landing::make(sidecar.clone(), capsule.clone(), staged.clone()).await
        };
        let landing = match made.await {
            Ok(landing) => landing,
            Err(error) => {
                sidecar.arrivals.end(&offer);
                let _ = std::fs::remove_dir_all(&staged);
                lifecycle::discard(&sidecar, &capsule).await;
                return Err(error);
            }
        };
        warm_links(&sidecar, peers);
        Ok(Self { sidecar, capsule, source: host, offer, landing })
    }

    async fn take(
        &mut self,
        send: &mut quinn::SendStream,
        receive: &mut quinn::RecvStream,
    ) -> anyhow::Result<()> {
        say(send, &ToSource::Ready).await?;
        let restored = loop {
            let said: ToTarget = hear(receive).await?;
            crate::faults::reach(said.point())?;
            match said {
                ToTarget::Sessions { bytes } => self.sessions(bytes, receive).await?,
                ToTarget::Image { files, lookups } => {
                    self.landing.lookups(lookups).await;
                    image::receive(receive, self.landing.image(), &files).await?;
                }
                ToTarget::Log { name, offset, bytes } => {
                    log::receive(receive, self.capsule.directory(), &name, offset, bytes).await?;
                }
                ToTarget::Restore => break self.landing.restore().await?,
                ToTarget::Prepare(_) | ToTarget::Key { .. } => bail!("a message out of turn"),
            }
        };
        crate::faults::reach("target-gate")?;
        say(send, &ToSource::AtGate { restore_ms: ms(restored) }).await?;
        let ToTarget::Key { key } = hear(receive).await? else { bail!("a message out of turn") };
        crate::faults::reach("target-key")?;
        self.capsule.journal(&Entry::Key { key })?;
        crate::faults::reach("target-claim")?;
        let began = Instant::now();
        let generation = self.claim(key).await?;
        say(send, &ToSource::Claimed { claim_ms: ms(began.elapsed()) }).await.ok();
        let began = Instant::now();
        match self.landing.thaw(generation).await {
            Ok(()) => {}
            Err(Stuck::AtGate(error)) => return self.give_back(generation, key, &error, send).await,
            Err(Stuck::Unknown(error)) => {
                self.forget();
                claimed::died(&self.sidecar, &self.capsule, generation).await;
                // The source learns no more than the directory says.
                tracing::error!(capsule = %self.capsule.name(), error = format!("{error:#}"), "whether it ran is not known");
                return Ok(());
            }
        }
        let (generation, thaw_ms) = (generation.number(), ms(began.elapsed()));
        say(send, &ToSource::Running { generation, thaw_ms }).await.ok();
        let (began, total) = (Instant::now(), self.landing.sessions());
        self.sidecar.arrivals.end(&self.offer);
        let waiting = self.landing.attach().await;
        let attach_ms = ms(began.elapsed());
        tracing::info!(capsule = %self.capsule.name(), generation, sessions = total, waiting, "arrived");
        say(send, &ToSource::Attached { sessions: total - waiting, waiting, attach_ms }).await.ok();
        Ok(())
    }

    /// Rebuilds the capsule's connections, silent behind the lock.
    async fn sessions(&mut self, bytes: u64, receive: &mut quinn::RecvStream) -> anyhow::Result<()> {
        ensure!(bytes <= SESSIONS_BYTES_MAX, "sessions of {bytes} bytes are too many");
        // Memory is taken as bytes come, whatever was said of them.
        let mut blob = Vec::new();
        while (blob.len() as u64) < bytes {
            let want = usize::try_from(bytes - blob.len() as u64)?.min(1 << 20);
            let chunk = receive.read_chunk(want, true).await?.context("the sessions ended early")?;
            blob.extend_from_slice(&chunk.bytes);
        }
        self.landing.rebuild(&blob).await
    }

    /// The commit. Without an answer the capsule stays at the gate: the directory may have given it already.
    async fn claim(&self, key: ClaimKey) -> anyhow::Result<Generation> {
        let journal = Journal::Key { offer: self.offer, key, source: self.source.clone() };
        match settle(&self.sidecar, &self.capsule, &journal, Processes::AtGate).await {
            Decision::OpenGate { generation } => Ok(generation),
            _ => bail!("the capsule was not to be had any more: its source took it back"),
        }
    }

    /// The capsule can't run here although it is placed here: our copy is destroyed first, and then the source, which
    /// keeps its frozen one, is offered the place.
    async fn give_back(
        &mut self,
        generation: Generation,
        key: ClaimKey,
        error: &anyhow::Error,
        send: &mut quinn::SendStream,
    ) -> anyhow::Result<()> {
        self.forget();
        claimed::give_back(&self.sidecar, &self.capsule, generation, &self.source, &key).await;
        // The source sees the offer by itself; it may be long gone.
        say(send, &ToSource::TakeBack { why: format!("{error:#}") }).await.ok();
        Ok(())
    }

    /// The move failed: nothing of the capsule stays here.
    async fn discard(&mut self) {
        self.forget();
        lifecycle::discard(&self.sidecar, &self.capsule).await;
    }

    /// What came does not go on here.
    fn forget(&mut self) {
        self.sidecar.arrivals.end(&self.offer);
        self.landing.forget();
    }
}

#[cfg(test)]
mod tests;
