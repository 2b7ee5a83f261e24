//! The header of the PROXY protocol, version 2: tells a program which machine its connection comes from. Pure.
//!
//! By the specification of HAProxy, `doc/proxy-protocol.txt`, section 2.2.

use std::net::{IpAddr, SocketAddr};

/// What a header of version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2, command PROXY.
const VERSION_AND_COMMAND: u8 = 0x21;

/// TCP over IPv4.
const TCP4: u8 = 0x11;

/// TCP over IPv6.
const TCP6: u8 = 0x21;

/// The header of a connection that this machine made to this address, which is of the same family.
pub(super) fn header(machine: SocketAddr, dialled: SocketAddr) -> Vec<u8> {
    let mut ends = Vec::new();
    for address in [machine.ip(), dialled.ip()] {
        match address {
            IpAddr::V4(address) => ends.extend(address.octets()),
            IpAddr::V6(address) => ends.extend(address.octets()),
        }
    }
    ends.extend(machine.port().to_be_bytes());
    ends.extend(dialled.port().to_be_bytes());
    let family = if machine.is_ipv6() { TCP6 } else { TCP4 };
    let mut header = SIGNATURE.to_vec();
    // Twelve or thirty-six bytes.
    header.extend([
        VERSION_AND_COMMAND,
        family,
        0,
        u8::try_from(ends.len()).expect("two addresses are short"),
    ]);
    header.extend(ends);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(machine: &str, dialled: &str) -> Vec<u8> {
        header(machine.parse().unwrap(), dialled.parse().unwrap())
    }

    #[test]
    fn both_families_are_told() {
        assert_eq!(
            of("192.0.2.7:40000", "198.51.100.1:443"),
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x9c\x40\x01\xbb"
        );
        let v6 = of("[2001:db8::7]:1", "[2001:db8::1]:65535");
        assert_eq!((&v6[..16], v6.len()), (&b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24"[..], 52));
        assert_eq!((v6[16..18].to_vec(), v6[31], v6[47]), (vec![0x20, 0x01], 7, 1));
        assert_eq!(v6[48..], [0, 1, 255, 255]);
    }
}
