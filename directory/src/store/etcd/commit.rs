//! One transaction, and the way from one head to another.

use directory_api::identity::provider;
use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, Txn, TxnOp, TxnOpResponse};
use tracing::warn;

use super::head::Head;
use super::inbox::HeadAt;
use super::{Etcd, is_compacted};
use crate::limits::{ETCD_CALL_TIME, ETCD_COMMIT_TIME, ETCD_GAP_COMMITS_MAX};
use crate::store::{News, StoreError, Write};

impl Etcd {
    /// The guard is what was taken; whoever commits must have followed as far.
    pub(super) fn check_followed(&self) -> Result<(), StoreError> {
        let waiting = |news: &News| matches!(news, News::Committed { .. });
        match self.gap || self.found.iter().any(waiting) {
            true => Err(StoreError::Overtaken),
            false => Ok(()),
        }
    }

    /// One transaction.
    pub(super) fn commit_portion(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        let mut nonce = [0; 16];
        let failed = |_| self.away("the system has no random numbers".into());
        provider().secure_random.fill(&mut nonce).map_err(failed)?;
        self.commit_as(nonce, writes)
    }

    /// The same, known by this nonce.
    pub(super) fn commit_as(&mut self, nonce: [u8; 16], writes: &[Write]) -> Result<(), StoreError> {
        let (mut revision, mut locator_next) = (self.revision, self.locator_next);
        for write in writes {
            match write {
                Write::Revision(value) => revision = *value,
                Write::LocatorNext(value) => locator_next = *value,
                _ => {}
            }
        }
        let head = Head { revision, locator_next, previous: self.at, nonce, writes: writes.to_vec() };
        let mut operations = self.keys.operations(writes);
        operations.push(TxnOp::put(self.keys.head(), head.encode(), None));
        let transaction = Txn::new()
            .when([Compare::mod_revision(self.keys.head(), CompareOp::Equal, self.at)])
            .and_then(operations)
            .or_else([TxnOp::get(self.keys.head(), None)]);
        let answer = self.patiently(ETCD_COMMIT_TIME, move |mut client, _| {
            let transaction = transaction.clone();
            async move { client.txn(transaction).await }
        })?;
        if answer.succeeded() {
            self.at = answer.header().map_or(self.at, |header| header.revision());
            (self.revision, self.locator_next) = (revision, locator_next);
            return Ok(());
        }
        let present = answer.op_responses().into_iter().find_map(|operation| match operation {
            TxnOpResponse::Get(found) => found.kvs().first().map(|row| self.read_head(row)),
            TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
        });
        match self.walk(present.transpose()?)? {
            // An attempt before was heard, and only its answer was lost.
            Some(first) if first == nonce => {
                // What it changed is known here; what follows it is news, and so is what is no commit and was found before.
                let committed = |news: &News| matches!(news, News::Committed { .. });
                if let Some(ours) = self.found.iter().position(committed) {
                    self.found.remove(ours);
                }
                Ok(())
            }
            Some(_) => Err(StoreError::Overtaken),
            None => {
                // Whatever the guard ran into, it does not follow from what was taken.
                self.gap = true;
                Err(StoreError::Overtaken)
            }
        }
    }

    pub(super) fn read_head(&self, row: &KeyValue) -> Result<HeadAt, StoreError> {
        let head = Head::decode(row.value()).ok_or_else(|| self.row(&self.keys.head()))?;
        Ok(HeadAt { at: row.mod_revision(), head })
    }

    /// Takes all heads since the one taken last up to this one, in order, as news. Gives the nonce of the first.
    pub(super) fn walk(&mut self, latest: Option<HeadAt>) -> Result<Option<[u8; 16]>, StoreError> {
        let Some(latest) = latest.filter(|latest| latest.at > self.at) else { return Ok(None) };
        let mut heads = vec![latest];
        loop {
            let before = heads.last().map_or(0, |head| head.head.previous);
            if before == self.at {
                break;
            }
            let older = match before > self.at && heads.len() < ETCD_GAP_COMMITS_MAX {
                true => self.head_at(before)?,
                false => None,
            };
            let Some(older) = older else {
                warn!(seen = self.at, before, "commits of others are not to be found one by one");
                self.gap = true;
                self.found.clear();
                self.found.push_back(News::Gap);
                return Ok(None);
            };
            heads.push(older);
        }
        let first = heads.last().map(|first| first.head.nonce);
        for HeadAt { at, head } in heads.into_iter().rev() {
            (self.at, self.revision, self.locator_next) = (at, head.revision, head.locator_next);
            self.found.push_back(News::Committed { revision: head.revision, writes: head.writes });
        }
        Ok(first)
    }

    /// The head as it was; `None` when etcd has forgotten that.
    fn head_at(&self, revision: i64) -> Result<Option<HeadAt>, StoreError> {
        let found = self.patiently(ETCD_CALL_TIME, move |mut client, keys| async move {
            let options = GetOptions::new().with_revision(revision);
            match client.get(keys.head(), Some(options)).await {
                Err(error) if is_compacted(&error) => Ok(None),
                other => other.map(Some),
            }
        })?;
        let found = found.as_ref().and_then(|found| found.kvs().first());
        found.filter(|row| row.mod_revision() == revision).map(|row| self.read_head(row)).transpose()
    }
}
