//! Which mesh the facts in etcd belong to: whoever has other keys or other pools of locators must not serve them.

use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, Txn, TxnOp};
use serde::{Deserialize, Serialize};

use super::head::Head;
use super::inbox::Advertised;
use super::{Etcd, portions, watching};
use crate::limits::{ETCD_LOAD_TIME, ETCD_TRANSACTION_KEYS_MAX};
use crate::store::{Contents, Store as _, StoreError, Write};

/// What all directories of a mesh have in common. Hashes only: nothing secret is in etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mesh {
    /// Its zone.
    pub zone: String,
    /// Where IPv4 locators come from.
    pub locators: String,
    /// Where IPv6 locators come from.
    pub locators6: String,
    /// Hash of the CA's certificate.
    pub ca: String,
    /// Hash of the key that signs tokens.
    pub token_key: String,
}

impl Mesh {
    /// What differs, for people; `None` when nothing does.
    fn difference(&self, other: &Self) -> Option<&'static str> {
        let same = [
            (self.zone == other.zone, "zone"),
            (self.locators == other.locators, "pool of IPv4 locators"),
            (self.locators6 == other.locators6, "pool of IPv6 locators"),
            (self.ca == other.ca, "CA (ca.pem)"),
            (self.token_key == other.token_key, "key of the join tokens (token.key)"),
        ];
        same.into_iter().find(|(same, _)| !same).map(|(_, what)| what)
    }
}

impl Etcd {
    /// Makes sure that the facts here are those of this mesh. In an empty place they begin.
    ///
    /// # Errors
    /// When they are another mesh's, or etcd does not answer.
    pub fn belong_to(&self, mesh: &Mesh) -> Result<(), StoreError> {
        // The first revision, so that whoever watched knows it from having seen nothing.
        let nonce = [0; 16];
        let first =
            Head { revision: 1, locator_next: 0, previous: 0, nonce, writes: vec![Write::Revision(1)] };
        let text = serde_json::to_vec(mesh).map_err(|_| self.row(&self.keys.mesh()))?;
        let (keys, head) = (self.keys.clone(), first.encode());
        let found = self.patiently(ETCD_LOAD_TIME, move |mut client, _| {
            let begin = Txn::new()
                .when([
                    Compare::version(keys.mesh(), CompareOp::Equal, 0),
                    Compare::version(keys.head(), CompareOp::Equal, 0),
                ])
                .and_then([
                    TxnOp::put(keys.mesh(), text.clone(), None),
                    TxnOp::put(keys.head(), head.clone(), None),
                ]);
            let (mesh, head) = (keys.mesh(), keys.head());
            async move {
                client.txn(begin).await?;
                Ok((client.get(mesh, None).await?, client.get(head, None).await?.kvs().is_empty()))
            }
        })?;
        let (Some(row), false) = (found.0.kvs().first(), found.1) else { return Err(self.unfinished()) };
        let kept: Mesh = serde_json::from_slice(row.value()).map_err(|_| self.row(&self.keys.mesh()))?;
        match kept.difference(mesh) {
            None => Ok(()),
            Some(what) => Err(self.mesh(format!(
                "the facts there are of a mesh with another {what}: copy the key files of the mesh's first \
                 directory, or use another etcd"
            ))),
        }
    }

