//! What hosts say that they hold, to a directory that was restored from a backup and does not know what happened since.

use std::fmt;

use overlay_proto::{CapsuleId, CapsuleName, ClaimKeyHash, Generation, HostName, Locators, OfferId, Owner};

use crate::CapsuleState;

/// Names one restore from a backup, so that an assertion that was made to an earlier one is not taken for this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RestoreId([u8; 16]);

/// What a directory that was restored says of it in the answer to a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restoring {
    /// Which restore.
    pub id: RestoreId,
    /// Whether the host that renews its lease is to assert what it holds.
    pub asks: bool,
    /// The hosts that the directory waits for.
    pub missing: Vec<HostName>,
}

/// Everything that one host holds, and what it knows of the time that the directory has forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    /// The restore that it is about.
    pub restore: RestoreId,
    /// The highest revision that the host has seen; 0 for none.
    pub revision: u64,
    /// The hosts that it knew by its watch.
    pub hosts: Vec<HostName>,
    /// What it holds.
    pub capsules: Vec<AssertedCapsule>,
}

/// A capsule that a host holds by the word of the directory as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssertedCapsule {
    /// The capsule.
    pub id: CapsuleId,
    /// Its name.
    pub name: CapsuleName,
    /// Its owner.
    pub owner: Owner,
    /// Its addresses.
    pub locators: Locators,
    /// The generation at which the host has it.
    pub generation: Generation,
    /// What it does: `moving` when the host has been given it and does not run it.
    pub state: CapsuleState,
    /// The offer under which the host may have given it away: it has sent the claim key.
    pub offer: Option<AssertedOffer>,
    /// The offer or suspension by which the host was given it at this generation, where it still knows.
    pub given_by: Option<OfferId>,
}

/// An offer whose outcome the host does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssertedOffer {
    /// Which.
    pub id: OfferId,
    /// Who may claim.
    pub target: HostName,
    /// Hash of the key that a claim must show.
    pub claim_key_hash: ClaimKeyHash,
}

impl RestoreId {
    /// Wraps bytes drawn elsewhere.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes, as they go over the wire.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for RestoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}
