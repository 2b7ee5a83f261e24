//! Bringing a capsule up on a host, from connections and image up to the gate and beyond: what a move and a resume have
//! in common.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use overlay_proto::{Generation, HostName};
use tokio::sync::mpsc;

use super::claimed;
use super::image::MemoryDirectory;
use super::journal::{Entry, Processes};
use super::phases::ms;
use super::sockets::{self, Arrived, HalfImage, held_as};
use crate::capsule::network::Network;
use crate::capsule::resolver::Travelling;
use crate::capsule::{Capsule, Stage, engine, keeper, lifecycle};
use crate::session::{Event, SessionView};
use crate::sidecar::Sidecar;

/// Time that the restored sessions may take to attach before it is told how many did.
const ATTACH_WAIT: Duration = Duration::from_secs(3);

/// Time that the directory gets to note that the capsule runs before it is called complete.
const REPORT_WAIT: Duration = Duration::from_secs(1);

/// A capsule that is coming to this host.
pub(crate) struct Landing {
    sidecar: Arc<Sidecar>,
    capsule: Arc<Capsule>,
    network: Arc<Network>,
    staged: PathBuf,
    image: MemoryDirectory,
    halves: Vec<(Arrived, mpsc::Receiver<Event>)>,
}

impl Landing {
    /// Makes all that needs nothing of the capsule yet: the folder for base files, memory for the image, a locked
    /// network. If it fails, the caller discards the capsule.
    pub(crate) async fn make(
        sidecar: Arc<Sidecar>,
        capsule: Arc<Capsule>,
        staged: PathBuf,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&staged)?;
        let image = MemoryDirectory::of(&capsule)?;
        engine::prepare_restore(&capsule)?;
        let network = lifecycle::open_network(&sidecar, &capsule, true).await?;
        Ok(Self { sidecar, capsule, network, staged, image, halves: Vec::new() })
    }

    /// Where the files of the image belong.
    pub(crate) fn image(&self) -> &Path {
        self.image.path()
    }

    /// Where base files that differ belong.
    pub(crate) fn staged(&self) -> &Path {
        &self.staged
    }

    /// Sessions that came along.
    pub(crate) fn sessions(&self) -> u64 {
        self.halves.len() as u64
    }

    /// Rebuilds the capsule's connections, silent behind the lock.
    pub(crate) async fn rebuild(&mut self, blob: &[u8]) -> anyhow::Result<()> {
        // Should this sidecar end while the capsule stands at the gate, the next one has all that this one knows.
        let file = crate::session::file_of(blob)?;
        self.network.keeper().hold(keeper::ARRIVING, file.as_fd()).await?;
        let images: Vec<HalfImage> = postcard::from_bytes(blob).context("reading the sessions")?;
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

    /// Takes what the capsule's programs were asking their resolver: it is answered when they run.
    pub(crate) async fn lookups(&self, lookups: Travelling) {
        let network = self.network.clone();
        self.network.in_netns(move || network.lookups().arrive(lookups)).await;
    }

    /// Restores the processes up to the gate.
    pub(crate) async fn restore(&mut self) -> anyhow::Result<Duration> {
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

    /// Takes the lock off and opens the gate; the directory has placed the capsule here at `generation`.
    pub(crate) async fn thaw(&mut self, generation: Generation) -> Result<(), Stuck> {
        crate::faults::reach("target-claimed").map_err(|fault| Stuck::AtGate(fault.into()))?;
        self.network.set_generation(generation);
        self.capsule.set_generation(generation).map_err(Stuck::AtGate)?;
        self.capsule.journal(&Entry::Thawed { generation }).map_err(Stuck::AtGate)?;
        crate::faults::reach("target-thaw").map_err(|fault| Stuck::AtGate(fault.into()))?;
        let unlocked = self.network.in_netns(kernel::rules::unlock).await;
        unlocked.map_err(|error| Stuck::AtGate(error.into()))?;
        let capsule = self.capsule.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let opened = engine::open_gate(&capsule);
            (opened, engine::processes(&capsule))
        });
        match opened.await {
            Ok((Ok(()), _) | (Err(_), Processes::Running | Processes::Frozen)) => {}
            Ok((Err(error), Processes::AtGate)) => return Err(Stuck::AtGate(error)),
            Ok((Err(error), _)) => return Err(Stuck::Unknown(error)),
            Err(error) => return Err(Stuck::Unknown(error.into())),
        }
        self.capsule.set_stage(Stage::Running);
        crate::faults::reach("target-running").map_err(|fault| Stuck::Unknown(fault.into()))
    }

    /// Joins the halves again; returns how many did not within [`ATTACH_WAIT`].
    pub(crate) async fn attach(&mut self) -> u64 {
        let mut halves = std::mem::take(&mut self.halves);
        let (network, sidecar) = (self.network.clone(), self.sidecar.clone());
        let runs = self.sidecar.data_plane.spawn(async move {
            let halves = network
                .in_netns(move || {
                    halves.iter_mut().for_each(|(arrived, _)| sockets::activate(arrived));
                    halves
                })
                .await;
            let settled: Vec<_> = halves
                .into_iter()
                .map(|(arrived, mailbox)| {
                    // A dial may take its time; the others don't wait for it.
                    tokio::spawn(sockets::settle_in(arrived, mailbox, network.clone(), sidecar.table.clone()))
                })
                .collect();
            network.quiet().end();
            sidecar.around.datagrams.release(&network);
            let asking = network.clone();
            network.in_netns(move || asking.lookups().release()).await;
            tokio::spawn(async move {
                for half in settled {
                    let _ = half.await;
                }
                network.keeper().release(keeper::ARRIVING.into());
            });
        });
        let _ = runs.await;
        let generation = self.network.generation();
        let reported = claimed::report_running(&self.sidecar, &self.capsule, generation);
        lifecycle::watch_exit(&self.sidecar, &self.capsule);
        let _ = std::fs::remove_dir_all(&self.staged);
        let deadline = Instant::now() + ATTACH_WAIT;
        loop {
            let views = self.sidecar.table.describe(Some(self.capsule.id())).await;
            let suspended = |peer| {
                let record = self.sidecar.places.capsule(&peer);
                record.is_some_and(|record| record.suspension.is_some())
            };
            // A peer that lies in a file is away for as long as it lies there.
            let held = |view: &&SessionView| view.state == "held" && !suspended(view.facts.peer);
            let waiting = views.iter().filter(held).count() as u64;
            if waiting == 0 || Instant::now() > deadline {
                // Who hears that the move is complete sees it so; a directory that is away is not waited for.
                let _ = tokio::time::timeout(REPORT_WAIT, reported).await;
                return waiting;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// What came does not go on here.
    pub(crate) fn forget(&mut self) {
        for (arrived, _) in std::mem::take(&mut self.halves) {
            self.sidecar.table.remove((arrived.half.id(), arrived.half.role()));
            if let sockets::ArrivedProgram::Open { fd, .. } = &arrived.program {
                let _ = kernel::repair::silence(fd);
            }
        }
        let _ = std::fs::remove_dir_all(&self.staged);
    }
}

/// Why a claimed capsule does not run.
pub(crate) enum Stuck {
    /// It has made no step.
    AtGate(anyhow::Error),
    /// It may have.
    Unknown(anyhow::Error),
}

/// Brings links to the hosts of a capsule's peers up before its sessions attach.
pub(crate) fn warm_links(sidecar: &Arc<Sidecar>, peers: Vec<HostName>) {
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
