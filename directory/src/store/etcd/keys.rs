//! Where facts are in etcd.
//!
//! ```text
//!  /capsule/ZONE/mesh               which mesh this is
//!  /capsule/ZONE/facts/…            every fact a key, to load from
//!  /capsule/ZONE/news/head          the last commit; guards the next one
//!  /capsule/ZONE/news/seen/ID       the hosts that the directory of this id heard of last
//!  /capsule/ZONE/news/directory/ID  where the directory of this id is found
//! ```
//!
//! What is below `news` is watched.

use directory_api::stored::{
    decode_capsule, decode_restored, decode_rule, encode_capsule, encode_restored, encode_rule,
};
use etcd_client::TxnOp;
use overlay_proto::CapsuleId;

use crate::extras;
use crate::store::rows::{
    decode_host, decode_owners, decode_spent, encode_host, encode_owners, encode_spent,
};
use crate::store::{Contents, Write};

/// The names of all keys of one mesh.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

/// What a key below `news` says.
pub(super) enum NewsKey<'a> {
    Head,
    Seen,
    Directory(&'a str),
}

impl Keys {
    pub(super) fn new(zone: &str) -> Self {
        Self { prefix: format!("/capsule/{zone}/") }
    }

    pub(super) fn all(&self) -> &str {
        &self.prefix
    }

    pub(super) fn mesh(&self) -> String {
        format!("{}mesh", self.prefix)
    }

    pub(super) fn facts(&self) -> String {
        format!("{}facts/", self.prefix)
    }

    pub(super) fn news(&self) -> String {
        format!("{}news/", self.prefix)
    }

    pub(super) fn head(&self) -> String {
        format!("{}head", self.news())
    }

    pub(super) fn seen(&self, directory: &str) -> String {
        format!("{}seen/{directory}", self.news())
    }

    pub(super) fn directories(&self) -> String {
        format!("{}directory/", self.news())
    }

    pub(super) fn directory(&self, directory: &str) -> String {
        format!("{}{directory}", self.directories())
    }

    pub(super) fn read_news<'a>(&self, key: &'a str) -> Option<NewsKey<'a>> {
        let rest = key.strip_prefix(&self.news())?;
        if rest == "head" {
            return Some(NewsKey::Head);
        }
        if rest.starts_with("seen/") {
            return Some(NewsKey::Seen);
        }
        rest.strip_prefix("directory/").map(NewsKey::Directory)
    }

    /// The keys that a write changes; `None` in the place of a value for what goes.
    pub(super) fn changes(&self, write: &Write) -> Vec<(String, Option<Vec<u8>>)> {
        let key = |kind: &str, name: &str| format!("{}{kind}/{name}", self.facts());
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        let rule = |number: u64| key("rule", &format!("{number:016x}"));
        match write {
            Write::Revision(_) | Write::LocatorNext(_) => vec![],
            Write::Capsule(record) => {
                vec![(key("capsule", &hex(record.id.as_bytes())), Some(encode_capsule(record)))]
            }
            Write::CapsuleRemoved(id) => vec![(key("capsule", &hex(id.as_bytes())), None)],
            Write::Host(host) => vec![(key("host", host.name.as_str()), Some(encode_host(host)))],
            Write::HostRemoved(name) => {
                vec![(key("host", name.as_str()), None), (key("owners", name.as_str()), None)]
            }
            Write::HostOwners(name, owners) => {
                let value = (!owners.is_empty()).then(|| encode_owners(owners));
                vec![(key("owners", name.as_str()), value)]
            }
            Write::TokenSpent(token) => vec![(key("token", &hex(&token.nonce)), Some(encode_spent(token)))],
            Write::TokenForgotten(nonce) => vec![(key("token", &hex(nonce)), None)],
            Write::Rule(kept) => vec![(rule(kept.id.number()), Some(encode_rule(kept)))],
            Write::RuleRemoved(id) => vec![(rule(id.number()), None)],
            Write::Extras(id, records) => {
                let value = (!records.is_empty()).then(|| extras::encode(records));
                vec![(key("extras", &hex(id.as_bytes())), value)]
            }
            Write::Restored(restored) => {
                vec![(key("restored", "restore"), restored.as_deref().map(encode_restored))]
            }
        }
    }

    /// The operations of several writes: etcd takes no key twice in one transaction, so the last write of each counts.
    pub(super) fn operations(&self, writes: &[Write]) -> Vec<TxnOp> {
        let changes: std::collections::BTreeMap<_, _> =
            writes.iter().flat_map(|write| self.changes(write)).collect();
        let operation = |(key, value): (String, Option<Vec<u8>>)| match value {
            Some(value) => TxnOp::put(key, value, None),
            None => TxnOp::delete(key, None),
        };
        changes.into_iter().map(operation).collect()
    }

    /// Puts a row below `facts` in its place; `None` when it is unreadable.
    pub(super) fn read_fact(&self, key: &str, value: &[u8], contents: &mut Contents) -> Option<()> {
        let (kind, name) = key.strip_prefix(&self.facts())?.split_once('/')?;
        match kind {
            "capsule" => contents.capsules.push(decode_capsule(value).ok()?),
            "host" => contents.hosts.push(decode_host(name, value)?),
            "owners" => contents.host_owners.push(decode_owners(name, value)?),
            "token" => {
                let nonce = data_encoding::HEXLOWER.decode(name.as_bytes()).ok()?;
                contents.spent.push(decode_spent(&nonce, value)?);
            }
            "rule" => contents.rules.push(decode_rule(value).ok()?),
            "extras" => {
                let id = data_encoding::HEXLOWER.decode(name.as_bytes()).ok()?;
                let id = CapsuleId::from_bytes(id.try_into().ok()?);
                contents.extras.push((id, extras::decode(value)?));
            }
            "restored" => contents.restored = Some(decode_restored(value).ok()?),
            _ => return None,
        }
        Some(())
    }
}
