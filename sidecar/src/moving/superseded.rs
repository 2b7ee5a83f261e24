//! Copies of capsules that go on elsewhere although this host never gave them away.
//!
//! An operator declared this host gone, and took a capsule over elsewhere or removed the host. When this host learns of
//! it (by the watch, by the answer to its lease, or when a sidecar starts), it freezes its copy, speaks for the capsule
//! no more, says so, and keeps the copy: it may hold the only data. A person removes it (`capsule rm --local`) or goes on
//! from it (`capsule recover`).

use std::sync::Arc;
use std::time::Duration;

use admin_api::ErrorView;
use admin_api::result::RmResult;
use directory_api::TakeoverFrom;
use overlay_proto::{CapsuleId, Generation};

use super::journal::{Decision, Entry, Journal, Processes, Question, decide};
use super::verdict::{self, Taken, Takeover};
use crate::capsule::{Capsule, Stage, adopt, engine, lifecycle};
use crate::sidecar::Sidecar;

/// Longest time between looks when nothing was heard.
const LOOK_AT_LEAST: Duration = Duration::from_secs(60);

/// Looks after every change that the directory tells of, for the life of the sidecar.
pub(crate) async fn follow(sidecar: Arc<Sidecar>) {
    loop {
        for capsule in sidecar.capsules.all() {
            let placed = sidecar.places.capsule(&capsule.id());
            let elsewhere = placed.is_some_and(|record| {
                record.host != sidecar.me && record.generation > capsule.file().generation
            });
            if elsewhere {
                look_at(&sidecar, &capsule).await;
            }
        }
        sidecar.places.changed_or(LOOK_AT_LEAST).await;
    }
}

/// The directory said that this host holds a capsule wrongly.
pub(crate) async fn heard_of(sidecar: &Arc<Sidecar>, id: &CapsuleId) {
    if let Some(capsule) = sidecar.capsules.get(id) {
        look_at(sidecar, &capsule).await;
    }
}

/// This host is no longer one of the mesh: whatever runs here may be taken over without its hearing of it.
pub(crate) async fn removed_from_mesh(sidecar: &Arc<Sidecar>) {
    for capsule in sidecar.capsules.all().into_iter().filter(|capsule| may_be_superseded(capsule)) {
        if let Ok(_busy) = capsule.busy().try_lock_owned() {
            keep(sidecar, &capsule, None).await;
        }
    }
}

fn may_be_superseded(capsule: &Capsule) -> bool {
    matches!(capsule.stage(), Stage::Running | Stage::Stopped(_) | Stage::Died)
}

/// Asks the directory itself before anything is frozen; what moves, starts or stops is looked at when that is over.
async fn look_at(sidecar: &Arc<Sidecar>, capsule: &Arc<Capsule>) {
    if !may_be_superseded(capsule) {
        return;
    }
    let Ok(_busy) = capsule.busy().try_lock_owned() else { return };
    let answer = verdict::ask(sidecar, capsule.id(), &Question::Lookup, None).await;
    let own = capsule.file().generation;
    if let Decision::Supersede { by } = decide(&Journal::Quiet, Processes::Running, own, Some(&answer)) {
        keep(sidecar, capsule, by).await;
    }
}

/// Freezes a copy and keeps it. Goes on past failures: nothing of it may run or speak.
pub(crate) async fn keep(sidecar: &Arc<Sidecar>, capsule: &Arc<Capsule>, by: Option<Generation>) {
    let (name, own) = (capsule.name(), capsule.file().generation);
    if let Err(error) = capsule.journal(&Entry::Superseded { generation: by }) {
        tracing::error!(capsule = %name, error = format!("{error:#}"), "that is not in its journal");
    }
    capsule.set_stage(Stage::Superseded { by });
    let of = capsule.clone();
    let frozen = tokio::task::spawn_blocking(move || match engine::processes(&of) {
        Processes::Running => engine::pause(&of),
        Processes::Frozen
        | Processes::AtGate
        | Processes::Unfinished
        | Processes::Exited(_)
        | Processes::Gone => Ok(()),
    });
    let newer = by.map(Generation::number);
    match frozen.await {
        Ok(Ok(())) => {
            tracing::error!(capsule = %name, generation = %own, ?newer, "superseded: it goes on elsewhere; the copy here is frozen and kept until capsule rm --local");
        }
        Ok(Err(error)) => {
            tracing::error!(capsule = %name, generation = %own, ?newer, error = format!("{error:#}"), "superseded: it goes on elsewhere, and the copy here was not frozen: capsule rm --local ends it");
        }
        Err(error) => {
            tracing::error!(capsule = %name, %error, "superseded, and nobody knows whether it is frozen")
        }
    }
    // Its shim keeps the sockets, and what is on record of them, as after the end of a sidecar.
    for half in sidecar.table.park(capsule.id()).await {
        sidecar.table.remove((half.half.id(), half.half.role()));
    }
    if let Some(network) = sidecar.networks.of(&capsule.id()) {
        if let Err(error) = network.in_netns(kernel::rules::lock).await {
            tracing::error!(capsule = %name, %error, "the network of a superseded copy was not locked");
        }
        sidecar.networks.remove(&capsule.id());
    }
}

/// The superseded copy of this name on this host.
fn of_name(sidecar: &Sidecar, name: &str) -> Option<Arc<Capsule>> {
    let superseded = |capsule: &Arc<Capsule>| capsule.name().as_str() == name && is_superseded(capsule);
    sidecar.capsules.all().into_iter().find(superseded)
}

/// Whether this is a copy of a capsule that goes on elsewhere.
pub(crate) fn is_superseded(capsule: &Capsule) -> bool {
    matches!(capsule.stage(), Stage::Superseded { .. })
}

/// Removes a superseded copy, by a person's word.
///
/// # Errors
/// There is none.
pub(crate) async fn remove(sidecar: &Arc<Sidecar>, name: &str) -> Result<RmResult, ErrorView> {
    let capsule = of_name(sidecar, name).ok_or_else(|| {
        ErrorView::new("rm/no-copy", format!("host {} keeps no superseded copy of {name}", sidecar.me))
            .next(format!("capsule rm {name} removes the capsule itself, wherever it is"))
    })?;
    tracing::warn!(capsule = %name, "a superseded copy is removed");
    let _ = capsule.journal(&Entry::Removing);
    lifecycle::discard(sidecar, &capsule).await;
    sidecar.capsules.remove(&capsule.id());
    Ok(RmResult { capsule: name.to_owned(), id: Some(capsule.id().to_string()), sessions_ended: 0 })
}

/// Goes on from a superseded copy, by a person's word: takes the capsule over, and takes the copy up as a new sidecar
/// would.
pub(crate) async fn revive(
    sidecar: &Arc<Sidecar>,
    capsule: &Arc<Capsule>,
    takeover: Takeover,
) -> anyhow::Result<Taken> {
    let _busy = capsule.busy().lock_owned().await;
    let record = match verdict::take_over(sidecar, capsule, takeover, TakeoverFrom::Kept).await {
        Ok(record) => record,
        refused => return Ok(refused),
    };
    capsule.journal(&Entry::Undone)?;
    capsule.set_generation(record.generation)?;
    sidecar.capsules.remove(&capsule.id());
    adopt::adopt(sidecar, capsule.directory()).await?;
    Ok(Ok(record))
}
