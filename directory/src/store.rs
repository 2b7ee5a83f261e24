//! What must outlive the process. One commit is one transaction: all of it is on disk when it returns, or none of it.

mod access;
mod address;
mod embedded;
mod etcd;
#[cfg(test)]
mod memory;
mod rows;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use directory_api::stored::Restored;
use directory_api::{CapsuleRecord, Rule, RuleId};
use overlay_proto::{CapsuleId, HostName, Owner};

use crate::extras::ExtraRecord;

pub use access::StoreAccess;
pub use address::{EtcdAddress, StoreAddress, StoreAddressError};
pub use embedded::Embedded;
pub use etcd::{Advertised, Directories, Etcd, Mesh};
#[cfg(test)]
pub use memory::Memory;

/// A place to keep the directory's facts.
pub trait Store: Send {
    /// Everything committed so far.
    ///
    /// # Errors
    /// When the store is unreadable or holds what this version does not know.
    fn load(&mut self) -> Result<Contents, StoreError>;

    /// The same for somebody else to have: of a shared store, whoever follows it goes on from where it was.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn read(&mut self) -> Result<Contents, StoreError> {
        self.load()
    }

    /// Makes all writes durable, in order, together. A shared store does so with writes of more than its room in several
    /// steps, between two revisions.
    ///
    /// # Errors
    /// When they could not be made durable; none of them holds then. Of a shared store [`StoreError::Away`] leaves it open
    /// whether they hold, and whatever holds comes as news.
    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError>;

    /// Facts that one commit takes in one step.
    fn room(&self) -> usize {
        usize::MAX
    }

    /// What it does beside, if several directories use it at once.
    fn shared(&mut self) -> Option<&mut dyn Shared> {
        None
    }
}

/// A store that several directories use at once. What others commit comes as news, and a commit is refused as
/// [`StoreError::Overtaken`] unless all news before it were taken.
pub trait Shared {
    /// Has something called, on any thread, whenever there may be news.
    fn on_news(&mut self, told: Box<dyn Fn() + Send + Sync>);

    /// What has arrived since the last time, in order. Waits for nobody unless there is a gap to fill.
    ///
    /// # Errors
    /// When the gap cannot be filled; later then.
    fn news(&mut self) -> Result<Vec<News>, StoreError>;

    /// The same, with everything that was committed before this call.
    ///
    /// # Errors
    /// When the store does not answer.
    fn latest(&mut self) -> Result<Vec<News>, StoreError>;

    /// Tells the other directories that hosts were heard of. Waits for nobody; gives them back where it is too early.
    fn tell_seen(&mut self, hosts: Vec<HostName>) -> Result<(), Vec<HostName>>;

    /// The news given out were not understood: a gap is news until everything was loaded.
    fn distrust(&mut self);

    /// Whether news of others arrive at this time.
    fn is_in_touch(&self) -> bool;

    /// Says where news should come from, and do not.
    fn out_of_touch(&self) -> StoreError;
}

/// What came from other directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// They committed this.
    Committed {
        /// The revision after it.
        revision: u64,
        /// All of it.
        writes: Vec<Write>,
    },
    /// They heard of these hosts.
    Seen(Vec<HostName>),
    /// News may have been missed of who was heard of: nobody is to be taken for silent on account of that.
    InTouchAgain,
    /// What was committed is no longer known step by step: load everything.
    Gap,
}

impl Store for Box<dyn Store> {
    fn load(&mut self) -> Result<Contents, StoreError> {
        (**self).load()
    }

    fn read(&mut self) -> Result<Contents, StoreError> {
        (**self).read()
    }

    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        (**self).commit(writes)
    }

    fn room(&self) -> usize {
        (**self).room()
    }

    fn shared(&mut self) -> Option<&mut dyn Shared> {
        (**self).shared()
    }
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

impl Contents {
    /// What makes an empty store hold the same.
    pub fn writes(&self) -> Vec<Write> {
        let mut writes = self.facts();
        writes.extend([Write::LocatorNext(self.locator_next), Write::Revision(self.revision)]);
        writes
    }

    /// The same without the numbers.
    pub(crate) fn facts(&self) -> Vec<Write> {
        let capsules = self.capsules.iter().map(|record| Write::Capsule(Box::new(record.clone())));
        let hosts = self.hosts.iter().cloned().map(Write::Host);
        let owners = self.host_owners.iter().cloned().map(|(name, owners)| Write::HostOwners(name, owners));
        let spent = self.spent.iter().cloned().map(Write::TokenSpent);
        let rules = self.rules.iter().cloned().map(Write::Rule);
        let extras = self.extras.iter().cloned().map(|(id, records)| Write::Extras(id, records));
        let restored = self.restored.iter().map(|restored| Write::Restored(Some(Box::new(restored.clone()))));
        let hosts = hosts.chain(owners).chain(spent);
        capsules.chain(hosts).chain(rules).chain(extras).chain(restored).collect()
    }
}

/// What is kept of a host. When it was last heard of is not: that is for it to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredHost {
    /// Its name.
    pub name: HostName,
    /// Whether verbs forwarded from it are taken.
    pub operator: bool,
    /// Where it was reached last; `None` before its first lease.
    pub address: Option<SocketAddr>,
    /// Whether its lease was good when last looked at.
    pub alive: bool,
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
    /// Another directory committed first: nothing holds, and there is news.
    #[error("another directory committed first")]
    Overtaken,
    /// A shared store does not answer: whether the writes hold is not known.
    #[error("etcd at {endpoints} does not answer: {cause}")]
    Away {
        /// Where it was looked for.
        endpoints: String,
        /// What happened at the last attempt.
        cause: String,
    },
    /// A shared store does not say what others did.
    #[error("etcd does not answer, and what is known here may be old")]
    Unread,
    /// A shared store holds something that cannot be read.
    #[error("etcd at {endpoints}, key {key}: unreadable: made by a newer version, or damaged")]
    Row {
        /// Where it is.
        endpoints: String,
        /// Which.
        key: String,
    },
    /// A shared store has facts of another mesh, or none where there should be some.
    #[error("etcd at {endpoints}: {reason}")]
    Mesh {
        /// Where it is.
        endpoints: String,
        /// What is wrong, and what to do.
        reason: String,
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
