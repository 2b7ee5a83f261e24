//! The head: the one key that every commit rewrites, guarded by the version before. Its versions are the mesh's history,
//! each naming the one before, with everything that was changed. Pure.

use directory_api::RuleId;
use directory_api::stored::{
    decode_capsule, decode_restored, decode_rule, encode_capsule, encode_restored, encode_rule,
};
use overlay_proto::CapsuleId;
use prost::Message as _;

use crate::extras;
use crate::store::Write;
use crate::store::rows::{
    decode_host, decode_owners, decode_spent, encode_host, encode_owners, encode_spent,
};

/// One version of the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// The mesh's revision after it.
    pub(super) revision: u64,
    /// The number from which the next locator is looked for.
    pub(super) locator_next: u64,
    /// etcd's revision of the version before; 0 for none.
    pub(super) previous: i64,
    /// Drawn for this commit, to know it again when its answer was lost.
    pub(super) nonce: [u8; 16],
    /// What it changed, in order.
    pub(super) writes: Vec<Write>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HeadRow {
    #[prost(uint64, tag = "1")]
    revision: u64,
    #[prost(uint64, tag = "2")]
    locator_next: u64,
    #[prost(int64, tag = "3")]
    previous: i64,
    #[prost(bytes = "vec", tag = "4")]
    nonce: Vec<u8>,
    #[prost(message, repeated, tag = "5")]
    writes: Vec<WriteRow>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WriteRow {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(uint64, tag = "1")]
    Revision(u64),
    #[prost(uint64, tag = "2")]
    LocatorNext(u64),
    #[prost(bytes = "vec", tag = "3")]
    Capsule(Vec<u8>),
    #[prost(bytes = "vec", tag = "4")]
    CapsuleRemoved(Vec<u8>),
    #[prost(message, tag = "5")]
    Host(NamedRow),
    #[prost(string, tag = "6")]
    HostRemoved(String),
    #[prost(message, tag = "7")]
    HostOwners(NamedRow),
    #[prost(message, tag = "8")]
    TokenSpent(NoncedRow),
    #[prost(bytes = "vec", tag = "9")]
    TokenForgotten(Vec<u8>),
    #[prost(bytes = "vec", tag = "10")]
    Rule(Vec<u8>),
    #[prost(uint64, tag = "11")]
    RuleRemoved(u64),
    #[prost(message, tag = "12")]
    Extras(ExtrasRow),
    /// Empty: there is none any more.
    #[prost(bytes = "vec", tag = "13")]
    Restored(Vec<u8>),
}

#[derive(Clone, PartialEq, prost::Message)]
struct NamedRow {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    row: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NoncedRow {
    #[prost(bytes = "vec", tag = "1")]
    nonce: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    row: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ExtrasRow {
    #[prost(bytes = "vec", tag = "1")]
    capsule: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    records: Vec<u8>,
}

impl Head {
    pub(super) fn encode(&self) -> Vec<u8> {
        let writes = self.writes.iter().map(|write| WriteRow { kind: Some(to_row(write)) }).collect();
        let (revision, locator_next, previous) = (self.revision, self.locator_next, self.previous);
        HeadRow { revision, locator_next, previous, nonce: self.nonce.to_vec(), writes }.encode_to_vec()
    }

