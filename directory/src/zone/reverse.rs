//! The names of locators. A name is a number here: its labels are the digits, and the order of names is that of numbers.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Bound::Included;
use std::sync::LazyLock;

use directory_api::{CapsuleRecord, Zone};

use crate::locators::Prefix;
use crate::registry::Registry;
use crate::reverse_order::{ReverseOrder, octet};

use super::{Data, Depends, Entry, Path, TTL_LOCATOR_S, Tree};

/// Where a reverse zone begins.
#[derive(Debug)]
pub(super) struct Apex {
    /// Its name, without the final dot.
    pub(super) name: String,
    family: Family,
    /// How many digits the zone's own name has.
    fixed: u32,
    /// The number that these are, followed by zeros.
    base: u128,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    /// Four octets; as digits they count by the order of their texts.
    V4,
    /// Thirty-two hexadecimal digits.
    V6,
}

/// The tree below a reverse zone.
pub(super) struct Reverse<'a> {
    pub(super) apex: &'a Apex,
    pub(super) zone: &'a Zone,
    pub(super) registry: &'a Registry,
}

/// Where a path stands among the numbers.
enum Place {
    /// All digits are there: a locator.
    Whole(u128),
    /// The first digits: all numbers from the first up to the last, inclusive.
    Begin(u128, u128),
    /// No number at all; all numbers before it in order are below this one. `None` where that is beyond the last.
    Outside(Option<u128>),
}

impl Apex {
    pub(super) fn v4(pool: &Prefix<Ipv4Addr>) -> Self {
        let base = u128::from(ReverseOrder::of(pool.network()).to_bits());
        Self::new(Family::V4, u32::from(pool.length()), base)
    }

    pub(super) fn v6(pool: &Prefix<Ipv6Addr>) -> Self {
        Self::new(Family::V6, u32::from(pool.length()), pool.network().to_bits())
    }

    /// In whole digits: the zone may be wider than the pool.
    fn new(family: Family, length: u32, network: u128) -> Self {
        let fixed = length / family.bits();
        let mut apex = Self { name: String::new(), family, fixed, base: 0 };
        apex.base = network & !apex.below_mask(fixed);
        let labels: Vec<_> = (0..fixed).rev().map(|at| apex.label(apex.base, at)).collect();
        apex.name = format!("{}.{}", labels.join("."), family.suffix());
        apex
    }

    /// All bits behind the first digits.
    fn below_mask(&self, digits: u32) -> u128 {
        let bits = (self.family.digits() - digits) * self.family.bits();
        1u128.checked_shl(bits).map_or(u128::MAX, |size| size - 1)
    }

    fn shift(&self, at: u32) -> u32 {
        (self.family.digits() - 1 - at) * self.family.bits()
    }

    fn label(&self, number: u128, at: u32) -> String {
        let digit =
            usize::try_from((number >> self.shift(at)) & ((1 << self.family.bits()) - 1)).unwrap_or(0);
        self.family.labels()[digit].clone()
    }

    fn path(&self, number: u128) -> Path {
        (self.fixed..self.family.digits()).map(|at| self.label(number, at)).collect()
    }

    fn place(&self, path: &[String]) -> Place {
        let mut number = self.base;
        for (label, at) in path.iter().zip(self.fixed..self.family.digits()) {
            match self.family.labels().binary_search(label) {
                Ok(digit) => number |= (digit as u128) << self.shift(at),
                Err(before) => return Place::Outside(number.checked_add((before as u128) << self.shift(at))),
            }
        }
        let digits = self.family.digits() - self.fixed;
        match path.len().cmp(&usize::try_from(digits).unwrap_or(0)) {
            std::cmp::Ordering::Less => {
                let given = self.fixed + u32::try_from(path.len()).unwrap_or(0);
                Place::Begin(number, number | self.below_mask(given))
            }
            std::cmp::Ordering::Equal => Place::Whole(number),
            std::cmp::Ordering::Greater => Place::Outside(number.checked_add(1)),
        }
    }
}

impl Family {
    fn bits(self) -> u32 {
        match self {
            Self::V4 => 8,
            Self::V6 => 4,
        }
    }

