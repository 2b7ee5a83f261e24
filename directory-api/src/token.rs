//! One-time join tokens: self-contained, so that one can be made while the directory serves, and signed with a key that
//! only the directory has.
//!
//! ```text
//! capsule1-BASE64URL( payload ‖ BLAKE3-keyed(token key, payload) )     payload: zone, host, expiry, nonce, hash of the CA
//! ```
//!
//! That a token is used once is recorded by the directory under its nonce when it is spent.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use overlay_proto::{HostName, Owner};
use prost::Message as _;

use crate::limits::TOKEN_CHARACTERS_MAX;
use crate::wire::TokenPayload;
use crate::zone::Zone;

const PREFIX: &str = "capsule1-";
const MAC_BYTES: usize = 32;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The mesh's zone.
    pub zone: Zone,
    /// The host that may join with it.
    pub host: HostName,
    /// Whether verbs forwarded from that host are taken.
    pub operator: bool,
    /// Whose capsules the host may register; empty: anybody's.
    pub owners: Vec<Owner>,
    /// Until when it is good.
    pub expires_at: SystemTime,
    /// Makes the token the only one of its kind.
    pub nonce: [u8; 16],
    /// BLAKE3 hash of the CA's certificate (DER): by it the new host knows the directory.
    pub ca_hash: [u8; 32],
}

/// Why a text is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Cut, changed, or something else altogether.
    #[error("this is no join token (one begins with `capsule1-` and is a single line)")]
    Malformed,
    /// Not signed by this directory.
    #[error("the token was not made by this directory")]
    Forged,
}

impl Token {
    /// The token as printed, signed with the directory's key.
    pub fn sign(&self, key: &[u8; 32]) -> String {
        let payload = TokenPayload {
            zone: self.zone.to_string(),
            host: self.host.to_string(),
            operator: self.operator,
            owners: self.owners.iter().map(ToString::to_string).collect(),
            expires_at_s: self.expires_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            nonce: self.nonce.to_vec(),
            ca_hash: self.ca_hash.to_vec(),
        };
        let mut bytes = payload.encode_to_vec();
        let mac = blake3::keyed_hash(key, &bytes);
        bytes.extend_from_slice(mac.as_bytes());
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
    }

    /// Reads a token without checking who made it, as a new host must.
    ///
    /// # Errors
    /// When the text is no token.
    pub fn read(text: &str) -> Result<Self, TokenError> {
        let (payload, _) = split(text)?;
        parse(&payload)
    }

    /// Reads a token and checks that `key` signed it. Does not look at the time.
    ///
    /// # Errors
    /// When the text is no token, or signed with another key.
    pub fn verify(text: &str, key: &[u8; 32]) -> Result<Self, TokenError> {
        let (payload, mac) = split(text)?;
        // blake3's comparison takes the same time wherever the difference is.
        if blake3::keyed_hash(key, &payload) != blake3::Hash::from_bytes(mac) {
            return Err(TokenError::Forged);
        }
        parse(&payload)
    }
}

fn split(text: &str) -> Result<(Vec<u8>, [u8; MAC_BYTES]), TokenError> {
    let text = text.trim();
    if text.len() > TOKEN_CHARACTERS_MAX {
        return Err(TokenError::Malformed);
    }
    let body = text.strip_prefix(PREFIX).ok_or(TokenError::Malformed)?;
    let bytes = BASE64URL_NOPAD.decode(body.as_bytes()).map_err(|_| TokenError::Malformed)?;
    let (payload, mac) = bytes.split_last_chunk::<MAC_BYTES>().ok_or(TokenError::Malformed)?;
    Ok((payload.to_vec(), *mac))
}

fn parse(payload: &[u8]) -> Result<Token, TokenError> {
    let payload = TokenPayload::decode(payload).map_err(|_| TokenError::Malformed)?;
    let owners: Result<_, _> = payload.owners.iter().map(|owner| owner.parse()).collect();
    let expires_at = UNIX_EPOCH.checked_add(Duration::from_secs(payload.expires_at_s));
    Ok(Token {
        zone: payload.zone.parse().map_err(|_| TokenError::Malformed)?,
        host: payload.host.parse().map_err(|_| TokenError::Malformed)?,
        operator: payload.operator,
        owners: owners.map_err(|_| TokenError::Malformed)?,
        expires_at: expires_at.ok_or(TokenError::Malformed)?,
        nonce: payload.nonce.try_into().map_err(|_| TokenError::Malformed)?,
        ca_hash: payload.ca_hash.try_into().map_err(|_| TokenError::Malformed)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            zone: "capsule.internal".parse().unwrap(),
            host: "a".parse().unwrap(),
            operator: true,
            owners: vec!["ann".parse().unwrap()],
            expires_at: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            nonce: [7; 16],
            ca_hash: [9; 32],
        }
    }

    #[test]
    fn a_token_is_read_back() {
        let text = token().sign(&[1; 32]);
        assert_eq!(Token::read(&text).unwrap(), token());
        assert_eq!(Token::verify(&format!(" {text}\n"), &[1; 32]).unwrap(), token());
    }

    #[test]
    fn a_changed_token_is_refused() {
        let text = token().sign(&[1; 32]);
        assert_eq!(Token::verify(&text, &[2; 32]), Err(TokenError::Forged));
        let body = text.strip_prefix(PREFIX).unwrap();
        let mut bytes = BASE64URL_NOPAD.decode(body.as_bytes()).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            let changed = format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes));
            assert!(Token::verify(&changed, &[1; 32]).is_err(), "byte {at}");
            bytes[at] ^= 1;
        }
        for bad in ["", "capsule1-", "capsule1-!!", "hello", &text[..text.len() / 2], &"x".repeat(5000)] {
            assert!(Token::verify(bad, &[1; 32]).is_err(), "{bad}");
        }
    }
}