    /// `None` for what is no head that this version knows.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let row = HeadRow::decode(bytes).ok()?;
        let writes = row.writes.into_iter().map(|write| from_row(write.kind?)).collect::<Option<_>>()?;
        Some(Self {
            revision: row.revision,
            locator_next: row.locator_next,
            previous: row.previous,
            nonce: row.nonce.try_into().ok()?,
            writes,
        })
    }
}

fn to_row(write: &Write) -> Kind {
    match write {
        Write::Revision(revision) => Kind::Revision(*revision),
        Write::LocatorNext(next) => Kind::LocatorNext(*next),
        Write::Capsule(record) => Kind::Capsule(encode_capsule(record)),
        Write::CapsuleRemoved(id) => Kind::CapsuleRemoved(id.as_bytes().to_vec()),
        Write::Host(host) => Kind::Host(NamedRow { name: host.name.to_string(), row: encode_host(host) }),
        Write::HostRemoved(name) => Kind::HostRemoved(name.to_string()),
        Write::HostOwners(name, owners) => {
            Kind::HostOwners(NamedRow { name: name.to_string(), row: encode_owners(owners) })
        }
        Write::TokenSpent(token) => {
            Kind::TokenSpent(NoncedRow { nonce: token.nonce.to_vec(), row: encode_spent(token) })
        }
        Write::TokenForgotten(nonce) => Kind::TokenForgotten(nonce.to_vec()),
        Write::Rule(rule) => Kind::Rule(encode_rule(rule)),
        Write::RuleRemoved(id) => Kind::RuleRemoved(id.number()),
        Write::Extras(id, records) => {
            Kind::Extras(ExtrasRow { capsule: id.as_bytes().to_vec(), records: extras::encode(records) })
        }
        Write::Restored(restored) => {
            Kind::Restored(restored.as_deref().map(encode_restored).unwrap_or_default())
        }
    }
}

fn from_row(kind: Kind) -> Option<Write> {
    Some(match kind {
        Kind::Revision(revision) => Write::Revision(revision),
        Kind::LocatorNext(next) => Write::LocatorNext(next),
        Kind::Capsule(row) => Write::Capsule(Box::new(decode_capsule(&row).ok()?)),
        Kind::CapsuleRemoved(id) => Write::CapsuleRemoved(CapsuleId::from_bytes(id.try_into().ok()?)),
        Kind::Host(NamedRow { name, row }) => Write::Host(decode_host(&name, &row)?),
        Kind::HostRemoved(name) => Write::HostRemoved(name.parse().ok()?),
        Kind::HostOwners(NamedRow { name, row }) => {
            let (name, owners) = decode_owners(&name, &row)?;
            Write::HostOwners(name, owners)
        }
        Kind::TokenSpent(NoncedRow { nonce, row }) => Write::TokenSpent(decode_spent(&nonce, &row)?),
        Kind::TokenForgotten(nonce) => Write::TokenForgotten(nonce.try_into().ok()?),
        Kind::Rule(row) => Write::Rule(decode_rule(&row).ok()?),
        Kind::RuleRemoved(id) => Write::RuleRemoved(RuleId::new(id)),
        Kind::Extras(ExtrasRow { capsule, records }) => {
            Write::Extras(CapsuleId::from_bytes(capsule.try_into().ok()?), extras::decode(&records)?)
        }
        Kind::Restored(row) if row.is_empty() => Write::Restored(None),
        Kind::Restored(row) => Write::Restored(Some(Box::new(decode_restored(&row).ok()?))),
    })
}

/// Splits writes into portions that change at most so many facts each. A change and its revision stay together.
pub(super) fn portions(writes: &[Write], keys_max: usize) -> Vec<&[Write]> {
    let (mut portions, mut begin, mut end, mut keys) = (Vec::new(), 0, 0, 0);
    for group in writes.split_inclusive(|write| matches!(write, Write::Revision(_))) {
        // Behind the last revision each write stands for itself.
        let whole = matches!(group.last(), Some(Write::Revision(_)));
        for part in group.chunks(if whole { group.len() } else { 1 }) {
            let part_keys = part.iter().map(keys_of).sum::<usize>();
            if keys + part_keys > keys_max && keys > 0 {
                portions.push(&writes[begin..end]);
                (begin, keys) = (end, 0);
            }
            (end, keys) = (end + part.len(), keys + part_keys);
        }
    }
    if begin < end {
        portions.push(&writes[begin..end]);
    }
    portions
}

/// How many keys a write touches.
fn keys_of(write: &Write) -> usize {
    match write {
        Write::Revision(_) | Write::LocatorNext(_) => 0,
        Write::HostRemoved(_) => 2,
        Write::Capsule(_)
        | Write::CapsuleRemoved(_)
        | Write::Host(_)
        | Write::HostOwners(..)
        | Write::TokenSpent(_)
        | Write::TokenForgotten(_)
        | Write::Rule(_)
        | Write::RuleRemoved(_)
        | Write::Extras(..)
        | Write::Restored(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forget(number: u8) -> Write {
        Write::TokenForgotten([number; 16])
    }

    #[test]
    fn portions_keep_a_change_with_its_revision() {
        let writes: Vec<_> =
            (0..10).flat_map(|n| [forget(n), forget(n + 100), Write::Revision(n.into())]).collect();
        let portions = portions(&writes, 5);
        assert_eq!(portions.len(), 5);
        assert!(portions.iter().all(|portion| matches!(portion.last(), Some(Write::Revision(_)))));
        assert_eq!(portions.concat(), writes);
    }

    #[test]
    fn what_has_no_revision_is_split_anywhere_and_bare_revisions_fill_nothing() {
        let mut writes = vec![Write::HostRemoved("a".parse().unwrap())];
        writes.extend((1..1000).map(Write::Revision));
        writes.extend((0..11).map(forget));
        let split = portions(&writes, 4);
        assert_eq!(split.iter().map(|portion| portion.len()).collect::<Vec<_>>(), [1002, 4, 4, 1]);
        assert_eq!(split.concat(), writes);
        assert!(portions(&[], 4).is_empty());
    }
}
