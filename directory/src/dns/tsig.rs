//! Messages signed with a shared secret (RFC 8945), HMAC-SHA256: secondaries and owners prove who they are, and that
//! nothing was changed on the way.

use std::time::{SystemTime, UNIX_EPOCH};

use hickory_proto::rr::rdata::TSIG;
use hickory_proto::rr::rdata::tsig::{TsigAlgorithm, TsigError, make_tsig_record};
use hickory_proto::rr::{Name, TSigner};
use hickory_proto::serialize::binary::{BinEncodable as _, BinEncoder, NameEncoding};
use hickory_server::server::Request;
use overlay_proto::Owner;

/// How far clocks may be apart, seconds (RFC 8945, section 10).
const FUDGE_S: u16 = 300;

/// A shared secret and its name.
#[derive(Clone)]
pub struct Secret(TSigner);

/// A shared secret and what it is good for.
#[derive(Clone)]
pub struct Key {
    /// The secret.
    pub secret: Secret,
    /// What it is good for.
    pub role: Role,
}

/// What a secret is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// To get copies of the zones.
    Secondary,
    /// To change what was added to the records of this owner's capsules.
    Updater(Owner),
}

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
pub(super) enum Check<'k> {
    /// There is none.
    Unsigned,
    /// It is right, by this key; answers are signed in this chain.
    Good(&'k Key, Chain),
    /// It is not; the answer says why.
    Bad(Box<Fault>),
}

/// What is wrong with a signature.
pub(super) struct Fault {
    key_name: Name,
    record: TSIG,
    /// By which it is said, where the secret is right and the time is not.
    chain: Option<Chain>,
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

    /// Its name, without a final dot.
    pub fn name(&self) -> String {
        self.0.signer_name().to_string().trim_end_matches('.').to_owned()
    }
}

/// Checks a request against all keys.
pub(super) fn check<'k>(keys: &'k [Key], packet: &[u8], request: &Request, now: SystemTime) -> Check<'k> {
    let Some(signature) = &request.signature else { return Check::Unsigned };
    let name = signature.name.to_lowercase();
    let bad = |error, chain| {
        let TSIG { algorithm, time, fudge, oid, .. } = signature.data.clone();
        // RFC 8945, section 5.2.3: our time, by which the other side can set its clock.
        let other = match error {
            TsigError::BadTime => seconds(now).to_be_bytes()[2..].to_vec(),
            _ => vec![],
        };
        let record = TSIG::new(algorithm, time, fudge, vec![], oid, Some(error), other);
        Check::Bad(Box::new(Fault { key_name: name.clone(), record, chain }))
    };
    let Some(key) = keys.iter().find(|key| key.secret.0.signer_name() == &name) else {
        return bad(TsigError::BadKey, None);
    };
    if signature.data.algorithm != TsigAlgorithm::HmacSha256 {
        return bad(TsigError::BadKey, None);
    }
    let Ok((mac, at, _)) = key.secret.0.verify_message_byte(packet, None, true) else {
        return bad(TsigError::BadSig, None);
    };
    let chain = Chain { secret: key.secret.clone(), previous: Some(mac), is_going_on: false };
    if at.abs_diff(seconds(now)) > signature.data.fudge.into() {
        return bad(TsigError::BadTime, Some(chain));
    }
    Check::Good(key, chain)
}

impl Fault {
    /// Adds to an answer what is wrong with the request's signature.
    pub(super) fn explain(self, message: &mut Vec<u8>) -> Option<()> {
        match self.chain {
            Some(mut chain) => chain.add(message, self.record),
            None => append(message, self.key_name, self.record),
        }
    }
}

impl Chain {
    /// Begins with a message of ours.
    pub(super) fn new(secret: &Secret) -> Self {
        Self { secret: secret.clone(), previous: None, is_going_on: false }
    }

    /// Adds the signature to an encoded message.
    pub(super) fn sign(&mut self, message: &mut Vec<u8>, now: SystemTime) -> Option<()> {
        let id = u16::from_be_bytes(*message.first_chunk()?);
        self.add(
            message,
            TSIG::new(TsigAlgorithm::HmacSha256, seconds(now), FUDGE_S, vec![], id, None, vec![]),
        )
    }

    fn add(&mut self, message: &mut Vec<u8>, unsigned: TSIG) -> Option<()> {
        let signer = &self.secret.0;
        let mut signed = Vec::with_capacity(message.len() + 256);
        if let Some(previous) = &self.previous {
            signed.extend_from_slice(&u16::try_from(previous.len()).ok()?.to_be_bytes());
            signed.extend_from_slice(previous);
        }
        signed.extend_from_slice(message);
        if self.is_going_on {
            signed.extend_from_slice(&unsigned.time.to_be_bytes()[2..]);
            signed.extend_from_slice(&unsigned.fudge.to_be_bytes());
        } else {
            let mut variables = Vec::new();
            unsigned.emit_tsig_for_mac(&mut BinEncoder::new(&mut variables), signer.signer_name()).ok()?;
            signed.extend_from_slice(&variables);
        }
        let mac = signer.sign(&signed).ok()?;
        append(message, signer.signer_name().clone(), unsigned.set_mac(mac.clone()))?;
        self.previous = Some(mac);
        self.is_going_on = true;
        Some(())
    }
}

fn append(message: &mut Vec<u8>, key_name: Name, record: TSIG) -> Option<()> {
    let record = make_tsig_record(key_name, record);
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    // It is put behind a message whose names it does not know.
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    record.emit(&mut encoder).ok()?;
    message.extend_from_slice(&bytes);
    let count = u16::from_be_bytes(*message.get(10..)?.first_chunk()?).checked_add(1)?;
    message.get_mut(10..12)?.copy_from_slice(&count.to_be_bytes());
    Some(())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
