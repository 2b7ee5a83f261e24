//! Back to how it was, and what a person is told.

use std::sync::Arc;

use admin_api::ErrorView;
use admin_api::result::Level;
use directory_api::ClientError;
use overlay_proto::OfferId;

use super::{ASK_AGAIN, Departure, Refused, Undone};
use crate::capsule::network::Network;
use crate::capsule::Capsule;
use crate::sidecar::Sidecar;

impl Departure {
    /// Back to how it was, in reverse; goes on past failures.
    pub(super) async fn undo(&mut self) {
        let _ = self.send.reset(quinn::VarInt::from_u32(0));
        let _ = self.receive.stop(quinn::VarInt::from_u32(0));
        self.still.undo().await;
        if self.done.offered {
            tokio::spawn(withdraw(
                self.sidecar.clone(),
                self.capsule.clone(),
                self.network.clone(),
                self.offer,
            ));
        }
    }

    pub(super) fn failed(&self, error: &anyhow::Error) -> ErrorView {
        if let Some(Refused(checks)) = error.downcast_ref::<Refused>() {
            let failed: Vec<_> = checks.iter().filter(|check| check.level == Level::Fail).collect();
            let why: Vec<_> = failed.iter().map(|check| check.evidence.as_str()).collect();
            let mut view = self.stays_view("move/refused").why(why.join("; ")).next(format!(
                "mend that, then: capsule preflight {} --to {}",
                self.capsule.name(),
                self.target
            ));
            for check in failed {
                view = view.detail(check.code.clone(), check.evidence.clone(), check.remedy.clone());
            }
            return view;
        }
        if error.downcast_ref::<Undone>().is_some() {
            return self.stays_view("move/cancelled").why("it was cancelled before the commit");
        }
        self.stays("move/failed", error)
    }

    pub(super) fn stays_view(&self, code: &str) -> ErrorView {
        ErrorView::new(code, format!("{} stays on {} and runs", self.capsule.name(), self.sidecar.me))
    }

    pub(super) fn stays(&self, code: &str, error: &anyhow::Error) -> ErrorView {
        self.stays_view(code).why(format!("{error:#}")).next(format!(
            "capsule preflight {} --to {} looks closer",
            self.capsule.name(),
            self.target
        ))
    }
}

/// Ends an offer that nobody can claim, since its key was never sent; the directory may be away for a while.
async fn withdraw(sidecar: Arc<Sidecar>, capsule: Arc<Capsule>, network: Arc<Network>, offer: OfferId) {
    loop {
        match sidecar.places.directory().revoke(capsule.id(), offer).await {
            Ok(record) => {
                network.set_generation(record.generation);
                if let Err(error) = capsule.set_generation(record.generation) {
                    tracing::error!(error = format!("{error:#}"), "its generation was not written down");
                }
                sidecar.places.take(record);
                return;
            }
            Err(ClientError::Refused(error)) => {
                tracing::warn!(capsule = %capsule.name(), %error, "the offer was not withdrawn");
                return;
            }
            Err(_) => tokio::time::sleep(ASK_AGAIN).await,
        }
    }
}
