//! The addresses that capsules get: one number, counted through both pools alike.
//!
//! Numbers are given in a ring, so that the address of a removed capsule rests as long as possible before another
//! capsule gets it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use overlay_proto::Locators;

/// The IPv4 and the IPv6 pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pools {
    /// IPv4.
    pub v4: Prefix<Ipv4Addr>,
    /// IPv6.
    pub v6: Prefix<Ipv6Addr>,
}

/// Addresses that share their first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix<Address> {
    network: Address,
    length: u8,
}

impl<Address: Copy> Prefix<Address> {
    /// Its first address.
    pub fn network(&self) -> Address {
        self.network
    }

    /// How many bits all its addresses share.
    pub fn length(&self) -> u8 {
        self.length
    }
}

/// Why a text is no pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Not `ADDRESS/LENGTH`.
    #[error("`{0}` is no prefix such as {1}")]
    Form(String, &'static str),
    /// Bits are set that the length cuts off.
    #[error("`{0}` has bits set behind its length")]
    HostBits(String),
    /// Too few addresses, or a length that is none.
    #[error("`{0}` has room for no capsules: the length must be between {1} and {2}")]
    Length(String, u8, u8),
}

/// The largest number given, whatever the pools would hold: bounds tables and lists.
const NUMBER_MAX: u64 = (1 << 24) - 1;

impl Pools {
    /// Finds a free number from `next` on, and gives it with its addresses. The first and the last address of the IPv4
    /// pool stay unused: many programs take them for network and broadcast.
    pub fn allocate(&self, next: u64, is_free: impl Fn(&Locators) -> bool) -> Option<(u64, Locators)> {
        let last = self.last_number();
        let start = if (1..=last).contains(&next) { next } else { 1 };
        (start..=last)
            .chain(1..start)
            .map(|number| (number, self.locators(number)))
            .find(|(_, locators)| is_free(locators))
    }

    /// Both, as networks.
    pub fn networks(&self) -> [IpNet; 2] {
        let (v4, v6) = (self.v4, self.v6);
        [IpNet::new_assert(v4.network.into(), v4.length), IpNet::new_assert(v6.network.into(), v6.length)]
    }

    /// Whether these addresses are of the pools, and belong together.
    pub fn contain(&self, locators: &Locators) -> bool {
        let number = u64::from(locators.v4.to_bits() ^ self.v4.network.to_bits());
        (1..=self.last_number()).contains(&number) && self.locators(number) == *locators
    }

    /// The number that stands `by` numbers behind `next` in the ring.
    pub fn advanced(&self, next: u64, by: u64) -> u64 {
        let last = self.last_number();
        let at = if (1..=last).contains(&next) { next - 1 } else { 0 };
        (at + by % last) % last + 1
    }

    fn last_number(&self) -> u64 {
        let room = |bits: u8, length: u8| {
            1u64.checked_shl(u32::from(bits - length)).map_or(u64::MAX, |size| size - 2)
        };
        room(32, self.v4.length).min(room(128, self.v6.length)).min(NUMBER_MAX)
    }

    fn locators(&self, number: u64) -> Locators {
        // Below 2²⁴ by `NUMBER_MAX`.
        let short = u32::try_from(number).unwrap_or(0);
        Locators {
            v4: Ipv4Addr::from_bits(self.v4.network.to_bits() | short),
            v6: Ipv6Addr::from_bits(self.v6.network.to_bits() | u128::from(number)),
        }
    }
}

impl FromStr for Prefix<Ipv4Addr> {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = split(text, "10.88.0.0/16")?;
        let IpAddr::V4(network) = address else { return Err(PrefixError::Form(text.into(), "10.88.0.0/16")) };
        if !(8..=30).contains(&length) {
            return Err(PrefixError::Length(text.into(), 8, 30));
        }
        if network.to_bits() << length != 0 {
            return Err(PrefixError::HostBits(text.into()));
        }
        Ok(Self { network, length })
    }
}

impl FromStr for Prefix<Ipv6Addr> {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = split(text, "fd88::/64")?;
        let IpAddr::V6(network) = address else { return Err(PrefixError::Form(text.into(), "fd88::/64")) };
        if !(8..=126).contains(&length) {
            return Err(PrefixError::Length(text.into(), 8, 126));
        }
        if network.to_bits() << length != 0 {
            return Err(PrefixError::HostBits(text.into()));
        }
        Ok(Self { network, length })
    }
}

impl<Address: fmt::Display> fmt::Display for Prefix<Address> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

fn split(text: &str, example: &'static str) -> Result<(IpAddr, u8), PrefixError> {
    let form = || PrefixError::Form(text.chars().take(64).collect(), example);
    let (address, length) = text.split_once('/').ok_or_else(form)?;
    Ok((address.parse().map_err(|_| form())?, length.parse().map_err(|_| form())?))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn pools(v4: &str, v6: &str) -> Pools {
        Pools { v4: v4.parse().unwrap(), v6: v6.parse().unwrap() }
    }

    #[test]
    fn numbers_go_round_and_run_out() {
        let pools = pools("10.88.0.0/29", "fd88::/64");
        let mut used = HashSet::new();
        let mut next = 5;
        for expected in [5, 6, 1, 2, 3, 4] {
            let (number, locators) = pools.allocate(next, |locators| !used.contains(locators)).unwrap();
            assert_eq!(number, expected);
            assert_eq!(locators.v4, Ipv4Addr::new(10, 88, 0, u8::try_from(number).unwrap()));
            assert_eq!(locators.v6, format!("fd88::{number}").parse::<Ipv6Addr>().unwrap());
            used.insert(locators);
            next = number + 1;
        }
        assert_eq!(pools.allocate(next, |locators| !used.contains(locators)), None);
    }

    #[test]
    fn the_smaller_pool_decides() {
        assert_eq!(pools("10.0.0.0/8", "fd88::/124").last_number(), 14);
        assert_eq!(pools("10.0.0.0/30", "fd00::/8").last_number(), 2);
    }

    #[test]
    fn bad_pools_are_refused() {
        for bad in ["", "10.88.0.0", "10.88.0.1/16", "10.88.0.0/31", "10.0.0.0/7", "fd88::/64", "10.88.0.0/x"]
        {
            assert!(bad.parse::<Prefix<Ipv4Addr>>().is_err(), "{bad}");
        }
        for bad in ["fd88::1/64", "fd88::/127", "::/0", "10.88.0.0/16"] {
            assert!(bad.parse::<Prefix<Ipv6Addr>>().is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_of_the_pools_are_told_from_others_and_counted_on() {
        let pools = Pools { v4: "10.88.0.0/29".parse().unwrap(), v6: "fd88::/64".parse().unwrap() };
        for number in 1..=6 {
            assert!(pools.contain(&pools.locators(number)), "{number}");
        }
        let other = Locators { v4: [10, 88, 0, 1].into(), v6: "fd88::2".parse().unwrap() };
        assert!(!pools.contain(&other), "not a pair");
        for (v4, v6) in [([10, 88, 0, 0], "fd88::"), ([10, 88, 0, 7], "fd88::7"), ([192, 0, 2, 1], "fd88::1")]
        {
            assert!(!pools.contain(&Locators { v4: v4.into(), v6: v6.parse().unwrap() }), "{v4:?}");
        }
        assert_eq!([0, 3, 4, 6, 20].map(|by| pools.advanced(3, by)), [3, 6, 1, 3, 5]);
        assert_eq!(pools.advanced(0, 2), 3, "nothing was given out yet");
    }
}
