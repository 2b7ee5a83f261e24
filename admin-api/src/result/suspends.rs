//! Suspends and resumes.

use serde::{Deserialize, Serialize};

use super::{MoveBytes, Phases};

/// The answer to `suspend`: the capsule lies in its file, and nothing of it is left on its host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SuspendResult {
    /// The capsule's name.
    pub capsule: String,
    /// Its id.
    pub id: String,
    /// The host it was on.
    pub from: String,
    /// Its generation while it lies in the file.
    pub generation: u64,
    /// The file; named by the client.
    #[serde(default)]
    pub file: String,
    /// Whether the client encrypted it.
    #[serde(default)]
    pub encrypted: bool,
    /// From the pause to the commit.
    pub paused_ms: f64,
    /// The whole suspend.
    pub duration_ms: f64,
    /// Time of each phase, in the order in which they ran.
    pub phases_ms: Phases,
    /// Sessions in the file; their peers hold.
    pub sessions: u64,
    /// What is in the file, before compression.
    pub bytes: MoveBytes,
    /// The file's length, before it was encrypted.
    pub file_bytes: u64,
}

/// The answer to `resume`: the capsule runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResumeResult {
    /// The capsule's name.
    pub capsule: String,
    /// Its id.
    pub id: String,
    /// The host that suspended it.
    pub from: String,
    /// The host it runs on.
    pub to: String,
    /// Its generation there.
    pub generation: u64,
    /// How long it lay in the file, by the wall clocks.
    pub suspended_s: u64,
    /// The whole resume.
    pub duration_ms: f64,
    /// Time of each phase, in the order in which they ran.
    pub phases_ms: Phases,
    /// Sessions that go on. Those of peers that are suspended count, though they hold.
    pub sessions: u64,
    /// Sessions that were in the file.
    pub sessions_before: u64,
    /// What was in the file.
    pub bytes: MoveBytes,
}
