//! The host that a capsule comes to.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use admin_api::result::Level;
use anyhow::{Context, bail, ensure};
use directory_api::{ApiError, CapsuleRecord, CapsuleState, ClientError};
use overlay_proto::{ClaimKey, HostName, OfferId};
use tokio::sync::mpsc;

use super::conversation::{Prepare, ToSource, ToTarget, hear, say};
use super::examine;
use super::files::Tree;
use super::image::{self, MemoryDirectory};
use super::log;
use super::phases::ms;
use super::sockets::{self, Arrived, HalfImage, held_as};
use crate::capsule::network::Network;
use crate::capsule::{Capsule, Stage, engine, keeper, lifecycle};
use crate::limits::SESSIONS_BYTES_MAX;
use crate::session::Event;
use crate::sidecar::Sidecar;

/// Time that the restored sessions may take to attach before the source is told how many did.
const ATTACH_WAIT: Duration = Duration::from_secs(3);

/// Time that the directory gets to note that the capsule runs before the move is called complete.
const REPORT_WAIT: Duration = Duration::from_secs(1);

/// Time that the clearing up after an undone move gets.
const CLEARED_WAIT: Duration = Duration::from_secs(5);

/// Pause between questions to a directory that does not answer.
const ASK_AGAIN: Duration = Duration::from_millis(300);

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
    let (checks, differences) = examine::can_take(sidecar, prepare).await?;
    Ok(ToSource::Examined { checks, differences })
}

/// One capsule on its way to this host.
struct Arrival {
    sidecar: Arc<Sidecar>,
    capsule: Arc<Capsule>,
    network: Arc<Network>,
    source: HostName,
    offer: OfferId,
    staged: PathBuf,
    image: MemoryDirectory,
    halves: Vec<(Arrived, mpsc::Receiver<Event>)>,
}

impl Arrival {
    /// Everything that can be made before the freeze.
    async fn prepare(sidecar: Arc<Sidecar>, host: HostName, prepare: Prepare) -> anyhow::Result<Self> {
        let Prepare { offer, capsule: file, peers, .. } = prepare;
        let moves = sidecar.data.join("moves");
        let staged = moves.join(format!("{offer}.base"));
        let capsule = Capsule::arriving(&sidecar, file)?;
        let made = async {
            std::fs::create_dir_all(&staged)?;
            let image = MemoryDirectory::of(&capsule)?;
            engine::prepare_restore(&capsule)?;
            sidecar.arrivals.begin(offer, host.clone(), capsule.upper(), staged.clone());
            let network = lifecycle::open_network(&sidecar, &capsule, true).await?;
            anyhow::Ok((image, network))
        };
        let (image, network) = match made.await {
            Ok(made) => made,
            Err(error) => {
                sidecar.arrivals.end(&offer);
                let _ = std::fs::remove_dir_all(&staged);
                lifecycle::discard(&sidecar, &capsule).await;
                return Err(error);
            }
        };
        warm_links(&sidecar, peers);
        Ok(Self { sidecar, capsule, network, source: host, offer, staged, image, halves: Vec::new() })
    }

