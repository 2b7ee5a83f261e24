//! Responses and changes.

use std::net::SocketAddr;
use std::time::Duration;

use overlay_proto::{CapsuleId, Generation};
use prost::Message as _;

use super::message as wire;
use super::record::{capsule_from_wire, capsule_to_wire, host_from_wire, host_to_wire};
use super::rule::{rule_from_wire, rule_to_wire};
use super::{WatchPiece, WireError, assertion, bytes, error, needed, parsed};
use crate::limits::{ANCHORS_MAX, CHAIN_LENGTH_MAX, SNAPSHOT_CHUNK_RECORDS};
use crate::{
    AddedRecord, ApiError, Change, DirectoryAddresses, Issued, Lease, Response, RuleId, RuleSet, StaleCapsule,
};

pub(super) fn to_wire(response: &Response) -> wire::Response {
    use wire::ResponseKind as Kind;
    let kind = match response {
        Response::Error(refusal) => Kind::Error(error::to_wire(refusal)),
        Response::Issued(issued) => Kind::Issued(wire::Issued {
            chain: issued.chain.clone(),
            ca: issued.ca.clone(),
            api: texts(&issued.api),
            dns: texts(&issued.dns),
            also_trusted: issued.also_trusted.clone(),
        }),
        Response::Lease(lease) => Kind::Lease(wire::Lease {
            duration_ms: u64::try_from(lease.duration.as_millis()).unwrap_or(u64::MAX),
            host: Some(host_to_wire(&lease.host)),
            stale: lease.stale.iter().map(stale_to_wire).collect(),
            credentials: lease.credentials.map(|hash| hash.to_vec()).unwrap_or_default(),
            restoring: lease.restoring.as_ref().map(assertion::restoring_to_wire),
            api: texts(&lease.directories.api),
            dns: texts(&lease.directories.dns),
            locators: lease.locators.iter().map(ToString::to_string).collect(),
        }),
        Response::Capsule(record) => Kind::Capsule(capsule_to_wire(record)),
        Response::Capsules(records) => {
            Kind::Capsules(wire::Capsules { capsules: records.iter().map(capsule_to_wire).collect() })
        }
        Response::Hosts(records) => {
            Kind::Hosts(wire::Hosts { hosts: records.iter().map(host_to_wire).collect() })
        }
        Response::AddedRecords(records) => {
            Kind::AddedRecords(wire::AddedRecords { records: records.iter().map(added_to_wire).collect() })
        }
        Response::Rules(set) => Kind::Rules(wire::Rules {
            revision: set.revision,
            rules: set.rules.iter().map(rule_to_wire).collect(),
        }),
        Response::Done => Kind::Done(wire::Empty {}),
    };
    wire::Response { kind: Some(kind) }
}

pub(super) fn from_wire(response: wire::Response) -> Result<Response, WireError> {
    use wire::ResponseKind as Kind;
    Ok(match response.kind.ok_or(WireError::Unknown("response"))? {
        Kind::Error(refusal) => Response::Error(error::from_wire(refusal)?),
        Kind::Issued(issued) => Response::Issued(issued_from_wire(issued)?),
        Kind::Lease(lease) => Response::Lease(Lease {
            duration: Duration::from_millis(lease.duration_ms),
            host: host_from_wire(needed(lease.host, "host")?)?,
            stale: lease.stale.into_iter().map(stale_from_wire).collect::<Result<_, _>>()?,
            credentials: super::hash(&lease.credentials, "credentials")?,
            restoring: lease.restoring.map(assertion::restoring_from_wire).transpose()?,
            directories: DirectoryAddresses {
                api: addresses(&lease.api, "api")?,
                dns: addresses(&lease.dns, "dns")?,
            },
            locators: lease
                .locators
                .iter()
                .map(|network| parsed(network, "locators"))
                .collect::<Result<_, _>>()?,
        }),
        Kind::Capsule(record) => Response::Capsule(Box::new(capsule_from_wire(record)?)),
        Kind::Capsules(records) => {
            Response::Capsules(records.capsules.into_iter().map(capsule_from_wire).collect::<Result<_, _>>()?)
        }
        Kind::Hosts(records) => {
            Response::Hosts(records.hosts.into_iter().map(host_from_wire).collect::<Result<_, _>>()?)
        }
        Kind::AddedRecords(added) => {
            Response::AddedRecords(added.records.into_iter().map(added_from_wire).collect())
        }
        Kind::Rules(set) => Response::Rules(RuleSet {
            revision: set.revision,
            rules: set.rules.into_iter().map(rule_from_wire).collect::<Result<_, _>>()?,
        }),
        Kind::Done(wire::Empty {}) => Response::Done,
    })
}

fn added_to_wire(record: &AddedRecord) -> wire::AddedRecord {
    let AddedRecord { below, ttl_seconds, kind, data } = record.clone();
    wire::AddedRecord { below, ttl_seconds, kind, data }
}

fn added_from_wire(record: wire::AddedRecord) -> AddedRecord {
    let wire::AddedRecord { below, ttl_seconds, kind, data } = record;
    AddedRecord { below, ttl_seconds, kind, data }
}

fn issued_from_wire(issued: wire::Issued) -> Result<Issued, WireError> {
    if issued.chain.is_empty() || issued.chain.len() > CHAIN_LENGTH_MAX {
        return Err(WireError::Field("chain"));
    }
    if issued.also_trusted.len() >= ANCHORS_MAX {
        return Err(WireError::Field("also_trusted"));
    }
    Ok(Issued {
        api: addresses(&issued.api, "api")?,
        dns: addresses(&issued.dns, "dns")?,
        chain: issued.chain,
        ca: issued.ca,
        also_trusted: issued.also_trusted,
    })
}

