//! Which store: `embedded`, or `etcd://HOST:PORT,…`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::ETCD_ENDPOINTS_MAX;

/// Where the facts are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum StoreAddress {
    /// In a file of the data directory, for one directory.
    #[default]
    Embedded,
    /// In etcd, reached at these places (`HOST:PORT`), for several directories.
    Etcd(Vec<String>),
}

/// A text that names no store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no store such as `embedded` or `etcd://10.0.0.1:2379,10.0.0.2:2379`")]
pub struct StoreAddressError(String);

impl FromStr for StoreAddress {
    type Err = StoreAddressError;

    fn from_str(text: &str) -> Result<Self, StoreAddressError> {
        let error = || StoreAddressError(text.chars().take(256).collect());
        if text == "embedded" {
            return Ok(Self::Embedded);
        }
        let endpoints: Vec<_> =
            text.strip_prefix("etcd://").ok_or_else(error)?.split(',').map(str::to_owned).collect();
        if endpoints.len() > ETCD_ENDPOINTS_MAX || !endpoints.iter().all(|endpoint| is_endpoint(endpoint)) {
            return Err(error());
        }
        Ok(Self::Etcd(endpoints))
    }
}

/// A name or an address, and a port.
fn is_endpoint(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let named = |character: char| character.is_ascii_alphanumeric() || ".-_".contains(character);
    let host_is_good = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(named),
    };
    host_is_good && port.parse::<u16>().is_ok_and(|port| port > 0)
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded"),
            Self::Etcd(endpoints) => write!(f, "etcd://{}", endpoints.join(",")),
        }
    }
}

impl TryFrom<String> for StoreAddress {
    type Error = StoreAddressError;

    fn try_from(text: String) -> Result<Self, StoreAddressError> {
        text.parse()
    }
}

impl From<StoreAddress> for String {
    fn from(address: StoreAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_read_and_written() {
        for text in ["embedded", "etcd://127.0.0.1:2379", "etcd://[fd00::1]:2379,etcd-2.example:2379"] {
            assert_eq!(text.parse::<StoreAddress>().unwrap().to_string(), text);
        }
        let bad =
            ["", "redb", "etcd://", "etcd://host", "etcd://a:0", "etcd://a:1,", "http://a:1", "etcd://a/b:1"];
        for bad in bad {
            assert!(bad.parse::<StoreAddress>().is_err(), "{bad}");
        }
    }
}