    async fn take(
        &mut self,
        send: &mut quinn::SendStream,
        receive: &mut quinn::RecvStream,
    ) -> anyhow::Result<()> {
        say(send, &ToSource::Ready).await?;
        let restored = loop {
            match hear(receive).await? {
                ToTarget::Sessions { bytes } => self.sessions(bytes, receive).await?,
                ToTarget::Image { files } => image::receive(receive, self.image.path(), &files).await?,
                ToTarget::Log { name, offset, bytes } => {
                    log::receive(receive, self.capsule.directory(), &name, offset, bytes).await?;
                }
                ToTarget::Restore => break self.restore().await?,
                ToTarget::Prepare(_) | ToTarget::Key { .. } => bail!("a message out of turn"),
            }
        };
        crate::faults::reach("target-gate")?;
        say(send, &ToSource::AtGate { restore_ms: ms(restored) }).await?;
        let ToTarget::Key { key } = hear(receive).await? else { bail!("a message out of turn") };
        self.capsule.journal(&format!("key {} {key}", self.offer, key = hex(&key)))?;
        let began = Instant::now();
        let record = self.claim(key).await?;
        say(send, &ToSource::Claimed { claim_ms: ms(began.elapsed()) }).await.ok();
        let began = Instant::now();
        if let Err(error) = self.thaw(&record).await {
            return self.give_back(&record, &error, send).await;
        }
        let (generation, thaw_ms) = (record.generation.number(), ms(began.elapsed()));
        say(send, &ToSource::Running { generation, thaw_ms }).await.ok();
        let (began, total) = (Instant::now(), self.halves.len() as u64);
        let waiting = self.attach().await;
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
        // Should this sidecar end while the capsule stands at the gate, the next one has all that this one knows.
        let file = crate::session::file_of(&blob)?;
        self.network.keeper().hold(keeper::ARRIVING, file.as_fd()).await?;
        let images: Vec<HalfImage> = postcard::from_bytes(&blob).context("reading the sessions")?;
        let own = self.capsule.id();
        let rebuilt = self
            .network
            .in_netns(move || {
                images.into_iter().map(|image| sockets::rebuild(image, own)).collect::<Result<Vec<_>, _>>()
            })
            .await?;
        let mut holds = Vec::new();
        for arrived in rebuilt {
            // Known from here on: a peer that is early waits instead of hearing that nobody knows the session.
            let key = (arrived.half.id(), arrived.half.role());
            let Some(events) = self.sidecar.table.register(key, &arrived.facts) else {
                bail!("session {} is here already", key.0);
            };
            if let sockets::ArrivedProgram::Open { fd, .. } = &arrived.program {
                holds.push(self.network.keeper().begin_hold(&held_as(key), fd.as_fd())?);
            }
            self.halves.push((arrived, events));
        }
        for hold in holds {
            hold.await?;
        }
        Ok(())
    }

