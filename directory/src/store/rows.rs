//! How facts are encoded, the same in every store: `prost` messages with tagged fields, none of which is ever used again
//! for something else.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use overlay_proto::{HostName, Owner};
use prost::Message as _;

use super::{SpentToken, StoredHost};

#[derive(Clone, PartialEq, prost::Message)]
struct HostRow {
    #[prost(bool, tag = "1")]
    operator: bool,
    #[prost(string, tag = "2")]
    address: String,
    /// Its lease ran out. Rows from before this was kept say that it did not.
    #[prost(bool, tag = "3")]
    silent: bool,
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

/// A host, without its name.
pub(super) fn encode_host(host: &StoredHost) -> Vec<u8> {
    let address = host.address.map(|address| address.to_string()).unwrap_or_default();
    HostRow { operator: host.operator, address, silent: !host.alive }.encode_to_vec()
}

/// `None` for what is no host.
pub(super) fn decode_host(name: &str, row: &[u8]) -> Option<StoredHost> {
    let row = HostRow::decode(row).ok()?;
    let address = match row.address.as_str() {
        "" => None,
        address => Some(address.parse().ok()?),
    };
    // A host without an address never had a lease.
    let alive = !row.silent && address.is_some();
    Some(StoredHost { name: name.parse().ok()?, operator: row.operator, address, alive })
}

/// Whose capsules a host may register, without its name.
pub(super) fn encode_owners(owners: &[Owner]) -> Vec<u8> {
    OwnersRow { owners: owners.iter().map(ToString::to_string).collect() }.encode_to_vec()
}

/// `None` for what is no list of owners.
pub(super) fn decode_owners(name: &str, row: &[u8]) -> Option<(HostName, Vec<Owner>)> {
    let row = OwnersRow::decode(row).ok()?;
    let owners: Result<_, _> = row.owners.iter().map(|owner| owner.parse()).collect();
    Some((name.parse().ok()?, owners.ok()?))
}

/// A used token, without its nonce.
pub(super) fn encode_spent(token: &SpentToken) -> Vec<u8> {
    SpentRow { expires_at_s: seconds(token.expires_at), key_hash: token.key_hash.to_vec() }.encode_to_vec()
}

/// `None` for what is no used token.
pub(super) fn decode_spent(nonce: &[u8], row: &[u8]) -> Option<SpentToken> {
    let row = SpentRow::decode(row).ok()?;
    Some(SpentToken {
        nonce: nonce.try_into().ok()?,
        expires_at: UNIX_EPOCH.checked_add(Duration::from_secs(row.expires_at_s))?,
        key_hash: row.key_hash.try_into().ok()?,
    })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
