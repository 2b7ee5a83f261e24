//! What a target does with a capsule that it has claimed: it says that it runs, or gives it back to the source, which
//! keeps its frozen copy until then.

use std::sync::Arc;
use std::time::Duration;

use directory_api::{ApiError, CapsuleRecord, CapsuleState, ClientError, LookupKey, OfferRecord};
use overlay_proto::{ClaimKey, Generation, HostName, OfferId};

use super::journal::{Entry, Journal};
use super::verdict::is_final;
use crate::capsule::{Capsule, Stage, lifecycle};
use crate::sidecar::Sidecar;

/// Pause between calls to a directory that does not answer.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// Tells the directory that it runs, however long that takes.
pub(crate) fn report_running(
    sidecar: &Arc<Sidecar>,
    capsule: &Arc<Capsule>,
    generation: Generation,
) -> tokio::task::JoinHandle<()> {
    let (sidecar, capsule) = (sidecar.clone(), capsule.clone());
    tokio::spawn(async move {
        if !reported(&sidecar, &capsule, generation, CapsuleState::Running).await {
            return;
        }
        // If it has begun to leave, the journal is about that.
        let thawed = Journal::Thawed { generation, reported: false };
        if Journal::read(capsule.directory()).is_ok_and(|journal| journal == thawed)
            && let Err(error) = capsule.journal(&Entry::Reported)
        {
            tracing::warn!(capsule = %capsule.name(), error = format!("{error:#}"), "its report is not in its journal");
        }
    })
}

/// It is gone, and can't be given back: it may have made steps here, or its host is gone. What it came from, the source's
/// frozen copy or a file, serves a takeover by a person.
pub(crate) async fn died(sidecar: &Arc<Sidecar>, capsule: &Arc<Capsule>, generation: Generation) {
    tracing::error!(capsule = %capsule.name(), %generation, "it is this host's, and is gone: capsule recover goes on from what it came from, the copy that its source keeps or its file");
    sidecar.table.set_unsure(capsule.id(), true);
    lifecycle::close(sidecar, capsule).await;
    capsule.set_stage(Stage::Died);
    let (reporter, of) = (sidecar.clone(), capsule.clone());
    tokio::spawn(async move { reported(&reporter, &of, generation, CapsuleState::Lost).await });
    // Until it is another host's, or this one's again by a takeover, whose sessions are in the table before its claim.
    let (sidecar, id) = (sidecar.clone(), capsule.id());
    tokio::spawn(async move {
        let over = |record: Option<&CapsuleRecord>| {
            record.is_none_or(|record| record.host != sidecar.me || record.generation > generation)
        };
        sidecar.places.wait_until(&id, over).await;
        sidecar.table.set_unsure(id, false);
    });
}

/// Whether the directory noted it; if not, the capsule is no longer this host's.
async fn reported(sidecar: &Sidecar, capsule: &Capsule, generation: Generation, state: CapsuleState) -> bool {
    loop {
        match sidecar.places.directory().set_state(capsule.id(), generation, state).await {
            Ok(_) => return true,
            Err(ClientError::Refused(refusal)) if is_final(&refusal) => return false,
            Err(_) => tokio::time::sleep(ASK_AGAIN).await,
        }
    }
}

/// Destroys what is here of a claimed capsule, and then offers it to `source`, however long that takes. The key is that
/// of the claim, so that the source recognizes the offer and can claim without being told more.
pub(crate) async fn give_back(
    sidecar: &Arc<Sidecar>,
    capsule: &Arc<Capsule>,
    generation: Generation,
    source: &HostName,
    key: &ClaimKey,
) {
    tracing::error!(capsule = %capsule.name(), %generation, %source, "claimed, but it can't run here: it is given back");
    if let Err(error) = capsule.journal(&Entry::GivingBack { generation }) {
        tracing::error!(capsule = %capsule.name(), error = format!("{error:#}"), "giving it back is not in its journal");
    }
    sidecar.table.set_unsure(capsule.id(), true);
    lifecycle::close(sidecar, capsule).await;
    while !offered(sidecar, capsule, generation, source, key).await {
        tokio::time::sleep(ASK_AGAIN).await;
    }
    // The journal goes with it, so this is last.
    lifecycle::discard(sidecar, capsule).await;
    sidecar.capsules.remove(&capsule.id());
    // The directory places it here until the source has claimed it; its sessions are there.
    let (sidecar, id) = (sidecar.clone(), capsule.id());
    tokio::spawn(async move {
        let me = sidecar.me.clone();
        let elsewhere = move |record: Option<&CapsuleRecord>| record.is_none_or(|record| record.host != me);
        sidecar.places.wait_until(&id, elsewhere).await;
        sidecar.table.set_unsure(id, false);
    });
}

/// Whether the source can claim it, or it is no longer this host's to offer.
async fn offered(
    sidecar: &Sidecar,
    capsule: &Capsule,
    generation: Generation,
    source: &HostName,
    key: &ClaimKey,
) -> bool {
    let directory = sidecar.places.directory();
    let offer = OfferId::from_bytes(crate::random::bytes());
    match directory.offer(capsule.id(), generation, offer, source.clone(), key.hash()).await {
        Ok(record) => {
            sidecar.places.take(record);
            return true;
        }
        Err(ClientError::Refused(ApiError::OfferPending { .. })) => {}
        Err(ClientError::Refused(refusal)) if is_final(&refusal) => {
            tracing::info!(capsule = %capsule.name(), %refusal, "it is no longer this host's to give back");
            return true;
        }
        Err(error) => {
            tracing::warn!(capsule = %capsule.name(), %error, "not given back yet");
            return false;
        }
    }
    // An earlier try was carried out, unless somebody made another offer.
    match directory.lookup(LookupKey::Id(capsule.id())).await {
        Ok(record) => {
            let ours = |offer: OfferRecord| offer.target == *source && offer.claim_key_hash == key.hash();
            record.host != sidecar.me || record.offer.is_some_and(ours)
        }
        Err(_) => false,
    }
}
