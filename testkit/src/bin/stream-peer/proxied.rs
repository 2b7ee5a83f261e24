//! The header of the PROXY protocol, version 2, as a program that expects it reads it.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Reads a header and nothing behind it: (the machine that connected, the address that it connected to).
pub(crate) fn read(mut stream: impl Read) -> io::Result<[SocketAddr; 2]> {
    let mut fixed = [0; 16];
    stream.read_exact(&mut fixed)?;
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let address_bytes = match (&fixed[..13], fixed[13], length) {
        ([signature @ .., 0x21], 0x11, 12) if signature == SIGNATURE => 4,
        ([signature @ .., 0x21], 0x21, 36) if signature == SIGNATURE => 16,
        _ => {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("no PROXY header: {fixed:02x?}")));
        }
    };
    let mut ends = vec![0; length];
    stream.read_exact(&mut ends)?;
    let (addresses, ports) = ends.split_at(2 * address_bytes);
    Ok([0, 1].map(|at| {
        let octets = &addresses[at * address_bytes..][..address_bytes];
        let ip = match <[u8; 4]>::try_from(octets) {
            Ok(v4) => IpAddr::from(v4),
            Err(_) => IpAddr::from(<[u8; 16]>::try_from(octets).expect("it is as long as one of them")),
        };
        SocketAddr::new(ip, u16::from_be_bytes([ports[2 * at], ports[2 * at + 1]]))
    }))
}
