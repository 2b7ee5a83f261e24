//! What hosts have of machines without a sidecar, as the directory and the hosts see it. Pure.
//!
//! Each gateway registers one record that looks like a capsule's: it is placed on the gateway for good, and every
//! session from outside has it as its opener. Its owner is [`OUTSIDE`], so that rules of the policy can name it.
//!
//! Each host whose capsules reach machines outside by themselves registers another one, its *outlet*, which is the server
//! of those sessions. Its owner is [`HOST`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use overlay_proto::{CapsuleName, HostName, NameError, Owner};

use crate::CapsuleRecord;

/// The owner of what gateways bring in.
pub const OUTSIDE: &str = "outside";

/// The owner of outlets.
pub const HOST: &str = "host";

/// The owner [`OUTSIDE`].
///
/// # Panics
/// Never: it is a sound name.
pub fn owner() -> Owner {
    OUTSIDE.parse().expect("a sound name")
}

/// The name of a gateway's record.
///
/// # Errors
/// The host's name is too long for it.
pub fn name_at(host: &HostName) -> Result<CapsuleName, NameError> {
    format!("gateway-{host}").parse()
}

/// The owner [`HOST`].
///
/// # Panics
/// Never: it is a sound name.
pub fn outlet_owner() -> Owner {
    HOST.parse().expect("a sound name")
}

/// The name of the record of a host's outlet.
///
/// # Errors
/// The host's name is too long for it.
pub fn outlet_at(host: &HostName) -> Result<CapsuleName, NameError> {
    format!("outlet-{host}").parse()
}

/// Whether an owner has nothing that anybody runs: [`OUTSIDE`] and [`HOST`].
pub fn is_reserved(owner: &Owner) -> bool {
    [OUTSIDE, HOST].contains(&owner.as_str())
}

/// Whether something of this name and owner may be registered at a host: of [`OUTSIDE`] only its gateway, of [`HOST`] only
/// its outlet.
pub fn may_be_called(name: &CapsuleName, owner: &Owner, host: &HostName) -> bool {
    let only = match owner.as_str() {
        OUTSIDE => name_at(host),
        HOST => outlet_at(host),
        _ => return true,
    };
    only.is_ok_and(|only| only == *name)
}

/// Whether a host whose token named these owners may have capsules of `owner` by its own will. No owners are anybody, but
/// [`OUTSIDE`] only for a host with operator rights, which could allow itself everything anyway; beside it the others mean
/// what they mean without it. An outlet gives a host nothing that it has not got: any may have its own.
pub fn may_own(named: &[Owner], operator: bool, owner: &Owner) -> bool {
    if owner.as_str() == HOST {
        return true;
    }
    if owner.as_str() == OUTSIDE {
        return named.contains(owner) || named.is_empty() && operator;
    }
    let mut others = named.iter().filter(|named| named.as_str() != OUTSIDE).peekable();
    others.peek().is_none() || others.any(|named| named == owner)
}

impl CapsuleRecord {
    /// Whether this stands for what a gateway brings in.
    pub fn is_outside(&self) -> bool {
        self.owner.as_str() == OUTSIDE
    }

    /// Whether this stands for what capsules reach from a host without a gateway.
    pub fn is_outlet(&self) -> bool {
        self.owner.as_str() == HOST
    }

    /// Whether this stands for a host's own network, as its gateway or its outlet: it never leaves that host.
    pub fn is_of_its_host(&self) -> bool {
        is_reserved(&self.owner)
    }
}

/// Metadata services of clouds that are not at a link-local address, each another one for each host: Amazon's and Google's
/// over IPv6, Azure's wire server, Alibaba's.
const METADATA: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
];

/// Whether an address means the same machine wherever it is seen.
pub fn is_of_one_machine(address: IpAddr) -> bool {
    let other = address.is_loopback()
        || address.is_multicast()
        || address.is_unspecified()
        || METADATA.contains(&address);
    !other
        && match address {
            IpAddr::V4(v4) => !v4.is_broadcast() && !v4.is_link_local() && v4.octets()[0] != 0,
            IpAddr::V6(v6) => !v6.is_unicast_link_local() && v6.to_ipv4_mapped().is_none(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(names: &[&str]) -> Vec<Owner> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn only_an_operators_host_or_one_whose_token_says_so_is_a_gateway() {
        let ann = "ann".parse().unwrap();
        for (named, operator, outside, anns) in [
            (&[][..], true, true, true),
            (&[], false, false, true),
            (&["outside"], false, true, true),
            (&["ann"], true, false, true),
            (&["ann", "outside"], true, true, true),
            (&["bob"], true, false, false),
            (&["bob", "outside"], false, true, false),
        ] {
            let may = |owner| may_own(&owners(named), operator, owner);
            assert!(may_own(&owners(named), operator, &outlet_owner()), "{named:?} {operator}");
            assert_eq!((may(&owner()), may(&ann)), (outside, anns), "{named:?} {operator}");
        }
    }

    #[test]
    fn addresses_of_no_machine_in_particular_are_nobodys() {
        for address in ["192.0.2.1", "10.1.2.3", "2001:db8::1", "fd00::1"] {
            assert!(is_of_one_machine(address.parse().unwrap()), "{address}");
        }
        for address in [
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "255.255.255.255",
            "224.0.0.1",
            "ff02::1",
            "169.254.1.1",
            "fe80::1",
            "::ffff:192.0.2.1",
            "fd00:ec2::254",
            "100.100.100.200",
        ] {
            assert!(!is_of_one_machine(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn the_records_of_a_host_are_named_after_it() {
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let (gateway, outlet) = (name_at(&b).unwrap(), outlet_at(&b).unwrap());
        assert_eq!((gateway.as_str(), outlet.as_str()), ("gateway-b", "outlet-b"));
        assert!(name_at(&"h".repeat(60).parse().unwrap()).is_err());
        assert!(outlet_at(&"h".repeat(60).parse().unwrap()).is_err());
        for (name, owner) in [(&gateway, owner()), (&outlet, outlet_owner())] {
            assert!(may_be_called(name, &owner, &b) && is_reserved(&owner));
            assert!(!may_be_called(name, &owner, &a), "of another host");
        }
        assert!(!may_be_called(&gateway, &outlet_owner(), &b) && !may_be_called(&outlet, &owner(), &b));
        assert!(may_be_called(&outlet, &"ann".parse().unwrap(), &a));
    }
}
