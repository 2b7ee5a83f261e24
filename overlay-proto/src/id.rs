//! Identifiers. None of them can make itself up: random bytes are an argument.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is no identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Wrong number of digits.
    #[error("has {found} characters, {expected} hexadecimal digits are needed")]
    Length {
        /// Digits needed.
        expected: usize,
        /// Characters found.
        found: usize,
    },
    /// A character that is no hexadecimal digit.
    #[error("character {at} is no hexadecimal digit")]
    Digit {
        /// Position, from 0.
        at: usize,
    },
    /// Not a number.
    #[error("is no number from 0 to 18446744073709551615")]
    Number,
}

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $length:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; $length]);

        impl $name {
            /// Wraps bytes drawn elsewhere.
            pub const fn from_bytes(bytes: [u8; $length]) -> Self {
                Self(bytes)
            }

            /// The bytes, as they go over the wire.
            pub const fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_hex(text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                to_hex(&id.0)
            }
        }
    };
}

macro_rules! shown_as_hex {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

bytes_id!(
    /// A capsule, for life; sessions and generations belong to it, not to its name.
    CapsuleId,
    16
);
shown_as_hex!(CapsuleId);

bytes_id!(
    /// One TCP connection of a capsule as the mesh sees it.
    SessionId,
    16
);
shown_as_hex!(SessionId);

bytes_id!(
    /// One offer of a capsule to another host.
    OfferId,
    16
);
shown_as_hex!(OfferId);

bytes_id!(
    /// The secret that lets the target of an offer claim the capsule. Never printed; serialized only into journals.
    ClaimKey,
    32
);

impl ClaimKey {
    /// What the directory is told in its place.
    pub fn hash(&self) -> ClaimKeyHash {
        ClaimKeyHash(*blake3::hash(&self.0).as_bytes())
    }
}

impl fmt::Debug for ClaimKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClaimKey(…)")
    }
}

bytes_id!(
    /// BLAKE3 hash of a claim key.
    ClaimKeyHash,
    32
);
shown_as_hex!(ClaimKeyHash);

/// How often the place of a capsule was decided anew: +1 at every claim, revoke, suspend, resume and takeover.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(u64);

impl Generation {
    /// Wraps a number kept elsewhere.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The generation after this one. Stays at the last one of 2⁶⁴.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Generation {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        text.parse().map(Self).map_err(|_| IdError::Number)
    }
}

/// The capsule's own addresses, the same for life and valid on any host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Locators {
    /// IPv4 locator.
    pub v4: Ipv4Addr,
    /// IPv6 locator.
    pub v6: Ipv6Addr,
}

impl Locators {
    /// Whether the address is one of the two; an IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(v4) => v4 == self.v4,
            IpAddr::V6(v6) => v6 == self.v6,
        }
    }
}

impl fmt::Display for Locators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.v4, self.v6)
    }
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

fn parse_hex<const LENGTH: usize>(text: &str) -> Result<[u8; LENGTH], IdError> {
    let found = text.chars().count();
    if found != LENGTH * 2 {
        return Err(IdError::Length { expected: LENGTH * 2, found });
    }
    let mut bytes = [0; LENGTH];
    for (at, character) in text.chars().enumerate() {
        let digit =
            character.to_digit(16).and_then(|digit| u8::try_from(digit).ok()).ok_or(IdError::Digit { at })?;
        bytes[at / 2] = bytes[at / 2] << 4 | digit;
    }
    Ok(bytes)
}
