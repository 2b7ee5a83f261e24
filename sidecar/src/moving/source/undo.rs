//! Back to how it was, and what a person is told.

use admin_api::ErrorView;
use admin_api::result::Level;

use super::{Departure, Refused, Undone};
use crate::moving::journal::Entry;
use crate::moving::verdict::withdraw;

impl Departure {
    /// Back to how it was, in reverse; goes on past failures.
    pub(super) async fn undo(&mut self) {
        let _ = self.send.reset(quinn::VarInt::from_u32(0));
        let _ = self.receive.stop(quinn::VarInt::from_u32(0));
        if (self.done.offered || self.done.key_sent)
            && let Err(error) = self.capsule.journal(&Entry::Undone)
        {
            tracing::error!(capsule = %self.capsule.name(), error = format!("{error:#}"), "its going on is not in its journal");
        }
        crate::faults::pass("undo");
        self.still.undo().await;
        if self.done.offered {
            tokio::spawn(withdraw(self.sidecar.clone(), self.capsule.clone(), self.offer));
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