fn texts(addresses: &[SocketAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

fn addresses(texts: &[String], field: &'static str) -> Result<Vec<SocketAddr>, WireError> {
    texts.iter().map(|text| parsed(text, field)).collect()
}

fn stale_to_wire(stale: &StaleCapsule) -> wire::Stale {
    let (host, generation) = match &stale.placed {
        Some((host, generation)) => (host.to_string(), generation.number()),
        None => (String::new(), 0),
    };
    wire::Stale { id: stale.id.as_bytes().to_vec(), host, generation }
}

fn stale_from_wire(stale: wire::Stale) -> Result<StaleCapsule, WireError> {
    Ok(StaleCapsule {
        id: CapsuleId::from_bytes(bytes(&stale.id, "id")?),
        placed: match stale.host.as_str() {
            "" => None,
            host => Some((parsed(host, "host")?, Generation::new(stale.generation))),
        },
    })
}

/// A change as encoded messages: one, or for a snapshot as many as its size needs.
pub(super) fn pieces_to_wire(change: &Change) -> Vec<Vec<u8>> {
    use wire::WatchKind as Kind;
    let kind = match change {
        Change::Snapshot { capsules, hosts, rules, .. } => {
            return snapshot_pieces(change.revision(), capsules, hosts, rules);
        }
        Change::Capsule { record, .. } => Kind::Capsule(capsule_to_wire(record)),
        Change::CapsuleRemoved { id, name, .. } => {
            Kind::CapsuleRemoved(wire::CapsuleRemoved { id: id.as_bytes().to_vec(), name: name.to_string() })
        }
        Change::Host { record, .. } => Kind::Host(host_to_wire(record)),
        Change::HostRemoved { name, .. } => Kind::HostRemoved(name.to_string()),
        Change::Rule { rule, .. } => Kind::Rule(rule_to_wire(rule)),
        Change::RuleRemoved { id, .. } => Kind::RuleRemoved(id.number()),
    };
    vec![wire::WatchEvent { revision: change.revision(), kind: Some(kind) }.encode_to_vec()]
}

/// The refusal of a watch.
pub(super) fn refusal_to_wire(refusal: &ApiError) -> Vec<u8> {
    let kind = wire::WatchKind::Error(error::to_wire(refusal));
    wire::WatchEvent { revision: 0, kind: Some(kind) }.encode_to_vec()
}

fn snapshot_pieces(
    revision: u64,
    capsules: &[crate::CapsuleRecord],
    hosts: &[crate::HostRecord],
    rules: &[crate::Rule],
) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    for chunk in rules.chunks(SNAPSHOT_CHUNK_RECORDS) {
        pieces.push(wire::SnapshotPiece {
            rules: chunk.iter().map(rule_to_wire).collect(),
            ..Default::default()
        });
    }
    for chunk in hosts.chunks(SNAPSHOT_CHUNK_RECORDS) {
        pieces.push(wire::SnapshotPiece {
            hosts: chunk.iter().map(host_to_wire).collect(),
            ..Default::default()
        });
    }
    for chunk in capsules.chunks(SNAPSHOT_CHUNK_RECORDS) {
        let capsules = chunk.iter().map(capsule_to_wire).collect();
        pieces.push(wire::SnapshotPiece { capsules, ..Default::default() });
    }
    pieces.push(wire::SnapshotPiece { last: true, ..Default::default() });
    let event = |piece| wire::WatchEvent { revision, kind: Some(wire::WatchKind::Snapshot(piece)) };
    pieces.into_iter().map(|piece| event(piece).encode_to_vec()).collect()
}

/// Reads one message of a watch.
pub(crate) fn piece_from_wire(message: &[u8]) -> Result<WatchPiece, WireError> {
    use wire::WatchKind as Kind;
    let event = wire::WatchEvent::decode(message)?;
    let revision = event.revision;
    Ok(match event.kind.ok_or(WireError::Unknown("change"))? {
        Kind::Snapshot(piece) => WatchPiece::Snapshot {
            last: piece.last,
            piece: Change::Snapshot {
                revision,
                capsules: piece.capsules.into_iter().map(capsule_from_wire).collect::<Result<_, _>>()?,
                hosts: piece.hosts.into_iter().map(host_from_wire).collect::<Result<_, _>>()?,
                rules: piece.rules.into_iter().map(rule_from_wire).collect::<Result<_, _>>()?,
            },
        },
        Kind::Capsule(record) => {
            WatchPiece::Change(Change::Capsule { revision, record: Box::new(capsule_from_wire(record)?) })
        }
        Kind::CapsuleRemoved(removed) => WatchPiece::Change(Change::CapsuleRemoved {
            revision,
            id: CapsuleId::from_bytes(bytes(&removed.id, "id")?),
            name: parsed(&removed.name, "name")?,
        }),
        Kind::Host(record) => WatchPiece::Change(Change::Host { revision, record: host_from_wire(record)? }),
        Kind::HostRemoved(name) => {
            WatchPiece::Change(Change::HostRemoved { revision, name: parsed(&name, "name")? })
        }
        Kind::Rule(rule) => WatchPiece::Change(Change::Rule { revision, rule: rule_from_wire(rule)? }),
        Kind::RuleRemoved(id) => WatchPiece::Change(Change::RuleRemoved { revision, id: RuleId::new(id) }),
        Kind::Error(refusal) => WatchPiece::Refused(error::from_wire(refusal)?),
    })
}
