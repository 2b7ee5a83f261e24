//! Head and body as messages.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use directory_api::stored::{
    decode_capsule, decode_restored, decode_rule, encode_capsule, encode_restored, encode_rule,
};
use overlay_proto::CapsuleId;
use prost::Message as _;

use super::{BackupError, Head, KeptFile};
use crate::extras;
use crate::store::{Contents, SpentToken, StoredHost};

#[derive(Clone, PartialEq, prost::Message)]
struct HeadMessage {
    #[prost(string, tag = "1")]
    zone: String,
    #[prost(bytes = "vec", tag = "2")]
    ca_hash: Vec<u8>,
    #[prost(uint64, tag = "3")]
    taken_at_ms: u64,
    #[prost(uint64, tag = "4")]
    revision: u64,
    #[prost(uint64, tag = "5")]
    capsules: u64,
    #[prost(uint64, tag = "6")]
    hosts: u64,
    #[prost(bool, tag = "7")]
    sealed: bool,
    #[prost(string, repeated, tag = "8")]
    files: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct BodyMessage {
    #[prost(message, optional, tag = "1")]
    facts: Option<FactsMessage>,
    #[prost(message, repeated, tag = "2")]
    files: Vec<FileMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FileMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    content: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FactsMessage {
    #[prost(uint64, tag = "1")]
    revision: u64,
    #[prost(uint64, tag = "2")]
    locator_next: u64,
    /// Each as in the store.
    #[prost(bytes = "vec", repeated, tag = "3")]
    capsules: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "4")]
    hosts: Vec<HostMessage>,
    #[prost(message, repeated, tag = "5")]
    spent: Vec<SpentMessage>,
    #[prost(message, repeated, tag = "6")]
    host_owners: Vec<OwnersMessage>,
    #[prost(bytes = "vec", repeated, tag = "7")]
    rules: Vec<Vec<u8>>,
    /// Empty: none.
    #[prost(bytes = "vec", tag = "8")]
    restored: Vec<u8>,
    #[prost(message, repeated, tag = "9")]
    extras: Vec<ExtrasMessage>,
}

