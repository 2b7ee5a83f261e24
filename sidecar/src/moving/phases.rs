//! The phases of a move, their names and their times.

use std::time::Instant;

use admin_api::result::Phases;
use admin_api::{Frame, Progress, RunState};

use crate::admin::Output;

/// The phases in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The target is asked whether it can take the capsule.
    Preflight,
    /// Private and differing base files go ahead while the capsule runs.
    Files,
    /// New connections wait; those that no program has accepted are waited for.
    Quiesce,
    /// Both sides of every session agree on amounts and stop sending.
    Hold,
    /// The processes are frozen.
    Pause,
    /// What is on its way inside the capsule's network arrives.
    Settle,
    /// Nothing arrives in the capsule's network any more.
    Lock,
    /// The sidecar's ends of all connections are captured.
    Snapshot,
    /// CRIU writes the processes' image.
    Dump,
    /// The image and the last private files go over.
    Transfer,
    /// The file of a suspended capsule is written.
    Write,
    /// The target rebuilds connections and processes, up to the gate.
    Restore,
    /// The target claims the capsule: the commit.
    Claim,
    /// The directory notes that the capsule lies in its file: the commit of a suspend.
    Commit,
    /// The target opens the gate.
    Thaw,
    /// The halves of all sessions are joined again.
    Attach,
    /// The source destroys its copy.
    Release,
}

impl Phase {
    /// The word shown, and the key in `phases_ms`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Files => "files",
            Self::Quiesce => "quiesce",
            Self::Hold => "hold",
            Self::Pause => "pause",
            Self::Settle => "settle",
            Self::Lock => "lock",
            Self::Snapshot => "snapshot",
            Self::Dump => "dump",
            Self::Transfer => "transfer",
            Self::Write => "write",
            Self::Restore => "restore",
            Self::Claim => "claim",
            Self::Commit => "commit",
            Self::Thaw => "thaw",
            Self::Attach => "attach",
            Self::Release => "release",
        }
    }

    /// Whether this phase may be cut short at any await: it waits for others, and nothing is lost with it.
    pub(crate) fn can_be_left(self) -> bool {
        match self {
            Self::Preflight
            | Self::Files
            | Self::Quiesce
            | Self::Hold
            | Self::Transfer
            | Self::Write
            | Self::Restore => true,
            Self::Pause
            | Self::Settle
            | Self::Lock
            | Self::Snapshot
            | Self::Dump
            | Self::Claim
            | Self::Commit
            | Self::Thaw
            | Self::Attach
            | Self::Release => false,
        }
    }

    /// Whether the program stands still in this phase.
    fn is_paused(self) -> bool {
        (Self::Pause..Self::Attach).contains(&self)
    }
}

/// Times of a move, and what its client is told of them.
pub(crate) struct Clock {
    began: Instant,
    paused: Option<Instant>,
    running: Option<Instant>,
    phases: Vec<(&'static str, f64)>,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { began: Instant::now(), paused: None, running: None, phases: Vec::new() }
    }

    /// The program is about to be frozen.
    pub(crate) fn pause(&mut self) {
        self.paused = Some(Instant::now());
    }

    /// The program runs at the target.
    pub(crate) fn running(&mut self) {
        self.running = Some(Instant::now());
    }

    /// Notes the end of a phase.
    pub(crate) fn finish(&mut self, phase: Phase, began: Instant) {
        self.phases.push((phase.word(), ms(began.elapsed())));
    }

    /// Notes a phase that the target timed.
    pub(crate) fn note(&mut self, phase: Phase, milliseconds: f64) {
        self.phases.push((phase.word(), milliseconds));
    }

    pub(crate) fn phases(&self) -> Phases {
        self.phases.iter().copied().collect()
    }

    pub(crate) fn blackout_ms(&self) -> f64 {
        match (self.paused, self.running) {
            (Some(paused), Some(running)) => ms(running.duration_since(paused)),
            _ => 0.0,
        }
    }

    pub(crate) fn duration_ms(&self) -> f64 {
        ms(self.began.elapsed())
    }

    /// What the client is told when a phase begins (`finished_ms` is none) or ended.
    pub(crate) fn progress(&self, phase: Phase, finished_ms: Option<f64>) -> Progress {
        let paused = phase.is_paused();
        Progress {
            phase: phase.word().to_owned(),
            state: if paused { RunState::Paused } else { RunState::Running },
            paused_ms: self.paused.filter(|_| paused).map(|since| ms(since.elapsed())),
            finished_ms,
            ..Progress::default()
        }
    }
}

pub(crate) fn ms(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Tells the client, if there still is one; a move does not depend on it.
pub(crate) async fn tell(output: &mut Output, progress: Progress) {
    let _ = output.write(&Frame::Progress(progress)).await;
}

#[cfg(test)]
mod tests;
