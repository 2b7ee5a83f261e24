//! The keys that sign the zones, and how one follows another. Pure, but for making a key.
//!
//! ```text
//!              rollover                        rollover, 10 min later at least
//!  active A ─────────────► active A, next B ─────────────────────────────────► active B, retired A ──► active B
//!                          both are shown, A signs;                            both are shown, B signs; A goes
//!                          the DS of B is to be set now                        by itself after 10 min
//! ```
//!
//! Each key signs zone and keys alike (a "combined signing key"), and the DNSKEY record set is signed by all that it
//! shows: whoever trusts either key is served all the way (RFC 6781, section 4.1.2, the double-signature scheme).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// How long both keys are shown before the new one signs, and again before the old one goes: twice the TTL of the zone's
/// own records, so that caches and secondaries have seen it.
pub const ROLLOVER_WAIT: Duration = Duration::from_secs(2 * crate::zone::TTL_ZONE_S as u64);

/// The content of the key file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneKeys {
    version: u32,
    /// Signs.
    pub active: PrivateKey,
    /// Will sign.
    pub next: Option<NextKey>,
    /// Signed before.
    pub retired: Option<RetiredKey>,
}

/// A private key, PKCS #8 in hexadecimal.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivateKey(String);

/// A key that is shown and does not sign the zone yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NextKey {
    /// The key.
    pub key: PrivateKey,
    /// Since when it is shown, seconds since 1970.
    since: u64,
}

/// A key that is shown and no longer signs the zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetiredKey {
    /// The key.
    pub key: PrivateKey,
    /// Until when it is shown, seconds since 1970.
    until: u64,
}

/// What one step of a rollover did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A new key is shown; the old one signs.
    Begun,
    /// The new key signs.
    Finished,
    /// The new key has not been shown long enough.
    TooEarly {
        /// How long it still takes.
        wait: Duration,
    },
}

const VERSION: u32 = 1;

impl PrivateKey {
    /// From PKCS #8.
    pub fn new(pkcs8: &[u8]) -> Self {
        Self(data_encoding::HEXLOWER.encode(pkcs8))
    }

    /// As PKCS #8; `None` when it is not even hexadecimal.
    pub fn pkcs8(&self) -> Option<Vec<u8>> {
        data_encoding::HEXLOWER.decode(self.0.as_bytes()).ok()
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

impl ZoneKeys {
    /// Begins with one key.
    pub fn new(active: PrivateKey) -> Self {
        Self { version: VERSION, active, next: None, retired: None }
    }

    /// Whether this program knows what the file says.
    pub fn is_known(&self) -> bool {
        self.version == VERSION
    }

    /// All keys that are shown at this time, the one that signs first.
    pub fn shown(&self, now: SystemTime) -> impl Iterator<Item = &PrivateKey> {
        let retired = self.retired.as_ref().filter(|retired| retired.until > seconds(now));
        let next = self.next.as_ref().map(|next| &next.key);
        std::iter::once(&self.active).chain(next).chain(retired.map(|retired| &retired.key))
    }

    /// One step of a rollover. `at_once` leaves out the waiting: whoever trusts the old key alone, or has it in a cache, finds
    /// the zone bogus for a while. For a key that got into wrong hands.
    pub fn roll(&mut self, fresh: impl FnOnce() -> PrivateKey, now: SystemTime, at_once: bool) -> Step {
        let now = seconds(now);
        let Some(next) = &self.next else {
            let key = fresh();
            if at_once {
                self.active = key;
                self.retired = None;
                return Step::Finished;
            }
            self.next = Some(NextKey { key, since: now });
            return Step::Begun;
        };
        let left = (next.since + ROLLOVER_WAIT.as_secs()).saturating_sub(now);
        if left > 0 && !at_once {
            return Step::TooEarly { wait: Duration::from_secs(left) };
        }
        let old = std::mem::replace(&mut self.active, next.key.clone());
        self.next = None;
        self.retired = (!at_once).then_some(RetiredKey { key: old, until: now + ROLLOVER_WAIT.as_secs() });
        Step::Finished
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> PrivateKey {
        PrivateKey::new(&[number])
    }

    fn shown(keys: &ZoneKeys, now: SystemTime) -> Vec<PrivateKey> {
        keys.shown(now).cloned().collect()
    }

    #[test]
    fn a_key_follows_another_without_a_gap() {
        let start = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut keys = ZoneKeys::new(key(1));
        assert_eq!(shown(&keys, start), [key(1)]);
        assert_eq!(keys.roll(|| key(2), start, false), Step::Begun);
        assert_eq!(shown(&keys, start), [key(1), key(2)]);
        let wait = ROLLOVER_WAIT - Duration::from_secs(5);
        let early = keys.roll(|| unreachable!(), start + Duration::from_secs(5), false);
        assert_eq!(early, Step::TooEarly { wait });
        let later = start + ROLLOVER_WAIT;
        assert_eq!(keys.roll(|| unreachable!(), later, false), Step::Finished);
        assert_eq!(shown(&keys, later), [key(2), key(1)]);
        assert_eq!(shown(&keys, later + ROLLOVER_WAIT), [key(2)]);
    }

    #[test]
    fn a_lost_key_goes_at_once() {
        let mut keys = ZoneKeys::new(key(1));
        assert_eq!(keys.roll(|| key(2), UNIX_EPOCH, true), Step::Finished);
        assert_eq!(shown(&keys, UNIX_EPOCH), [key(2)]);
        assert_eq!(keys.roll(|| key(3), UNIX_EPOCH, false), Step::Begun);
        assert_eq!(keys.roll(|| unreachable!(), UNIX_EPOCH, true), Step::Finished);
        assert_eq!(shown(&keys, UNIX_EPOCH), [key(3)]);
    }

    #[test]
    fn a_private_key_is_in_no_log() {
        assert_eq!(format!("{:?}", key(7)), "PrivateKey(…)");
    }
}
