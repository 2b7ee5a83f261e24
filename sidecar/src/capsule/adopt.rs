//! Capsules that an earlier sidecar of this host left.
//!
//! Their processes never noticed. Their sessions are taken over: the shim of each capsule holds the sockets and what the
//! earlier sidecar had on record, the kernel knows the rest. First all of them are *recognized*, so that no other host
//! hears that a session is unknown; then each is *taken up* as its journal and the directory say.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use directory_api::CapsuleState;
use overlay_proto::{Generation, OfferId};

use super::file::CapsuleFile;
use super::network::Network;
use super::takeover::Left;
use super::{Capsule, Stage, engine, lifecycle};
use crate::moving::journal::{Decision, Entry, Journal, Processes, first_entry};
use crate::moving::{claimed, superseded, verdict};
use crate::sidecar::Sidecar;
use crate::suspend;

/// Time in which capsules are taken up before the sidecar serves without the rest, which goes on by itself: those for
/// which the directory must be asked can take as long as it is away.
const TAKE_UP_WAIT: Duration = Duration::from_secs(2);

/// A capsule that was found.
pub(crate) struct Found {
    capsule: Arc<Capsule>,
    processes: Processes,
    /// Its network and sessions, if its shim serves.
    live: Option<(Arc<Network>, Left)>,
}

/// Recognizes every capsule in the data directory; with `renew_shims`, shims of this sidecar's own version are replaced
/// by the program on disk as well as others.
pub(crate) async fn recognize_all(sidecar: &Arc<Sidecar>, renew_shims: bool) -> Vec<Found> {
    let Ok(entries) = std::fs::read_dir(sidecar.data.join("capsules")) else { return Vec::new() };
    let mut all = Vec::new();
    for entry in entries.flatten() {
        let directory = entry.path();
        match recognize(sidecar, &directory, renew_shims).await {
            Ok(found) => all.push(found),
            Err(error) => {
                tracing::error!(path = %directory.display(), error = format!("{error:#}"), "a capsule was not recognized");
            }
        }
    }
    all
}

/// Takes up what was recognized, all side by side.
pub(crate) async fn take_up_all(sidecar: &Arc<Sidecar>, found: Vec<Found>) {
    let taking: Vec<_> = found
        .into_iter()
        .map(|found| {
            let sidecar = sidecar.clone();
            tokio::spawn(async move {
                let capsule = found.capsule.clone();
                if let Err(error) = take_up(&sidecar, found).await {
                    tracing::error!(capsule = %capsule.name(), error = format!("{error:#}"), "a capsule was not taken up");
                }
            })
        })
        .collect();
    let all = async {
        for one in taking {
            let _ = one.await;
        }
    };
    if tokio::time::timeout(TAKE_UP_WAIT, all).await.is_err() {
        tracing::warn!("some capsules wait for the directory");
    }
}

/// Recognizes the capsule in a directory, and takes it up.
pub(crate) async fn adopt(sidecar: &Arc<Sidecar>, directory: &Path) -> anyhow::Result<()> {
    let found = recognize(sidecar, directory, false).await?;
    take_up(sidecar, found).await
}

async fn recognize(sidecar: &Arc<Sidecar>, directory: &Path, renew_shim: bool) -> anyhow::Result<Found> {
    let text = std::fs::read(directory.join("capsule.json")).context("reading capsule.json")?;
    let file: CapsuleFile = serde_json::from_slice(&text).context("reading capsule.json")?;
    let capsule = Capsule::adopted(sidecar, file)?;
    sidecar.table.set_unsure(capsule.id(), true);
    let of = capsule.clone();
    let processes = tokio::task::spawn_blocking(move || {
        if let Err(error) = engine::renew_shim(&of, renew_shim) {
            tracing::warn!(capsule = %of.name(), error = format!("{error:#}"), "its shim stays what it is");
        }
        engine::processes(&of)
    })
    .await?;
    let live = match processes {
        Processes::Gone => None,
        _ => {
            let (network, held, records) = lifecycle::find_network(&capsule).await?;
            let left = Left::recognized(sidecar, &network, held, records);
            Some((network, left))
        }
    };
    Ok(Found { capsule, processes, live })
}

