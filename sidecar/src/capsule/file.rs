//! What a host keeps of a capsule on disk, and sends along when it moves.

use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use admin_api::request::Run;
use admin_api::result::MoveResult;
use anyhow::Context;
use directory_api::CapsuleRecord;
use overlay_proto::{CapsuleId, CapsuleName, Generation, Locators, Owner};
use serde::{Deserialize, Serialize};

/// Version of [`CapsuleFile`].
pub const VERSION: u32 = 1;

/// `capsule.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CapsuleFile {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// Who it is.
    pub id: CapsuleId,
    /// Its name.
    pub name: CapsuleName,
    /// Its owner.
    pub owner: Owner,
    /// Its addresses.
    pub locators: Locators,
    /// Its generation when this was written.
    pub generation: Generation,
    /// What it was asked to run.
    pub run: Run,
    /// When its program was started.
    pub started_at: Option<SystemTime>,
    /// The move that brought it here.
    #[serde(default)]
    pub last_move: Option<MoveResult>,
}

impl CapsuleFile {
    /// Of a capsule that was just registered.
    pub fn new(record: &CapsuleRecord, run: Run) -> Self {
        Self {
            version: VERSION,
            id: record.id,
            name: record.name.clone(),
            owner: record.owner.clone(),
            locators: record.locators,
            generation: record.generation,
            run,
            started_at: None,
            last_move: None,
        }
    }

    /// Writes it so that a crash leaves the old one or the new one.
    ///
    /// # Errors
    /// The directory can't be written.
    pub fn write(&self, directory: &Path) -> anyhow::Result<()> {
        let path = directory.join("capsule.json");
        let draft = directory.join("capsule.json.new");
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::File::create(&draft)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            std::fs::rename(&draft, &path)
        };
        write().with_context(|| format!("writing {}", path.display()))
    }
}
