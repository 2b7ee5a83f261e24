//! What `tap` answers.

use serde::{Deserialize, Serialize};

/// A capture that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapResult {
    /// The capsule.
    pub capsule: String,
    /// Packets written. Only `capsule` knows.
    #[serde(default)]
    pub packets: u64,
    /// Packets that came faster than they could be taken.
    pub dropped: u64,
    /// Where the capsule went, when that ended the capture on its host: the client calls again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_to: Option<String>,
    /// How often it moved meanwhile. Only `capsule` knows.
    #[serde(default)]
    pub moves: u64,
    /// The file written. Only `capsule` knows.
    #[serde(default)]
    pub file: Option<String>,
}
