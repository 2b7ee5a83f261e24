//! Which store: `embedded`, or `etcd://[USER@]HOST:PORT,…`.

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
    /// In etcd, for several directories.
    Etcd(EtcdAddress),
}

/// Where etcd is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdAddress {
    /// As whom it knows the directory, by a password.
    pub user: Option<String>,
    /// Places at which it is reached (`HOST:PORT`).
    pub endpoints: Vec<String>,
}

/// A text that names no store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreAddressError {
    /// It is something else.
    #[error("`{0}` is no store such as `embedded` or `etcd://10.0.0.1:2379,10.0.0.2:2379`")]
    Unknown(String),
    /// It shows a secret, which is not repeated.
    #[error(
        "the password of etcd does not belong into its address: etcd://USER@HOST:PORT and store_password_file"
    )]
    Password,
}

impl FromStr for StoreAddress {
    type Err = StoreAddressError;

    fn from_str(text: &str) -> Result<Self, StoreAddressError> {
        let error = || StoreAddressError::Unknown(text.chars().take(256).collect());
        if text == "embedded" {
            return Ok(Self::Embedded);
        }
        let rest = text.strip_prefix("etcd://").ok_or_else(error)?;
        let (user, places) = match rest.rsplit_once('@') {
            Some((user, _)) if user.contains(':') => return Err(StoreAddressError::Password),
            Some((user, _)) if user.is_empty() || !user.chars().all(is_of_name) => return Err(error()),
            Some((user, places)) => (Some(user.to_owned()), places),
            None => (None, rest),
        };
        let endpoints: Vec<_> = places.split(',').map(str::to_owned).collect();
        if endpoints.len() > ETCD_ENDPOINTS_MAX || !endpoints.iter().all(|endpoint| is_endpoint(endpoint)) {
            return Err(error());
        }
        Ok(Self::Etcd(EtcdAddress { user, endpoints }))
    }
}

/// A name or an address, and a port.
fn is_endpoint(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host_is_good = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(is_of_name),
    };
    host_is_good && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
impl EtcdAddress {
    /// One place, without a user.
    pub(crate) fn at(endpoint: String) -> Self {
        Self { user: None, endpoints: vec![endpoint] }
    }
}

fn is_of_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || ".-_".contains(character)
}

impl fmt::Display for EtcdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        write!(f, "etcd://{user}{}", self.endpoints.join(","))
    }
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded"),
            Self::Etcd(address) => address.fmt(f),
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
        let good = [
            "embedded",
            "etcd://127.0.0.1:2379",
            "etcd://[fd00::1]:2379,etcd-2.example:2379",
            "etcd://capsule@127.0.0.1:2379,127.0.0.2:2379",
        ];
        for text in good {
            assert_eq!(text.parse::<StoreAddress>().unwrap().to_string(), text);
        }
        let bad = [
            "",
            "redb",
            "etcd://",
            "etcd://host",
            "etcd://a:0",
            "etcd://a:1,",
            "http://a:1",
            "etcd://a/b:1",
            "etcd://@a:1",
            "etcd://a@b@c:1",
        ];
        for bad in bad {
            assert!(bad.parse::<StoreAddress>().is_err(), "{bad}");
        }
        let shown = "etcd://me:secret@a:1".parse::<StoreAddress>().unwrap_err().to_string();
        assert!(shown.contains("store_password_file") && !shown.contains("secret"), "{shown}");
    }
}