    async fn restore(&mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let capsule = self.capsule.clone();
        let (base, staged) = (self.sidecar.config.base.clone(), self.staged.clone());
        tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
            if std::fs::read_dir(&staged)?.next().is_some() {
                runtime::files::base::merge(&staged, &capsule.upper())?;
            }
            engine::mount(&capsule, &base)?;
            tracing::debug!(capsule = %capsule.name(), after_ms = ms(began.elapsed()), "root mounted");
            engine::restore(&capsule)
        })
        .await??;
        Ok(began.elapsed())
    }

    /// The commit. Without an answer the capsule stays at the gate: the directory may have given it already.
    async fn claim(&self, key: ClaimKey) -> anyhow::Result<CapsuleRecord> {
        loop {
            match self.sidecar.places.directory().claim(self.capsule.id(), self.offer, key).await {
                Ok(record) => return Ok(record),
                Err(ClientError::Refused(ApiError::OfferEnded { outcome })) => {
                    bail!("the source took the capsule back ({})", outcome.outcome)
                }
                Err(ClientError::Refused(error)) => bail!("the directory refuses the claim: {error}"),
                Err(error) => {
                    tracing::warn!(capsule = %self.capsule.name(), %error, "standing at the gate until the directory answers");
                    tokio::time::sleep(ASK_AGAIN).await;
                }
            }
        }
    }

    async fn thaw(&mut self, record: &CapsuleRecord) -> anyhow::Result<()> {
        self.sidecar.places.take(record.clone());
        self.network.set_generation(record.generation);
        self.capsule.set_generation(record.generation)?;
        self.capsule.journal(&format!("thawed {}", record.generation))?;
        crate::faults::reach("target-thaw")?;
        self.network.in_netns(kernel::rules::unlock).await?;
        let capsule = self.capsule.clone();
        tokio::task::spawn_blocking(move || engine::open_gate(&capsule)).await??;
        self.capsule.set_stage(Stage::Running);
        Ok(())
    }

    /// The capsule can't run here although it is placed here: our copy is destroyed first, and then the source, which
    /// keeps its frozen one, is offered the place.
    async fn give_back(
        &mut self,
        record: &CapsuleRecord,
        error: &anyhow::Error,
        send: &mut quinn::SendStream,
    ) -> anyhow::Result<()> {
        let source = self.source.clone();
        tracing::error!(capsule = %self.capsule.name(), error = format!("{error:#}"), %source, "claimed, but it can't run here: it is given back");
        self.discard().await;
        let (offer, key) =
            (OfferId::from_bytes(crate::random::bytes()), ClaimKey::from_bytes(crate::random::bytes()));
        let directory = self.sidecar.places.directory();
        while let Err(error) =
            directory.offer(record.id, record.generation, offer, source.clone(), key.hash()).await
        {
            if let ClientError::Refused(error) = error {
                bail!("the directory refuses to take it back: {error}");
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        say(send, &ToSource::TakeBack { offer, key, why: format!("{error:#}") }).await
    }

    /// Joins the halves again; returns how many did not within [`ATTACH_WAIT`].
    async fn attach(&mut self) -> u64 {
        let halves = std::mem::take(&mut self.halves);
        let (network, sidecar) = (self.network.clone(), self.sidecar.clone());
        let runs = self.sidecar.data_plane.spawn(async move {
            let settled: Vec<_> = halves
                .into_iter()
                .map(|(arrived, mailbox)| {
                    sockets::activate(&arrived);
                    // A dial may take its time; the others don't wait for it.
                    tokio::spawn(sockets::settle_in(arrived, mailbox, network.clone(), sidecar.table.clone()))
                })
                .collect();
            network.quiet().end();
            tokio::spawn(async move {
                for half in settled {
                    let _ = half.await;
                }
                network.keeper().release(keeper::ARRIVING.into());
            });
        });
        let _ = runs.await;
        let reported = self.report_running();
        lifecycle::watch_exit(&self.sidecar, &self.capsule);
        self.sidecar.arrivals.end(&self.offer);
        let _ = std::fs::remove_dir_all(&self.staged);
        let deadline = Instant::now() + ATTACH_WAIT;
        loop {
            let views = self.sidecar.table.describe(Some(self.capsule.id())).await;
            let waiting = views.iter().filter(|view| view.state == "held").count() as u64;
            if waiting == 0 || Instant::now() > deadline {
                // Who hears that the move is complete sees it so; a directory that is away is not waited for.
                let _ = tokio::time::timeout(REPORT_WAIT, reported).await;
                return waiting;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Tells the directory that it runs, however long that takes.
    fn report_running(&self) -> tokio::task::JoinHandle<()> {
        let (sidecar, capsule) = (self.sidecar.clone(), self.capsule.clone());
        let generation = self.network.generation();
        tokio::spawn(async move {
            let directory = sidecar.places.directory();
            while let Err(ClientError::Away { .. }) =
                directory.set_state(capsule.id(), generation, CapsuleState::Running).await
            {
                tokio::time::sleep(ASK_AGAIN).await;
            }
        })
    }

    /// The move failed: nothing of the capsule stays here.
    async fn discard(&mut self) {
        self.sidecar.arrivals.end(&self.offer);
        for (arrived, _) in std::mem::take(&mut self.halves) {
            self.sidecar.table.remove((arrived.half.id(), arrived.half.role()));
            if let sockets::ArrivedProgram::Open { fd, .. } = &arrived.program {
                let _ = kernel::repair::silence(fd);
            }
        }
        lifecycle::discard(&self.sidecar, &self.capsule).await;
        let _ = std::fs::remove_dir_all(&self.staged);
    }
}

/// Brings links to the peers' hosts up while the capsule still runs at the source.
fn warm_links(sidecar: &Arc<Sidecar>, peers: Vec<HostName>) {
    for host in peers {
        let sidecar = sidecar.clone();
        tokio::spawn(async move {
            if host == sidecar.me {
                return;
            }
            if let Ok(address) = sidecar.places.address_of(&host, None).await {
                let _ = sidecar.links.to(&host, address).await;
            }
        });
    }
}

fn hex(key: &ClaimKey) -> String {
    key.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