    /// Whether a mesh has begun here.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn has_facts(&self) -> Result<bool, StoreError> {
        let found =
            self.patiently(
                ETCD_LOAD_TIME,
                |mut client, keys| async move { client.get(keys.head(), None).await },
            )?;
        Ok(!found.kvs().is_empty())
    }

    /// Says where this directory is found.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn advertise(&self, id: &str, advertised: &Advertised) -> Result<(), StoreError> {
        let key = self.keys.directory(id);
        let text = serde_json::to_vec(advertised).map_err(|_| self.row(&key))?;
        self.patiently(ETCD_LOAD_TIME, move |mut client, _| {
            let (key, text) = (key.clone(), text.clone());
            async move { client.put(key, text, None).await }
        })?;
        self.inbox.directories.put(id, Some(advertised.clone()));
        Ok(())
    }

    /// Takes the directory of this id off the list; gives whether it was there. One that serves puts itself back.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn forget_directory(&self, id: &str) -> Result<bool, StoreError> {
        let key = self.keys.directory(id);
        let was_there = self.list_directories()?.iter().any(|(known, _)| known == id);
        self.patiently(ETCD_LOAD_TIME, move |mut client, _| {
            let key = key.clone();
            async move { client.delete(key, None).await }
        })?;
        Ok(was_there)
    }

    /// The directories that hosts are told of, by id.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn list_directories(&self) -> Result<Vec<(String, Advertised)>, StoreError> {
        let found = self.patiently(ETCD_LOAD_TIME, |mut client, keys| async move {
            client.get(keys.directories(), Some(GetOptions::new().with_prefix())).await
        })?;
        Ok(found.kvs().iter().filter_map(|row| watching::directory(&self.keys, row)).collect())
    }

    /// Puts all facts of another store into this one, which must be empty. Until the end nobody can serve from it; what an
    /// earlier attempt left is removed.
    ///
    /// # Errors
    /// When there are facts here, or etcd does not answer.
    pub fn fill(&mut self, mesh: &Mesh, contents: &Contents) -> Result<(), StoreError> {
        if self.has_facts()? {
            let reason =
                format!("there are facts of a mesh at {} already; nothing was changed", self.keys.all());
            return Err(self.mesh(reason));
        }
        let all = self.keys.all().to_owned();
        self.patiently(ETCD_LOAD_TIME, move |mut client, _| {
            let all = all.clone();
            async move { client.delete(all, Some(DeleteOptions::new().with_prefix())).await }
        })?;
        // From here on there is a mesh without a head: that is no place to begin at, and none to serve from.
        let text = serde_json::to_vec(mesh).map_err(|_| self.row(&self.keys.mesh()))?;
        self.patiently(ETCD_LOAD_TIME, move |mut client, keys| {
            let text = text.clone();
            async move { client.put(keys.mesh(), text, None).await }
        })?;
        let writes = contents.facts();
        for portion in portions(&writes, ETCD_TRANSACTION_KEYS_MAX) {
            let operations = self.keys.operations(portion);
            self.patiently(ETCD_LOAD_TIME, move |mut client, _| {
                let put = Txn::new().and_then(operations.clone());
                async move { client.txn(put).await }
            })?;
        }
        let (revision, locator_next) = (contents.revision.max(1), contents.locator_next);
        let writes = vec![Write::LocatorNext(locator_next), Write::Revision(revision)];
        let head = Head { revision, locator_next, previous: 0, nonce: [0; 16], writes }.encode();
        self.patiently(ETCD_LOAD_TIME, move |mut client, keys| {
            let head = head.clone();
            async move { client.put(keys.head(), head, None).await }
        })?;
        let kept = self.load()?;
        match kept.revision == revision && kept.capsules == contents.capsules && kept.hosts == contents.hosts
        {
            true => Ok(()),
            false => Err(self.mesh("what was copied reads otherwise: somebody else writes there".into())),
        }
    }

    /// Leaves the facts that were loaded and are somewhere else by now: nobody serves them from here any more, and others
    /// may take their place.
    ///
    /// # Errors
    /// When somebody has changed them since, or etcd does not answer.
    pub fn leave(&self) -> Result<(), StoreError> {
        let at = self.at;
        let left = self.patiently(ETCD_LOAD_TIME, move |mut client, keys| {
            let leave = Txn::new()
                .when([Compare::mod_revision(keys.head(), CompareOp::Equal, at)])
                .and_then([TxnOp::delete(keys.head(), None)]);
            async move { client.txn(leave).await }
        })?;
        // It is gone already when the answer to an earlier attempt was lost.
        if left.succeeded() || !self.has_facts()? {
            return Ok(());
        }
        Err(self.mesh("a directory serves from there: stop all of them, and copy again".into()))
    }

    pub(super) fn unfinished(&self) -> StoreError {
        self.mesh(format!(
            "the facts at {} are incomplete: they were copied elsewhere, or a copy to there did not end; make it again \
             (capsule-directory copy-store)",
            self.keys.all()
        ))
    }

    fn mesh(&self, reason: String) -> StoreError {
        StoreError::Mesh { endpoints: self.endpoints.clone(), reason }
    }
}
