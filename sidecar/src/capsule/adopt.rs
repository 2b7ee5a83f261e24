//! Capsules that an earlier sidecar of this host left running.
//!
//! Their processes never noticed. Their sessions are taken over: the shim of each capsule holds the sockets and what the
//! earlier sidecar had on record, the kernel knows the rest.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use directory_api::{ApiError, CapsuleState, ClientError, Outcome};
use overlay_proto::OfferId;

use super::file::CapsuleFile;
use super::{Capsule, Stage, engine, lifecycle};
use crate::sidecar::Sidecar;

/// Takes up every capsule in the data directory.
pub(crate) async fn adopt_all(sidecar: &Arc<Sidecar>) {
    let Ok(entries) = std::fs::read_dir(sidecar.data.join("capsules")) else { return };
    for entry in entries.flatten() {
        let directory = entry.path();
        if let Err(error) = adopt(sidecar, &directory).await {
            tracing::warn!(path = %directory.display(), error = format!("{error:#}"), "a capsule was not taken up");
        }
    }
}

async fn adopt(sidecar: &Arc<Sidecar>, directory: &Path) -> anyhow::Result<()> {
    let text = std::fs::read(directory.join("capsule.json")).context("reading capsule.json")?;
    let file: CapsuleFile = serde_json::from_slice(&text).context("reading capsule.json")?;
    let name = file.name.clone();
    let capsule = Capsule::adopted(sidecar, file)?;
    let placed = sidecar.places.directory().lookup(directory_api::LookupKey::Id(capsule.id())).await;
    let here = match placed {
        Ok(record) => {
            sidecar.places.take(record.clone());
            record.host == sidecar.me
        }
        Err(ClientError::Refused(ApiError::UnknownCapsule { .. })) => false,
        // Without the directory nothing is destroyed.
        Err(_) => true,
    };
    let of = capsule.clone();
    let found = tokio::task::spawn_blocking(move || engine::find(&of)).await?;
    if !here || matches!(found, engine::Found::HalfRestored) {
        tracing::info!(capsule = %name, "a copy that is not placed here is removed");
        lifecycle::discard(sidecar, &capsule).await;
        sidecar.capsules.remove(&capsule.id());
        return Ok(());
    }
    match found {
        engine::Found::Running { frozen } => {
            let (network, left) = lifecycle::reopen_network(sidecar, &capsule).await?;
            if frozen && !may_go_on(sidecar, &capsule).await {
                tracing::info!(capsule = %name, "it was moved: the copy here is removed");
                lifecycle::discard(sidecar, &capsule).await;
                sidecar.capsules.remove(&capsule.id());
                return Ok(());
            }
            left.resume();
            network.in_netns(kernel::rules::unlock).await?;
            let of = capsule.clone();
            tokio::task::spawn_blocking(move || engine::resume(&of)).await??;
            left.drive(sidecar, &network).await;
            capsule.set_stage(Stage::Running);
            lifecycle::watch_exit(sidecar, &capsule);
            tracing::info!(capsule = %name, "taken up");
        }
        engine::Found::Stopped(code) => {
            // What its program said last may still be on its way.
            if let Ok((network, left)) = lifecycle::reopen_network(sidecar, &capsule).await {
                left.drive(sidecar, &network).await;
            }
            capsule.set_stage(Stage::Stopped(code));
            let generation = capsule.file().generation;
            let _ =
                sidecar.places.directory().set_state(capsule.id(), generation, CapsuleState::Stopped).await;
        }
        engine::Found::HalfRestored => {}
    }
    Ok(())
}

/// A frozen capsule was on its way. Only the directory can say whether it has arrived.
async fn may_go_on(sidecar: &Arc<Sidecar>, capsule: &Arc<Capsule>) -> bool {
    let journal = std::fs::read_to_string(capsule.directory().join("journal")).unwrap_or_default();
    let sent = journal.lines().rev().find_map(|line| line.strip_prefix("key sent "));
    let Some(offer) = sent.and_then(|offer| offer.parse::<OfferId>().ok()) else { return true };
    loop {
        match sidecar.places.directory().revoke(capsule.id(), offer).await {
            Ok(record) => {
                let _ = capsule.set_generation(record.generation);
                sidecar.places.take(record);
                return true;
            }
            Err(ClientError::Refused(ApiError::OfferEnded { outcome })) => {
                return outcome.outcome == Outcome::Revoked;
            }
            Err(ClientError::Refused(_)) => return true,
            Err(error) => {
                tracing::warn!(capsule = %capsule.name(), %error, "frozen until the directory answers");
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
        }
    }
}
