//! Signs record sets when they are asked for, and keeps the signatures.
//!
//! Time goes in periods: all signatures made in one have the same beginning and end, so a signature is a function of what
//! it signs and can be kept under the hash of that. Nothing has to be invalidated: what changed has another hash.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hickory_proto::dnssec::crypto::Ed25519SigningKey;
use hickory_proto::dnssec::rdata::{DNSSECRData, DS, RRSIG, SigInput};
use hickory_proto::dnssec::{Algorithm, DigestType, SigningKey as _, TBS};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType, SerialNumber};
use rustls::pki_types::PrivatePkcs8KeyDer;

use crate::limits::{SIGNATURE_SHARDS, SIGNATURES_MAX};
use crate::zone::ZoneKey;
use crate::zone_keys::{PrivateKey, ZoneKeys};

use super::records::dnskey;

/// How often all signatures are made anew.
const PERIOD: Duration = Duration::from_secs(24 * 3600);
/// How long a signature is good behind the beginning of its period. A secondary that can't reach us stops at its SOA's
/// expiry, a day, so what it serves never runs out.
const LIFE: Duration = Duration::from_secs(14 * 24 * 3600);
/// Signatures begin before their period, for validators whose clocks are behind.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(3600);

/// Why the keys can't be used.
#[derive(Debug, thiserror::Error)]
#[error("a key is broken: {0}")]
pub struct KeyError(String);

/// Signs for all zones.
pub struct Signer {
    round: RwLock<Arc<Round>>,
    kept: Kept,
}

/// The keys and the period; what is signed within one round agrees with itself.
pub struct Round {
    /// Those that are shown, the one that signs first.
    keys: Vec<Key>,
    /// The same as records.
    public: Vec<ZoneKey>,
    inception: u32,
    expiration: u32,
    number: u64,
}

struct Key {
    signing: Ed25519SigningKey,
    tag: u16,
}

/// Figures about the signing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Signing {
    /// Signatures made since the start.
    pub made: u64,
    /// Signatures kept.
    pub kept: u64,
    /// Keys that are shown.
    pub keys: u64,
    /// When signatures that are made at present expire, seconds since 1970.
    pub expiration_s: u64,
}

/// Makes a key.
///
/// # Errors
/// When the crypto library fails.
pub fn generate() -> Result<PrivateKey, KeyError> {
    let pkcs8 = Ed25519SigningKey::generate_pkcs8().map_err(|error| KeyError(error.to_string()))?;
    Ok(PrivateKey::new(pkcs8.secret_pkcs8_der()))
}

/// The DS records of a zone for all keys shown, as text: one a line, SHA-256.
///
/// # Errors
/// When a key is broken.
pub fn delegations(zone: &str, keys: &ZoneKeys, now: SystemTime) -> Result<Vec<String>, KeyError> {
    let broken = |what: &str| KeyError(what.to_owned());
    let name = super::records::name(zone).ok_or_else(|| broken("the zone's name is too long"))?;
    keys.shown(now)
        .map(|key| {
            let public = public(&open(key)?)?;
            let digest = dnskey(&public)
                .to_digest(&name, DigestType::SHA256)
                .map_err(|error| KeyError(error.to_string()))?;
            let ds = DS::new(tag(&public)?, Algorithm::ED25519, DigestType::SHA256, digest.as_ref().to_vec());
            Ok(format!("{name} IN DS {ds}"))
        })
        .collect()
}

impl Signer {
    /// Begins with these keys.
    ///
    /// # Errors
    /// When a key is broken.
    pub fn new(keys: &ZoneKeys, now: SystemTime) -> Result<Self, KeyError> {
        let round = RwLock::new(Arc::new(Round::new(keys, now, 0)?));
        Ok(Self { round, kept: Kept::new() })
    }

    /// How the signing goes.
    pub fn figures(&self) -> Signing {
        let (round, count) = (self.round(), |count: usize| u64::try_from(count).unwrap_or(u64::MAX));
        Signing {
            made: self.kept.made.load(Ordering::Relaxed),
            kept: count(self.kept.len()),
            keys: count(round.keys.len()),
            expiration_s: round.expiration.into(),
        }
    }