async fn take_up(sidecar: &Arc<Sidecar>, found: Found) -> anyhow::Result<()> {
    let Found { capsule, processes, live } = found;
    let _busy = capsule.busy().lock_owned().await;
    let journal = Journal::read(capsule.directory()).context("reading its journal")?;
    let decision = verdict::settle(sidecar, &capsule, &journal, processes).await;
    tracing::info!(capsule = %capsule.name(), ?processes, ?decision, "found");
    // The sessions of these are in the copy that the source keeps.
    let mut unsure = matches!(decision, Decision::Died { .. } | Decision::GiveBack { .. });
    let (network, left) = match live {
        Some((network, left)) => (Some(network), left),
        None => (None, Left::default()),
    };
    match decision {
        Decision::GoOn { generation, withdraw } => {
            go_on(sidecar, &capsule, network.context("its shim is gone")?, left, generation).await?;
            end_offer(sidecar, &capsule, withdraw);
        }
        Decision::Undo { generation, withdraw } => {
            let network = network.context("its shim is gone")?;
            capsule.journal(&Entry::Undone)?;
            left.resume();
            network.in_netns(kernel::rules::unlock).await?;
            let of = capsule.clone();
            tokio::task::spawn_blocking(move || engine::resume(&of)).await??;
            go_on(sidecar, &capsule, network, left, generation).await?;
            end_offer(sidecar, &capsule, withdraw);
        }
        Decision::OpenGate { generation } => {
            let network = network.context("its shim is gone")?;
            unsure = !open_gate(sidecar, &capsule, network, left, &journal, generation).await?;
        }
        Decision::Ended { code, generation, withdraw } => {
            // What its program said last may still be on its way.
            if let Some(network) = network {
                network.in_netns(kernel::rules::unlock).await?;
                left.resume();
                serve(sidecar, &capsule, network, left, generation).await?;
            }
            capsule.set_stage(Stage::Stopped(code));
            let generation = capsule.file().generation;
            let directory = sidecar.places.directory();
            if let Err(error) = directory.set_state(capsule.id(), generation, CapsuleState::Stopped).await {
                tracing::warn!(capsule = %capsule.name(), %error, "the directory was not told that it stopped");
            }
            end_offer(sidecar, &capsule, withdraw);
        }
        Decision::GiveBack { generation, source, key } => {
            left.give_up(sidecar);
            claimed::give_back(sidecar, &capsule, generation, &source, &key).await;
        }
        Decision::PutBack { suspension, generation, key } => {
            left.give_up(sidecar);
            suspend::put_back(sidecar, &capsule, generation, suspension, &key).await;
        }
        Decision::Died { generation } => {
            left.give_up(sidecar);
            claimed::died(sidecar, &capsule, generation).await;
        }
        Decision::Supersede { by } => {
            left.give_up(sidecar);
            superseded::keep(sidecar, &capsule, by).await;
        }
        Decision::Discard => {
            end_anchored(sidecar, &capsule, &journal).await;
            // For good: one that comes after this one need not ask again.
            capsule.journal(&Entry::Removing)?;
            left.give_up(sidecar);
            lifecycle::discard(sidecar, &capsule).await;
            sidecar.capsules.remove(&capsule.id());
        }
        Decision::Ask(_) | Decision::Wait => unreachable!("settled"),
    }
    if !unsure {
        sidecar.table.set_unsure(capsule.id(), false);
    }
    Ok(())
}

/// Its processes run, its connections are alive.
async fn go_on(
    sidecar: &Arc<Sidecar>,
    capsule: &Arc<Capsule>,
    network: Arc<Network>,
    left: Left,
    generation: Option<Generation>,
) -> anyhow::Result<()> {
    serve(sidecar, capsule, network, left, generation).await?;
    capsule.set_stage(Stage::Running);
    lifecycle::watch_exit(sidecar, capsule);
    Ok(())
}

/// Serves its network, and lets its sessions go on.
async fn serve(
    sidecar: &Arc<Sidecar>,
    capsule: &Arc<Capsule>,
    network: Arc<Network>,
    mut left: Left,
    generation: Option<Generation>,
) -> anyhow::Result<()> {
    if let Some(generation) = generation {
        network.set_generation(generation);
        capsule.set_generation(generation)?;
    }
    lifecycle::intercept(sidecar, &network, left.inherited()).await?;
    left.drive(sidecar, &network).await;
    Ok(())
}

/// It stands at the gate, and is this host's. False if it could not go on, and its sessions are in what it came from.
async fn open_gate(
    sidecar: &Arc<Sidecar>,
    capsule: &Arc<Capsule>,
    network: Arc<Network>,
    left: Left,
    journal: &Journal,
    generation: Generation,
) -> anyhow::Result<bool> {
    network.set_generation(generation);
    capsule.set_generation(generation)?;
    crate::faults::reach("adopt-thaw")?;
    capsule.journal(&Entry::Thawed { generation })?;
    network.in_netns(kernel::rules::unlock).await?;
    let of = capsule.clone();
    if let Err(error) = tokio::task::spawn_blocking(move || engine::open_gate(&of)).await? {
        tracing::error!(capsule = %capsule.name(), error = format!("{error:#}"), "the gate does not open");
        left.give_up(sidecar);
        // One that was thawed before may have made steps.
        match journal {
            Journal::Key { key, source, .. } => {
                claimed::give_back(sidecar, capsule, generation, source, key).await;
            }
            Journal::Resuming { suspension, key, .. } => {
                suspend::put_back(sidecar, capsule, generation, *suspension, key).await;
                return Ok(true);
            }
            _ => claimed::died(sidecar, capsule, generation).await,
        }
        return Ok(false);
    }
    go_on(sidecar, capsule, network, left, None).await?;
    drop(claimed::report_running(sidecar, capsule, generation));
    Ok(true)
}

/// Does what its move had not done when its sidecar ended: the connections that left from this host end, unless it is to
/// carry them on.
async fn end_anchored(sidecar: &Sidecar, capsule: &Capsule, journal: &Journal) {
    let left = matches!(journal, Journal::KeySent { .. });
    let begun = first_entry(capsule.directory());
    if left && matches!(begun, Some(Entry::Offered { keep_anchored: false, .. })) {
        let outlet = &sidecar.around.outward.outlet;
        let ended = outlet.end_those_of(capsule.id(), &sidecar.table).await;
        tracing::info!(capsule = %capsule.name(), ended, "connections that left from this host");
    }
}

fn end_offer(sidecar: &Arc<Sidecar>, capsule: &Arc<Capsule>, offer: Option<OfferId>) {
    if let Some(offer) = offer {
        tokio::spawn(verdict::withdraw(sidecar.clone(), capsule.clone(), offer));
    }
}
