//! DNS cookies (RFC 7873, made as RFC 9018 says): whoever shows one that we gave to its address has not forged that
//! address, and is not held to the rate limit. Nobody has to have one.

use std::hash::Hasher as _;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use siphasher::sip::SipHasher24;

/// The option's number.
pub(super) const OPTION: u16 = 10;
/// Bytes that the option adds to an answer: number and length, the client's part, ours.
pub(super) const OPTION_BYTES: u16 = 4 + 8 + 16;

const VERSION: u8 = 1;
/// How long a cookie is good, and how far ahead another server's clock may be, seconds (RFC 9018, section 4.3).
const LIFE_S: u32 = 3_600;
const AHEAD_S: u32 = 300;

/// The client's part.
pub(super) type ClientCookie = [u8; 8];

/// What a query shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown<'p> {
    /// Drawn by the client.
    pub(super) client: ClientCookie,
    /// What it has from us, or believes to have; empty at first.
    pub(super) server: &'p [u8],
}

/// Makes cookies and knows its own.
pub(super) struct Baker {
    key: [u8; 16],
}

impl<'p> Shown<'p> {
    /// Reads the option; `None` when its length is none that a cookie has (RFC 7873, section 5.2.2).
    pub(super) fn read(option: &'p [u8]) -> Option<Self> {
        let (client, server) = option.split_first_chunk()?;
        matches!(server.len(), 0 | 8..=32).then_some(Self { client: *client, server })
    }
}

impl Baker {
    /// Makes cookies with a secret.
    pub(super) fn new(key: [u8; 16]) -> Self {
        Self { key }
    }

    /// Whether the cookie is one that we gave to this address, not long ago.
    pub(super) fn is_ours(&self, shown: &Shown<'_>, address: IpAddr, now: SystemTime) -> bool {
        let Some([VERSION, _, _, _, a, b, c, d]) = shown.server.first_chunk().copied() else { return false };
        let (made, now) = (u32::from_be_bytes([a, b, c, d]), seconds(now));
        // Times go round (RFC 1982).
        let in_time = now.wrapping_sub(made) <= LIFE_S || made.wrapping_sub(now) <= AHEAD_S;
        // What can be learnt of the hash by the time that this takes is good for one address and one hour.
        in_time && shown.server == self.make(&shown.client, made, address)
    }

    /// The option with which a query that shows this is answered.
    pub(super) fn option(&self, client: &ClientCookie, address: IpAddr, now: SystemTime) -> Vec<u8> {
        let mut option = Vec::with_capacity(OPTION_BYTES.into());
        option.extend_from_slice(&OPTION.to_be_bytes());
        option.extend_from_slice(&(OPTION_BYTES - 4).to_be_bytes());
        option.extend_from_slice(client);
        option.extend_from_slice(&self.make(client, seconds(now), address));
        option
    }

    fn make(&self, client: &ClientCookie, made: u32, address: IpAddr) -> [u8; 16] {
        let mut cookie = [0; 16];
        cookie[0] = VERSION;
        cookie[4..8].copy_from_slice(&made.to_be_bytes());
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(client);
        hasher.write(&cookie[..8]);
        match address.to_canonical() {
            IpAddr::V4(v4) => hasher.write(&v4.octets()),
            IpAddr::V6(v6) => hasher.write(&v6.octets()),
        }
        cookie[8..].copy_from_slice(&hasher.finish().to_le_bytes());
        cookie
    }
}

fn seconds(time: SystemTime) -> u32 {
    let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    u32::try_from(since_1970 & u64::from(u32::MAX)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap()
    }

    /// RFC 9018, appendix A.1.
    #[test]
    fn cookies_are_those_of_the_standard() {
        let key = bytes("e5e973e5a6b2a43f48e7dc849e37bfcf");
        let baker = Baker::new(key.try_into().unwrap());
        let client = bytes("2464c4abcf10c957").try_into().unwrap();
        let made = UNIX_EPOCH + Duration::from_secs(1_559_731_985);
        let option = baker.option(&client, "198.51.100.100".parse().unwrap(), made);
        assert_eq!(option, bytes("000a00182464c4abcf10c957010000005cf79f111f8130c3eee29480"));
    }

    #[test]
    fn a_cookie_is_good_for_its_address_and_its_time() {
        let (baker, other) = (Baker::new([1; 16]), Baker::new([2; 16]));
        let (address, client) = ("192.0.2.1".parse().unwrap(), [7; 8]);
        let made = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let option = baker.option(&client, address, made);
        let shown = Shown::read(&option[4..]).unwrap();
        let after = |seconds| made + Duration::from_secs(seconds);
        assert!(baker.is_ours(&shown, address, made) && baker.is_ours(&shown, address, after(3_600)));
        assert!(baker.is_ours(&shown, "::ffff:192.0.2.1".parse().unwrap(), made));
        assert!(!baker.is_ours(&shown, address, after(3_601)));
        assert!(!baker.is_ours(&shown, address, made - Duration::from_secs(301)));
        assert!(!baker.is_ours(&shown, "192.0.2.2".parse().unwrap(), made));
        assert!(!other.is_ours(&shown, address, made));
        assert!(!baker.is_ours(&Shown { client: [8; 8], ..shown }, address, made));
        assert!(!baker.is_ours(&Shown { server: &[], ..shown }, address, made));
        for length in [0, 7, 9, 15, 41] {
            assert_eq!(Shown::read(&vec![0; length]), None, "{length}");
        }
    }
}
