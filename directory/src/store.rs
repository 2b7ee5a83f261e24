//! What must outlive the process. One commit is one transaction: all of it is on disk when it returns, or none of it.

mod embedded;
#[cfg(test)]
mod memory;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use directory_api::stored::Restored;
use directory_api::{CapsuleRecord, Rule, RuleId};
use overlay_proto::{CapsuleId, HostName, Owner};

use crate::extras::ExtraRecord;

pub use embedded::Embedded;
#[cfg(test)]
pub use memory::Memory;

/// A place to keep the directory's facts.
pub trait Store: Send {
    /// Everything committed so far.
    ///
    /// # Errors
    /// When the store is unreadable or holds what this version does not know.
    fn load(&self) -> Result<Contents, StoreError>;

    /// Makes all writes durable, in order, together.
    ///
    /// # Errors
    /// When they could not be made durable; none of them holds then.
    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError>;
}

/// Everything that a store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// The last revision.
    pub revision: u64,
    /// The number from which the next locator is looked for.
    pub locator_next: u64,
    /// All capsules, by id.
    pub capsules: Vec<CapsuleRecord>,
    /// All hosts that joined, by name.
    pub hosts: Vec<StoredHost>,
    /// Tokens that were used and have not expired, by nonce.
    pub spent: Vec<SpentToken>,
    /// Whose capsules a host may register, of hosts that may not register anybody's; by name.
    pub host_owners: Vec<(HostName, Vec<Owner>)>,
    /// The rules of the policy, by number.
    pub rules: Vec<Rule>,
    /// What was added to capsules' records, of capsules that have such; by id.
    pub extras: Vec<(CapsuleId, Vec<ExtraRecord>)>,
    /// The restore from a backup that is not settled, if there is one.
    pub restored: Option<Restored>,
}

/// What is kept of a host. That it lives is not: that is for it to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredHost {
    /// Its name.
    pub name: HostName,
    /// Whether verbs forwarded from it are taken.
    pub operator: bool,
    /// Where it was reached last; `None` before its first lease.
    pub address: Option<SocketAddr>,
}

/// A token that was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpentToken {
    /// Which.
    pub nonce: [u8; 16],
    /// When it would have expired; after that it needs no remembering.
    pub expires_at: SystemTime,
    /// Hash of the public key that it was spent for: the same host may ask again when the answer was lost.
    pub key_hash: [u8; 32],
}

/// One fact to keep or to forget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// The last revision.
    Revision(u64),
    /// The number from which the next locator is looked for.
    LocatorNext(u64),
    /// A capsule, new or changed.
    Capsule(Box<CapsuleRecord>),
    /// A capsule is gone.
    CapsuleRemoved(CapsuleId),
    /// A host, new or changed.
    Host(StoredHost),
    /// A host is gone, and what is kept beside it.
    HostRemoved(HostName),
    /// Whose capsules a host may register; none: anybody's.
    HostOwners(HostName, Vec<Owner>),
    /// A token was used.
    TokenSpent(SpentToken),
    /// A used token expired.
    TokenForgotten([u8; 16]),
    /// A rule is new.
    Rule(Rule),
    /// A rule is gone.
    RuleRemoved(RuleId),
    /// What was added to a capsule's records; none: nothing any more.
    Extras(CapsuleId, Vec<ExtraRecord>),
    /// The facts are those of a backup; none: hosts have asserted what happened since.
    Restored(Option<Box<Restored>>),
}

/// Why a store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("{}: in use by another capsule-directory", .0.display())]
    InUse(PathBuf),
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// It holds something that cannot be read.
    #[error("{}: unreadable {what}: made by a newer version, or damaged", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Who changes what could not be written down, so nothing was changed.
    #[error("the audit log cannot be written: {0}")]
    Audit(std::io::Error),
    /// A test wants it to fail.
    #[cfg(test)]
    #[error("told to fail")]
    Told,
}

#[cfg(test)]
mod conformance;
