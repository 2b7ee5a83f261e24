//! The first section: who lies in the file, and what is needed to resume it.

use std::time::SystemTime;

use overlay_proto::{CapsuleId, CapsuleName, ClaimKey, Generation, HostName, Locators, OfferId, Owner};
use serde::{Deserialize, Serialize};

/// What a capsule file says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// Name and version of the program that wrote it.
    pub writer: String,
    /// The mesh it belongs to.
    pub zone: String,
    /// The capsule.
    pub capsule: CapsuleId,
    /// Its name.
    pub name: CapsuleName,
    /// Its owner.
    pub owner: Owner,
    /// Its addresses.
    pub locators: Locators,
    /// Names this suspension at the directory.
    pub suspension: OfferId,
    /// Whoever shows it to the directory may resume the capsule.
    pub key: ClaimKey,
    /// The generation that the capsule has while it lies in this file.
    pub generation: Generation,
    /// The host that suspended it.
    pub host: HostName,
    /// When.
    pub suspended_at: SystemTime,
    /// How many sessions go along.
    pub sessions: u64,
    /// What the sidecars need beyond that; opaque here.
    pub contents: serde_json::Value,
}
