//! A ping, by the kernel's own ping sockets, and the errors that a raw socket sees beside them.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

const HEADER_BYTES: usize = 8;

/// Pause between looks at the sockets.
const LOOK: Duration = Duration::from_millis(1);

pub(crate) fn run(address: IpAddr, size: usize, limit: Duration) -> anyhow::Result<Value> {
    let kind = if address.is_ipv6() { 128 } else { 8 };
    let socket = icmp_socket(address, Type::DGRAM)?;
    let errors = Errors::about(address)?;
    socket.connect(&SocketAddr::new(address, 0).into())?;
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 1];
    message.extend_from_slice(&super::pattern(size, 7));
    let began = Instant::now();
    socket.send(&message)?;
    let outcome = loop {
        let mut buffer = vec![0; HEADER_BYTES + size + 1];
        match (&socket).read(&mut buffer) {
            Ok(length) if length == message.len() => break "answered".to_owned(),
            Ok(length) => break format!("{length} bytes"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => break super::word(&error),
        }
        if errors.say_unreachable()? {
            break "EHOSTUNREACH".to_owned();
        }
        if began.elapsed() > limit {
            break "nothing".to_owned();
        }
        std::thread::sleep(LOOK);
    };
    Ok(json!({ "outcome": outcome, "ms": super::ms(began.elapsed()) }))
}

/// Sees what the kernel tells sockets only as a hint: that a host can't be reached (RFC 1122, section 4.1.3.3).
pub(crate) struct Errors {
    socket: Socket,
    about: IpAddr,
}

impl Errors {
    pub(crate) fn about(address: IpAddr) -> io::Result<Self> {
        Ok(Self { socket: icmp_socket(address, Type::RAW)?, about: address })
    }

    /// Whether an error came since the last look.
    pub(crate) fn say_unreachable(&self) -> io::Result<bool> {
        loop {
            let mut buffer = [0; 2048];
            let length = match (&self.socket).read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            };
            if self.is_unreachable(&buffer[..length]).unwrap_or(false) {
                return Ok(true);
            }
        }
    }

    /// A raw socket of IPv4 gives the IP header, one of IPv6 doesn't.
    fn is_unreachable(&self, bytes: &[u8]) -> Option<bool> {
        Some(match self.about {
            IpAddr::V4(about) => {
                let icmp = bytes.get(usize::from(bytes.first()? & 15) * 4..)?;
                icmp.get(..2)? == [3, 1] && icmp.get(HEADER_BYTES + 16..)?.starts_with(&about.octets())
            }
            IpAddr::V6(about) => {
                bytes.get(..2)? == [1, 3] && bytes.get(HEADER_BYTES + 24..)?.starts_with(&about.octets())
            }
        })
    }
}

fn icmp_socket(address: IpAddr, kind: Type) -> io::Result<Socket> {
    let socket = match address {
        IpAddr::V4(_) => Socket::new(Domain::IPV4, kind, Some(Protocol::ICMPV4))?,
        IpAddr::V6(_) => Socket::new(Domain::IPV6, kind, Some(Protocol::ICMPV6))?,
    };
    socket.set_nonblocking(true)?;
    Ok(socket)
}