    /// The present round.
    pub fn round(&self) -> Arc<Round> {
        self.round.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Goes on with these keys at this time; says whether anything is different.
    ///
    /// # Errors
    /// When a key is broken; everything stays as it was.
    pub fn renew(&self, keys: &ZoneKeys, now: SystemTime) -> Result<bool, KeyError> {
        let old = self.round();
        let new = Round::new(keys, now, old.number + 1)?;
        if new.public == old.public && new.inception == old.inception {
            return Ok(false);
        }
        *self.round.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        Ok(true)
    }

    /// Adds to records that stand set by set the signatures of each set.
    pub fn sign(&self, round: &Round, zone: &Name, records: Vec<Record>) -> Option<Vec<Record>> {
        let mut signed = Vec::with_capacity(records.len() * 2);
        let same_set = |a: &Record, b: &Record| a.record_type() == b.record_type() && a.name == b.name;
        for set in records.chunk_by(same_set) {
            signed.extend_from_slice(set);
            // The keys are signed by all that are shown, all else by the first.
            let signers = match set.first()?.record_type() {
                RecordType::DNSKEY => round.keys.len(),
                _ => 1,
            };
            for key in round.keys.iter().take(signers) {
                signed.push(self.signature(round, key, zone, set)?);
            }
        }
        Some(signed)
    }

    fn signature(&self, round: &Round, key: &Key, zone: &Name, set: &[Record]) -> Option<Record> {
        let first = set.first()?;
        let input = SigInput {
            type_covered: first.record_type(),
            algorithm: Algorithm::ED25519,
            num_labels: first.name.num_labels(),
            original_ttl: first.ttl,
            sig_expiration: SerialNumber::new(round.expiration),
            sig_inception: SerialNumber::new(round.inception),
            key_tag: key.tag,
            signer_name: zone.clone(),
        };
        let signed = TBS::from_input(&first.name, DNSClass::IN, &input, set.iter()).ok()?;
        let signature = self.kept.get_or_make(&signed, || key.signing.sign(&signed).ok())?;
        let data = RData::DNSSEC(DNSSECRData::RRSIG(RRSIG::from_sig(input, signature.to_vec())));
        Some(Record::from_rdata(first.name.clone(), first.ttl, data))
    }
}

impl Round {
    fn new(keys: &ZoneKeys, now: SystemTime, number: u64) -> Result<Self, KeyError> {
        let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let begin = since_1970 - since_1970 % PERIOD.as_secs();
        // RRSIG times are 32 bits and go round (RFC 4034, section 3.1.5).
        let wrapped = |seconds: u64| u32::try_from(seconds & u64::from(u32::MAX)).unwrap_or(0);
        let mut round = Self {
            keys: vec![],
            public: vec![],
            inception: wrapped(begin.saturating_sub(CLOCK_TOLERANCE.as_secs())),
            expiration: wrapped(begin + LIFE.as_secs()),
            number,
        };
        for key in keys.shown(now) {
            let signing = open(key)?;
            let public = public(&signing)?;
            round.keys.push(Key { signing, tag: tag(&public)? });
            round.public.push(public);
        }
        Ok(round)
    }

    /// The keys as records.
    pub fn public(&self) -> &[ZoneKey] {
        &self.public
    }

    /// Rises with each round.
    pub fn number(&self) -> u64 {
        self.number
    }
}

fn open(key: &PrivateKey) -> Result<Ed25519SigningKey, KeyError> {
    let pkcs8 = key.pkcs8().ok_or_else(|| KeyError("it is not hexadecimal".into()))?;
    Ed25519SigningKey::from_pkcs8(&PrivatePkcs8KeyDer::from(pkcs8))
        .map_err(|error| KeyError(error.to_string()))
}

fn public(key: &Ed25519SigningKey) -> Result<ZoneKey, KeyError> {
    let public = key.to_public_key().map_err(|error| KeyError(error.to_string()))?.into_inner();
    Ok(ZoneKey(public.try_into().map_err(|_| KeyError("it is not of 32 bytes".into()))?))
}

fn tag(key: &ZoneKey) -> Result<u16, KeyError> {
    dnskey(key).calculate_key_tag().map_err(|error| KeyError(error.to_string()))
}

type Hash = [u8; 32];
type Signature = [u8; 64];

/// Signatures by the hash of what they sign. Each shard has two generations: when the young one is full the old one is
/// dropped, so that what is asked for again and again stays.
struct Kept {
    shards: Vec<Mutex<Generations>>,
    /// Signatures that were made.
    made: AtomicU64,
}

#[derive(Default)]
struct Generations {
    young: HashMap<Hash, Signature>,
    old: HashMap<Hash, Signature>,
}

impl Kept {
    fn new() -> Self {
        let shards = std::iter::repeat_with(Mutex::default).take(SIGNATURE_SHARDS).collect();
        Self { shards, made: AtomicU64::new(0) }
    }

    fn len(&self) -> usize {
        let len = |shard: &Mutex<Generations>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.young.len() + shard.old.len()
        };
        self.shards.iter().map(len).sum()
    }

    fn get_or_make(&self, signed: &TBS, make: impl FnOnce() -> Option<Vec<u8>>) -> Option<Signature> {
        let hash: Hash = *blake3::hash(signed.as_ref()).as_bytes();
        let shard = self.shards.get(usize::from(hash[0]) % SIGNATURE_SHARDS)?;
        let lock = || shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signature) = lock().find(&hash) {
            return Some(signature);
        }
        // Without the lock: two may make the same one, which is the same.
        let signature: Signature = make()?.try_into().ok()?;
        self.made.fetch_add(1, Ordering::Relaxed);
        lock().keep(hash, signature);
        Some(signature)
    }
}

impl Generations {
    fn find(&mut self, hash: &Hash) -> Option<Signature> {
        if let Some(signature) = self.young.get(hash) {
            return Some(*signature);
        }
        let signature = self.old.remove(hash)?;
        self.keep(*hash, signature);
        Some(signature)
    }

    fn keep(&mut self, hash: Hash, signature: Signature) {
        if self.young.len() >= SIGNATURES_MAX / SIGNATURE_SHARDS / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, signature);
    }
}
