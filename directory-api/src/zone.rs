//! The DNS zone of a mesh, and the names made from it.

use std::fmt;
use std::str::FromStr;

use overlay_proto::{CapsuleName, HostName};

/// A zone name: lower-case DNS labels joined by dots, without the final dot, such as `capsule.internal`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zone(Box<str>);

/// Why a text is no zone name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no zone name: {reason}")]
pub struct ZoneError {
    text: String,
    reason: &'static str,
}

/// Longest zone name: leaves room for `_capsule._udp.` and a label of 63 within DNS's 253 (RFC 1035, section 2.3.4).
const ZONE_CHARACTERS_MAX: usize = 170;

impl Zone {
    /// The zone name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name under which a host is found and proves itself: `NAME.hosts.ZONE`.
    pub fn host(&self, name: &HostName) -> String {
        format!("{name}.hosts.{self}")
    }

    /// The name of a capsule: `NAME.ZONE`.
    pub fn capsule(&self, name: &CapsuleName) -> String {
        format!("{name}.{self}")
    }

    /// The name under which the directory proves itself: `directory.ZONE`.
    pub fn directory(&self) -> String {
        format!("directory.{self}")
    }
}

impl FromStr for Zone {
    type Err = ZoneError;

    fn from_str(text: &str) -> Result<Self, ZoneError> {
        let bad = |reason| ZoneError { text: text.chars().take(64).collect(), reason };
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if name.is_empty() || name.len() > ZONE_CHARACTERS_MAX {
            return Err(bad("1 to 170 characters are needed"));
        }
        for label in name.split('.') {
            if label.is_empty() || label.len() > 63 {
                return Err(bad("each label needs 1 to 63 characters"));
            }
            if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
                return Err(bad("only letters, digits and `-` are allowed"));
            }
            if label.starts_with('-') || label.ends_with('-') {
                return Err(bad("no label may begin or end with `-`"));
            }
        }
        Ok(Self(name.into()))
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Zone;

    #[test]
    fn zones_are_normalized_and_checked() {
        assert_eq!("Capsule.Internal.".parse::<Zone>().unwrap().as_str(), "capsule.internal");
        for bad in ["", ".", "a..b", "-a", "a-.b", "a_b", "a b", &"a.".repeat(100)] {
            assert!(bad.parse::<Zone>().is_err(), "{bad}");
        }
    }
}
