//! One file, by redb: one `fsync` per commit, checksums, no repair by hand after a crash.

use std::path::{Path, PathBuf};

use directory_api::stored::{
    decode_capsule, decode_restored, decode_rule, encode_capsule, encode_restored, encode_rule,
};
use overlay_proto::CapsuleId;
use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction,
};

use crate::extras;

use super::rows::{decode_host, decode_owners, decode_spent, encode_host, encode_owners, encode_spent};
use super::{Contents, Store, StoreError, Write};

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
}

impl Store for Embedded {
    fn load(&mut self) -> Result<Contents, StoreError> {
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
            let host = decode_host(name.value(), row.value());
            contents.hosts.push(host.ok_or_else(|| self.unreadable("host"))?);
        }
        let spent = read.open_table(SPENT).map_err(|error| self.failed(error))?;
        for row in spent.iter().map_err(|error| self.failed(error))? {
            let (nonce, row) = row.map_err(|error| self.failed(error))?;
            let token = decode_spent(nonce.value(), row.value());
            contents.spent.push(token.ok_or_else(|| self.unreadable("token"))?);
        }
        let owners = read.open_table(HOST_OWNERS).map_err(|error| self.failed(error))?;
        for row in owners.iter().map_err(|error| self.failed(error))? {
            let (name, row) = row.map_err(|error| self.failed(error))?;
            let owners = decode_owners(name.value(), row.value());
            contents.host_owners.push(owners.ok_or_else(|| self.unreadable("host's owners"))?);
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
                hosts.insert(host.name.as_str(), encode_host(host).as_slice())?;
            }
            Write::HostRemoved(name) => {
                hosts.remove(name.as_str())?;
                owners_of.remove(name.as_str())?;
            }
            Write::HostOwners(name, owners) if owners.is_empty() => drop(owners_of.remove(name.as_str())?),
            Write::HostOwners(name, owners) => {
                owners_of.insert(name.as_str(), encode_owners(owners).as_slice())?;
            }
            Write::TokenSpent(token) => {
                spent.insert(token.nonce.as_slice(), encode_spent(token).as_slice())?;
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
