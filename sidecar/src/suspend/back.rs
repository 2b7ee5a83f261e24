//! A capsule that was resumed and can't run here lies in its file again.

use std::sync::Arc;
use std::time::Duration;

use directory_api::ClientError;
use overlay_proto::{ClaimKey, Generation, OfferId};

use crate::assertion::Decided;
use crate::capsule::{Capsule, lifecycle};
use crate::moving::journal::Entry;
use crate::moving::verdict::is_final;
use crate::sidecar::Sidecar;

/// Pause between calls to a directory that does not answer.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// Destroys what is here of a resumed capsule, and then makes its file good again, however long that takes.
pub(crate) async fn put_back(
    sidecar: &Arc<Sidecar>,
    capsule: &Arc<Capsule>,
    generation: Generation,
    suspension: OfferId,
    key: &ClaimKey,
) {
    tracing::error!(capsule = %capsule.name(), %generation, "resumed, but it can't run here: it lies in its file again");
    if let Err(error) = capsule.journal(&Entry::GivingBack { generation }) {
        tracing::error!(capsule = %capsule.name(), error = format!("{error:#}"), "putting it back is not in its journal");
    }
    lifecycle::close(sidecar, capsule).await;
    loop {
        let directory = sidecar.places.directory();
        let deciding = sidecar.assertions.deciding().await;
        let answer = directory.suspend(capsule.id(), generation, suspension, key.hash()).await;
        if answer.is_ok() {
            capsule.decide(Decided::Gone);
        }
        drop(deciding);
        match answer {
            Ok(record) => {
                sidecar.places.take(record);
                break;
            }
            Err(ClientError::Refused(refusal)) if is_final(&refusal) => {
                tracing::info!(capsule = %capsule.name(), %refusal, "it is no longer this host's to put back");
                break;
            }
            Err(error) => {
                tracing::warn!(capsule = %capsule.name(), %error, "not put back yet");
                tokio::time::sleep(ASK_AGAIN).await;
            }
        }
    }
    // The journal goes with it, so this is last.
    lifecycle::discard(sidecar, capsule).await;
    sidecar.capsules.remove(&capsule.id());
}
