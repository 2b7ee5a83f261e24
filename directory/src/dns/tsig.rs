//! Messages signed with a shared secret (RFC 8945), HMAC-SHA256: secondaries prove who they are, and that nothing was
//! changed on the way.

use std::time::{SystemTime, UNIX_EPOCH};

use hickory_proto::rr::rdata::TSIG;
use hickory_proto::rr::rdata::tsig::{TsigAlgorithm, make_tsig_record};
use hickory_proto::rr::{Name, TSigner};
use hickory_proto::serialize::binary::{BinEncodable as _, BinEncoder, NameEncoding};
use hickory_server::server::Request;

/// How far clocks may be apart, seconds (RFC 8945, section 10).
const FUDGE_S: u16 = 300;

/// A shared secret and its name.
#[derive(Clone)]
pub struct Secret(TSigner);

/// Why a secret can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The name is none.
    #[error("`{0}` is no name for a key")]
    Name(String),
    /// The crypto library refuses.
    #[error("HMAC-SHA256 is not there: {0}")]
    Algorithm(String),
}

/// What a request's signature is worth.
pub(super) enum Check {
    /// There is none.
    Unsigned,
    /// It is right; answers are signed in this chain.
    Good(Chain),
    /// It is not.
    Bad,
}

/// Messages of one exchange: each signature covers the one before.
pub(super) struct Chain {
    secret: Secret,
    previous: Option<Vec<u8>>,
    /// Whether a message of ours went out already: then only time is signed beside it (RFC 8945, section 5.3.1).
    is_going_on: bool,
}

impl Secret {
    /// Takes up a secret.
    ///
    /// # Errors
    /// When the name is none.
    pub fn new(name: &str, secret: Vec<u8>) -> Result<Self, SecretError> {
        let parsed = Name::from_ascii(name).map_err(|_| SecretError::Name(name.to_owned()))?;
        let signer = TSigner::new(secret, TsigAlgorithm::HmacSha256, parsed.to_lowercase(), FUDGE_S);
        Ok(Self(signer.map_err(|error| SecretError::Algorithm(error.to_string()))?))
    }
}

/// Checks a request against all secrets.
pub(super) fn check(secrets: &[Secret], packet: &[u8], request: &Request, now: SystemTime) -> Check {
    let Some(signature) = &request.signature else { return Check::Unsigned };
    let named = secrets.iter().find(|secret| secret.0.signer_name() == &signature.name.to_lowercase());
    let verified =
        named.and_then(|secret| Some((secret, secret.0.verify_message_byte(packet, None, true).ok()?)));
    match verified {
        Some((secret, (mac, _, good))) if good.contains(&seconds(now)) => {
            Check::Good(Chain { secret: secret.clone(), previous: Some(mac), is_going_on: false })
        }
        _ => Check::Bad,
    }
}

impl Chain {
    /// Begins with a message of ours.
    pub(super) fn new(secret: &Secret) -> Self {
        Self { secret: secret.clone(), previous: None, is_going_on: false }
    }

    /// Adds the signature to an encoded message.
    pub(super) fn sign(&mut self, message: &mut Vec<u8>, now: SystemTime) -> Option<()> {
        let signer = &self.secret.0;
        let id = u16::from_be_bytes(*message.first_chunk()?);
        let unsigned = TSIG::new(TsigAlgorithm::HmacSha256, seconds(now), FUDGE_S, vec![], id, None, vec![]);
        let mut signed = Vec::with_capacity(message.len() + 256);
        if let Some(previous) = &self.previous {
            signed.extend_from_slice(&u16::try_from(previous.len()).ok()?.to_be_bytes());
            signed.extend_from_slice(previous);
        }
        signed.extend_from_slice(message);
        if self.is_going_on {
            signed.extend_from_slice(&seconds(now).to_be_bytes()[2..]);
            signed.extend_from_slice(&FUDGE_S.to_be_bytes());
        } else {
            let mut variables = Vec::new();
            unsigned.emit_tsig_for_mac(&mut BinEncoder::new(&mut variables), signer.signer_name()).ok()?;
            signed.extend_from_slice(&variables);
        }
        let mac = signer.sign(&signed).ok()?;
        let record = make_tsig_record(signer.signer_name().clone(), unsigned.set_mac(mac.clone()));
        let mut bytes = Vec::new();
        let mut encoder = BinEncoder::new(&mut bytes);
        // It is put behind a message whose names it does not know.
        encoder.set_name_encoding(NameEncoding::Uncompressed);
        record.emit(&mut encoder).ok()?;
        message.extend_from_slice(&bytes);
        let count = u16::from_be_bytes([message[10], message[11]]).checked_add(1)?;
        message[10..12].copy_from_slice(&count.to_be_bytes());
        self.previous = Some(mac);
        self.is_going_on = true;
        Some(())
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
