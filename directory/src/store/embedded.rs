//! One file, by redb: one `fsync` per commit, checksums, no repair by hand after a crash.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use directory_api::stored::{
    decode_capsule, decode_restored, decode_rule, encode_capsule, encode_restored, encode_rule,
};
use overlay_proto::{CapsuleId, HostName, Owner};
use prost::Message as _;
use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction,
};

use crate::extras;

use super::{Contents, SpentToken, Store, StoreError, StoredHost, Write};

/// Numbers by name.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Records by capsule id.
const CAPSULES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("capsules");
/// Hosts by name.
const HOSTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("hosts");
/// Used tokens by nonce.
const SPENT: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("spent_tokens");
/// Owners of the capsules that a host may register, by its name.
const HOST_OWNERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("host_owners");
/// Rules of the policy by number.
const RULES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("rules");
/// What was added to capsules' records, by capsule id.
const EXTRAS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("extras");

/// The restore that is not settled.
const RESTORED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("restored");

const REVISION: &str = "revision";
const LOCATOR_NEXT: &str = "locator_next";
const THE_RESTORE: &str = "restore";

/// The facts held are small; redb's default of 1 GiB would be for nothing.
const CACHE_BYTES: usize = 16 << 20;

/// A store in one file.
pub struct Embedded {
    database: Database,
    path: PathBuf,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HostRow {
    #[prost(bool, tag = "1")]
    operator: bool,
    #[prost(string, tag = "2")]
    address: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OwnersRow {
    #[prost(string, repeated, tag = "1")]
    owners: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SpentRow {
    #[prost(uint64, tag = "1")]
    expires_at_s: u64,
    #[prost(bytes = "vec", tag = "2")]
    key_hash: Vec<u8>,
}

impl Embedded {
    /// Opens the store, or makes it.
    ///
    /// # Errors
    /// When another process has it, or it cannot be read.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let opened = Database::builder().set_cache_size(CACHE_BYTES).create(path);
        let database = match opened {
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(StoreError::InUse(path.to_owned())),
            other => other.map_err(|source| failed(path, source))?,
        };
        let store = Self { database, path: path.to_owned() };
        // A table that was never written cannot be read.
        let transaction = store.begin()?;
        transaction.open_table(META).map_err(|error| store.failed(error))?;
        transaction.open_table(CAPSULES).map_err(|error| store.failed(error))?;
        transaction.open_table(HOSTS).map_err(|error| store.failed(error))?;
        transaction.open_table(SPENT).map_err(|error| store.failed(error))?;
        transaction.open_table(HOST_OWNERS).map_err(|error| store.failed(error))?;
        transaction.open_table(RULES).map_err(|error| store.failed(error))?;
        transaction.open_table(EXTRAS).map_err(|error| store.failed(error))?;
        transaction.open_table(RESTORED).map_err(|error| store.failed(error))?;
        transaction.commit().map_err(|error| store.failed(error))?;
        Ok(store)
    }

    fn begin(&self) -> Result<WriteTransaction, StoreError> {
        self.database.begin_write().map_err(|error| self.failed(error))
    }

    fn failed(&self, error: impl Into<redb::Error>) -> StoreError {
        failed(&self.path, error)
    }

    fn unreadable(&self, what: &'static str) -> StoreError {
        StoreError::Content { path: self.path.clone(), what }
    }

    fn host(&self, name: &str, row: &[u8]) -> Result<StoredHost, StoreError> {
        let broken = || self.unreadable("host");
        let row = HostRow::decode(row).map_err(|_| broken())?;
        let address = match row.address.as_str() {
            "" => None,
            address => Some(address.parse().map_err(|_| broken())?),
        };
        Ok(StoredHost { name: name.parse().map_err(|_| broken())?, operator: row.operator, address })
    }

    fn host_owners(&self, name: &str, row: &[u8]) -> Result<(HostName, Vec<Owner>), StoreError> {
        let broken = || self.unreadable("host's owners");
        let row = OwnersRow::decode(row).map_err(|_| broken())?;
        let owners: Result<_, _> = row.owners.iter().map(|owner| owner.parse()).collect();
        Ok((name.parse().map_err(|_| broken())?, owners.map_err(|_| broken())?))
    }

    fn spent(&self, nonce: &[u8], row: &[u8]) -> Result<SpentToken, StoreError> {
        let broken = || self.unreadable("token");
        let row = SpentRow::decode(row).map_err(|_| broken())?;
        Ok(SpentToken {
            nonce: nonce.try_into().map_err(|_| broken())?,
            expires_at: from_seconds(row.expires_at_s).ok_or_else(broken)?,
            key_hash: row.key_hash.try_into().map_err(|_| broken())?,
        })
    }
}

impl Store for Embedded {
    fn load(&self) -> Result<Contents, StoreError> {
        let read = self.database.begin_read().map_err(|error| self.failed(error))?;
        let mut contents = Contents::default();
        let meta = read.open_table(META).map_err(|error| self.failed(error))?;
        let number = |name: &str| match meta.get(name) {
            Ok(value) => Ok(value.map_or(0, |value| value.value())),
            Err(error) => Err(self.failed(error)),
        };
        contents.revision = number(REVISION)?;
        contents.locator_next = number(LOCATOR_NEXT)?;
        let capsules = read.open_table(CAPSULES).map_err(|error| self.failed(error))?;
        for row in capsules.iter().map_err(|error| self.failed(error))? {
            let (_, row) = row.map_err(|error| self.failed(error))?;
            contents.capsules.push(decode_capsule(row.value()).map_err(|_| self.unreadable("capsule"))?);
        }
        let hosts = read.open_table(HOSTS).map_err(|error| self.failed(error))?;
        for row in hosts.iter().map_err(|error| self.failed(error))? {
            let (name, row) = row.map_err(|error| self.failed(error))?;
            contents.hosts.push(self.host(name.value(), row.value())?);
        }
        let spent = read.open_table(SPENT).map_err(|error| self.failed(error))?;
        for row in spent.iter().map_err(|error| self.failed(error))? {
            let (nonce, row) = row.map_err(|error| self.failed(error))?;
            contents.spent.push(self.spent(nonce.value(), row.value())?);
        }
        let owners = read.open_table(HOST_OWNERS).map_err(|error| self.failed(error))?;
        for row in owners.iter().map_err(|error| self.failed(error))? {
            let (name, row) = row.map_err(|error| self.failed(error))?;
            contents.host_owners.push(self.host_owners(name.value(), row.value())?);
        }
        let rules = read.open_table(RULES).map_err(|error| self.failed(error))?;
        for row in rules.iter().map_err(|error| self.failed(error))? {
            let (_, row) = row.map_err(|error| self.failed(error))?;
            contents.rules.push(decode_rule(row.value()).map_err(|_| self.unreadable("rule"))?);
        }
        let extras = read.open_table(EXTRAS).map_err(|error| self.failed(error))?;
        for row in extras.iter().map_err(|error| self.failed(error))? {
            let (id, row) = row.map_err(|error| self.failed(error))?;
            let broken = || self.unreadable("added records");
            let id = CapsuleId::from_bytes(id.value().try_into().map_err(|_| broken())?);
            contents.extras.push((id, extras::decode(row.value()).ok_or_else(broken)?));
        }
        let restored = read.open_table(RESTORED).map_err(|error| self.failed(error))?;
        if let Some(row) = restored.get(THE_RESTORE).map_err(|error| self.failed(error))? {
            let read = decode_restored(row.value()).map_err(|_| self.unreadable("restore"))?;
            contents.restored = Some(read);
        }
        Ok(contents)
    }

    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        let transaction = self.begin()?;
        write_all(&transaction, writes).map_err(|error| self.failed(error))?;
        transaction.commit().map_err(|error| self.failed(error))
    }
}

fn write_all(transaction: &WriteTransaction, writes: &[Write]) -> Result<(), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    let mut capsules = transaction.open_table(CAPSULES)?;
    let mut hosts = transaction.open_table(HOSTS)?;
    let mut spent = transaction.open_table(SPENT)?;
    let mut owners_of = transaction.open_table(HOST_OWNERS)?;
    let mut rules = transaction.open_table(RULES)?;
    let mut added = transaction.open_table(EXTRAS)?;
    let mut restore = transaction.open_table(RESTORED)?;
    for write in writes {
        match write {
            Write::Revision(revision) => drop(meta.insert(REVISION, revision)?),
            Write::LocatorNext(next) => drop(meta.insert(LOCATOR_NEXT, next)?),
            Write::Capsule(record) => {
                capsules.insert(record.id.as_bytes().as_slice(), encode_capsule(record).as_slice())?;
            }
            Write::CapsuleRemoved(id) => drop(capsules.remove(id.as_bytes().as_slice())?),
            Write::Host(host) => {
                let address = host.address.map(|address| address.to_string()).unwrap_or_default();
                let row = HostRow { operator: host.operator, address };
                hosts.insert(host.name.as_str(), row.encode_to_vec().as_slice())?;
            }
            Write::HostRemoved(name) => {
                hosts.remove(name.as_str())?;
                owners_of.remove(name.as_str())?;
            }
            Write::HostOwners(name, owners) if owners.is_empty() => drop(owners_of.remove(name.as_str())?),
            Write::HostOwners(name, owners) => {
                let row = OwnersRow { owners: owners.iter().map(ToString::to_string).collect() };
                owners_of.insert(name.as_str(), row.encode_to_vec().as_slice())?;
            }
            Write::TokenSpent(token) => {
                let row =
                    SpentRow { expires_at_s: seconds(token.expires_at), key_hash: token.key_hash.to_vec() };
                spent.insert(token.nonce.as_slice(), row.encode_to_vec().as_slice())?;
            }
            Write::TokenForgotten(nonce) => drop(spent.remove(nonce.as_slice())?),
            Write::Rule(rule) => drop(rules.insert(rule.id.number(), encode_rule(rule).as_slice())?),
            Write::RuleRemoved(id) => drop(rules.remove(id.number())?),
            Write::Extras(id, records) if records.is_empty() => {
                added.remove(id.as_bytes().as_slice())?;
            }
            Write::Extras(id, records) => {
                added.insert(id.as_bytes().as_slice(), extras::encode(records).as_slice())?;
            }
            Write::Restored(None) => drop(restore.remove(THE_RESTORE)?),
            Write::Restored(Some(restored)) => {
                restore.insert(THE_RESTORE, encode_restored(restored).as_slice())?;
            }
        }
    }
    Ok(())
}

fn failed(path: &Path, error: impl Into<redb::Error>) -> StoreError {
    StoreError::Database { path: path.to_owned(), source: Box::new(error.into()) }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn from_seconds(seconds: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}
