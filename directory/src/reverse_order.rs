//! IPv4 addresses in the canonical order of DNS names (RFC 4034, section 6.1). In `in-addr.arpa` an octet is a label of
//! decimal digits, and labels compare as text: 10 comes before 2. For IPv6 the order of names is that of addresses.

use std::net::Ipv4Addr;

/// An IPv4 address that compares as its name in the reverse zone does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReverseOrder(u32);

/// All octets, in the order of their texts.
const OCTETS: [u8; 256] = octets_in_order();
/// Where each octet stands in `OCTETS`.
const RANKS: [u8; 256] = ranks();

impl ReverseOrder {
    /// Where an address stands.
    pub fn of(address: Ipv4Addr) -> Self {
        Self(u32::from_be_bytes(address.octets().map(|octet| RANKS[usize::from(octet)])))
    }

    /// Which address stands here.
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::from(self.0.to_be_bytes().map(|rank| OCTETS[usize::from(rank)]))
    }

    /// The octets' ranks, as one number.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// From the octets' ranks.
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

/// The octet of a rank.
pub fn octet(rank: u8) -> u8 {
    OCTETS[usize::from(rank)]
}

/// A sort key for an octet's text: digits from the left, 0 for none, so that a shorter text comes first.
const fn text_key(octet: u8) -> u16 {
    let (hundreds, tens, ones) = (octet as u16 / 100, octet as u16 / 10 % 10, octet as u16 % 10);
    if octet >= 100 {
        (hundreds + 1) * 121 + (tens + 1) * 11 + ones + 1
    } else if octet >= 10 {
        (tens + 1) * 121 + (ones + 1) * 11
    } else {
        (ones + 1) * 121
    }
}

const fn octets_in_order() -> [u8; 256] {
    let ranks = ranks();
    let mut octets = [0; 256];
    let mut octet: u8 = 0;
    loop {
        octets[ranks[octet as usize] as usize] = octet;
        if octet == u8::MAX {
            return octets;
        }
        octet += 1;
    }
}

const fn ranks() -> [u8; 256] {
    let mut ranks = [0; 256];
    let mut octet: u8 = 0;
    loop {
        let mut other: u8 = 0;
        loop {
            if text_key(other) < text_key(octet) {
                ranks[octet as usize] += 1;
            }
            if other == u8::MAX {
                break;
            }
            other += 1;
        }
        if octet == u8::MAX {
            return ranks;
        }
        octet += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_stand_in_the_order_of_their_texts() {
        let mut texts: Vec<String> = (0..=255u8).map(|octet| octet.to_string()).collect();
        texts.sort();
        let ordered: Vec<String> = (0..=255u8).map(|rank| octet(rank).to_string()).collect();
        assert_eq!(ordered, texts);
    }

    #[test]
    fn addresses_come_back() {
        let address = Ipv4Addr::new(10, 88, 2, 255);
        assert_eq!(ReverseOrder::of(address).address(), address);
        assert!(
            ReverseOrder::of(Ipv4Addr::new(10, 88, 0, 10)) < ReverseOrder::of(Ipv4Addr::new(10, 88, 0, 2))
        );
    }
}