/// What was added to a capsule's records, as the store keeps it.
#[derive(Clone, PartialEq, prost::Message)]
struct ExtrasMessage {
    #[prost(bytes = "vec", tag = "1")]
    capsule: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    records: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HostMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bool, tag = "2")]
    operator: bool,
    /// Empty before its first lease.
    #[prost(string, tag = "3")]
    address: String,
    /// Its lease had run out. Backups from before this was kept say that it had not.
    #[prost(bool, tag = "4")]
    silent: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SpentMessage {
    #[prost(bytes = "vec", tag = "1")]
    nonce: Vec<u8>,
    #[prost(uint64, tag = "2")]
    expires_at_s: u64,
    #[prost(bytes = "vec", tag = "3")]
    key_hash: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OwnersMessage {
    #[prost(string, tag = "1")]
    host: String,
    #[prost(string, repeated, tag = "2")]
    owners: Vec<String>,
}

pub(super) fn encode_head(head: &Head) -> Vec<u8> {
    let since = head.taken_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let message = HeadMessage {
        zone: head.zone.clone(),
        ca_hash: head.ca_hash.to_vec(),
        taken_at_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        revision: head.revision,
        capsules: head.capsules,
        hosts: head.hosts,
        sealed: head.sealed,
        files: head.files.clone(),
    };
    message.encode_to_vec()
}

pub(super) fn decode_head(bytes: &[u8]) -> Result<Head, BackupError> {
    let unreadable = BackupError::Unreadable { what: "head" };
    let Ok(head) = HeadMessage::decode(bytes) else { return Err(unreadable) };
    let taken_at = UNIX_EPOCH.checked_add(Duration::from_millis(head.taken_at_ms));
    let (Ok(ca_hash), Some(taken_at)) = (head.ca_hash.try_into(), taken_at) else { return Err(unreadable) };
    Ok(Head {
        zone: head.zone,
        ca_hash,
        taken_at,
        revision: head.revision,
        capsules: head.capsules,
        hosts: head.hosts,
        sealed: head.sealed,
        files: head.files,
    })
}

pub(super) fn encode_body(facts: &Contents, files: &[KeptFile]) -> Vec<u8> {
    let file = |file: &KeptFile| FileMessage { name: file.name.clone(), content: file.content.clone() };
    let body = BodyMessage { facts: Some(facts_to_message(facts)), files: files.iter().map(file).collect() };
    body.encode_to_vec()
}

pub(super) fn decode_body(bytes: &[u8]) -> Result<(Contents, Vec<KeptFile>), BackupError> {
    let unreadable = || BackupError::Unreadable { what: "body" };
    let body = BodyMessage::decode(bytes).map_err(|_| unreadable())?;
    let facts = facts_from_message(body.facts.ok_or_else(unreadable)?)?;
    let file = |file: FileMessage| KeptFile { name: file.name, content: file.content };
    Ok((facts, body.files.into_iter().map(file).collect()))
}

/// The facts of a store as bytes.
pub fn encode_facts(facts: &Contents) -> Vec<u8> {
    facts_to_message(facts).encode_to_vec()
}

/// Reads the facts of a store.
///
/// # Errors
/// When the bytes are none.
pub fn decode_facts(bytes: &[u8]) -> Result<Contents, BackupError> {
    let facts = FactsMessage::decode(bytes).map_err(|_| BackupError::Unreadable { what: "facts" })?;
    facts_from_message(facts)
}

fn facts_to_message(facts: &Contents) -> FactsMessage {
    let host = |host: &StoredHost| HostMessage {
        name: host.name.to_string(),
        operator: host.operator,
        address: host.address.map(|address| address.to_string()).unwrap_or_default(),
        silent: !host.alive,
    };
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let spent = |token: &SpentToken| SpentMessage {
        nonce: token.nonce.to_vec(),
        expires_at_s: seconds(token.expires_at),
        key_hash: token.key_hash.to_vec(),
    };
    FactsMessage {
        revision: facts.revision,
        locator_next: facts.locator_next,
        capsules: facts.capsules.iter().map(encode_capsule).collect(),
        hosts: facts.hosts.iter().map(host).collect(),
        spent: facts.spent.iter().map(spent).collect(),
        host_owners: facts
            .host_owners
            .iter()
            .map(|(host, owners)| OwnersMessage {
                host: host.to_string(),
                owners: owners.iter().map(ToString::to_string).collect(),
            })
            .collect(),
        rules: facts.rules.iter().map(encode_rule).collect(),
        restored: facts.restored.as_ref().map(encode_restored).unwrap_or_default(),
        extras: facts
            .extras
            .iter()
            .map(|(id, records)| ExtrasMessage {
                capsule: id.as_bytes().to_vec(),
                records: extras::encode(records),
            })
            .collect(),
    }
}

fn facts_from_message(facts: FactsMessage) -> Result<Contents, BackupError> {
    let unreadable = |what: &'static str| BackupError::Unreadable { what };
    let host = |host: HostMessage| {
        let broken = || unreadable("hosts");
        let address = match host.address.as_str() {
            "" => None,
            address => Some(address.parse().map_err(|_| broken())?),
        };
        // A host without an address never had a lease.
        let alive = !host.silent && address.is_some();
        Ok(StoredHost {
            name: host.name.parse().map_err(|_| broken())?,
            operator: host.operator,
            address,
            alive,
        })
    };
    let spent = |token: SpentMessage| {
        let broken = || unreadable("tokens");
        let expires_at = UNIX_EPOCH.checked_add(Duration::from_secs(token.expires_at_s));
        Ok(SpentToken {
            nonce: token.nonce.try_into().map_err(|_| broken())?,
            expires_at: expires_at.ok_or_else(broken)?,
            key_hash: token.key_hash.try_into().map_err(|_| broken())?,
        })
    };
    let owners = |row: OwnersMessage| {
        let broken = || unreadable("hosts' owners");
        let owners: Result<_, _> = row.owners.iter().map(|owner| owner.parse()).collect();
        Ok((row.host.parse().map_err(|_| broken())?, owners.map_err(|_| broken())?))
    };
    let capsule = |row: &Vec<u8>| decode_capsule(row).map_err(|_| unreadable("capsules"));
    let rule = |row: &Vec<u8>| decode_rule(row).map_err(|_| unreadable("rules"));
    let extras = |row: ExtrasMessage| {
        let broken = || unreadable("added records");
        let id = CapsuleId::from_bytes(row.capsule.try_into().map_err(|_| broken())?);
        Ok((id, extras::decode(&row.records).ok_or_else(broken)?))
    };
    Ok(Contents {
        revision: facts.revision,
        locator_next: facts.locator_next,
        capsules: facts.capsules.iter().map(capsule).collect::<Result<_, _>>()?,
        hosts: facts.hosts.into_iter().map(host).collect::<Result<_, BackupError>>()?,
        spent: facts.spent.into_iter().map(spent).collect::<Result<_, BackupError>>()?,
        host_owners: facts.host_owners.into_iter().map(owners).collect::<Result<_, BackupError>>()?,
        rules: facts.rules.iter().map(rule).collect::<Result<_, _>>()?,
        extras: facts.extras.into_iter().map(extras).collect::<Result<_, BackupError>>()?,
        restored: match facts.restored.as_slice() {
            [] => None,
            restored => Some(decode_restored(restored).map_err(|_| unreadable("restore"))?),
        },
    })
}
