//! What a half does when its time has come.

use overlay_proto::limits::RESET_STALL_MS;
use tokio::time::{Duration, Instant};

use super::super::linger::{Linger, Resetting};
use super::Driver;
use crate::limits::ACCEPT_LOOK_LONGEST;

const RESET_STALL: Duration = Duration::from_millis(RESET_STALL_MS);

impl Driver {
    pub(super) fn on_tick(&mut self) {
        let now = Instant::now();
        if self.hold_ends().is_some_and(|end| end <= now) {
            tracing::info!(session = %self.half.id(), "given up: its other side was away for too long");
            self.away_since = None;
            self.half.peer_gone();
        }
        if self.report_at.is_some_and(|at| at <= now) {
            self.report_at = None;
            self.half.flush_reports();
        }
        if let Some((at, pause)) = self.accept_look.filter(|(at, _)| *at <= now) {
            let pause = (pause * 2).min(ACCEPT_LOOK_LONGEST);
            self.accept_look = Some((at + pause, pause));
            self.routes.look_accepted(self.key(), &self.facts);
        }
        if self.stall_since.is_some_and(|since| since + RESET_STALL <= now) {
            self.stall_since = None;
            self.half.stalled();
        }
        if self.resetting.as_mut().is_some_and(|resetting| resetting.is_due(&self.program, now)) {
            self.resetting = None;
            self.stall_since = None;
            self.failed = true;
            self.outgoing.stop();
            self.program.reset();
            self.half.end_applied();
        }
        self.window.looked(&self.program, now);
        if let Some(linger) = &mut self.linger {
            linger.looked(now);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let accept = self.accept_look.map(|(at, _)| at);
        let stall = self.stall_since.map(|since| since + RESET_STALL);
        let resetting = self.resetting.as_ref().map(Resetting::next);
        let linger = self.linger.as_ref().map(Linger::next);
        let window = self.window.next();
        let look = self.looks.next().into_iter().chain(self.unanswered.next()).min();
        let all = [self.report_at, accept, stall, resetting, linger, window, look, self.hold_ends()];
        all.into_iter().flatten().min()
    }
}

pub(super) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