    fn digits(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 32,
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::V4 => "in-addr.arpa",
            Self::V6 => "ip6.arpa",
        }
    }

    /// The labels of all digits, in order.
    fn labels(self) -> &'static [String] {
        static OCTETS: LazyLock<Vec<String>> =
            LazyLock::new(|| (0..=u8::MAX).map(|rank| octet(rank).to_string()).collect());
        static NIBBLES: LazyLock<Vec<String>> =
            LazyLock::new(|| (0..16).map(|digit| format!("{digit:x}")).collect());
        match self {
            Self::V4 => &OCTETS,
            Self::V6 => &NIBBLES,
        }
    }
}

impl Tree for Reverse<'_> {
    fn entries(&self, path: &[String]) -> Option<Vec<Entry>> {
        match self.apex.place(path) {
            Place::Whole(number) => {
                let (_, record) = self.first(Some(number), number)?;
                let name = path.iter().rev().map(String::as_str).chain([self.apex.name.as_str()]);
                let name = name.collect::<Vec<_>>().join(".");
                let data = Data::Ptr(self.zone.capsule(&record.name));
                Some(vec![Entry { name, ttl: TTL_LOCATOR_S, data }])
            }
            Place::Begin(first, last) => self.first(Some(first), last).map(|_| vec![]),
            Place::Outside(_) => None,
        }
    }

    fn at_or_before(&self, path: &[String]) -> Path {
        let last = self.apex.base | self.apex.below_mask(self.apex.fixed);
        // Everything up to and with this number.
        let up_to = match self.apex.place(path) {
            Place::Whole(number) => Some(number),
            Place::Begin(first, _) => first.checked_sub(1),
            Place::Outside(Some(first)) => first.checked_sub(1),
            Place::Outside(None) => Some(last),
        };
        let found =
            up_to.filter(|up_to| *up_to >= self.apex.base).and_then(|up_to| self.last(up_to.min(last)));
        found.map(|number| self.apex.path(number)).unwrap_or_default()
    }

    fn after(&self, path: &[String]) -> Option<Path> {
        let from = match self.apex.place(path) {
            Place::Whole(number) => number.checked_add(1),
            Place::Begin(first, _) => Some(first),
            Place::Outside(first) => first,
        };
        let last = self.apex.base | self.apex.below_mask(self.apex.fixed);
        self.first(from, last).map(|(number, _)| self.apex.path(number))
    }

    fn depends(&self, path: &[String]) -> Depends {
        match self.apex.place(path) {
            Place::Whole(number) => match self.first(Some(number), number) {
                Some((_, record)) => Depends::on(record.name.as_str()),
                None => Depends::Revision,
            },
            Place::Begin(..) | Place::Outside(_) => Depends::Revision,
        }
    }
}

impl Reverse<'_> {
    /// The first locator in use from one number on, up to and with another.
    fn first(&self, from: Option<u128>, last: u128) -> Option<(u128, &CapsuleRecord)> {
        let from = from.filter(|from| *from <= last)?;
        match self.apex.family {
            Family::V4 => {
                let range = (Included(order(from)), Included(order(last)));
                let (key, record) = self.registry.v4_within(range).next()?;
                Some((key.to_bits().into(), record))
            }
            Family::V6 => {
                let range = (Included(Ipv6Addr::from_bits(from)), Included(Ipv6Addr::from_bits(last)));
                let (key, record) = self.registry.v6_within(range).next()?;
                Some((key.to_bits(), record))
            }
        }
    }

    /// The last locator in use up to and with a number.
    fn last(&self, up_to: u128) -> Option<u128> {
        let base = self.apex.base;
        match self.apex.family {
            Family::V4 => {
                let range = (Included(order(base)), Included(order(up_to)));
                self.registry.v4_within(range).next_back().map(|(key, _)| key.to_bits().into())
            }
            Family::V6 => {
                let range = (Included(Ipv6Addr::from_bits(base)), Included(Ipv6Addr::from_bits(up_to)));
                self.registry.v6_within(range).next_back().map(|(key, _)| key.to_bits())
            }
        }
    }
}

/// An IPv4 number: below 2³², as its zone is.
fn order(number: u128) -> ReverseOrder {
    ReverseOrder::from_bits(u32::try_from(number).unwrap_or(u32::MAX))
}
