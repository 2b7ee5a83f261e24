//! Talks UDP from inside a capsule, and checks every byte and every answer.

mod flow;
mod ping;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::{Parser, Subcommand};
use serde_json::{Value, json};

/// Bytes of the largest datagram.
const LARGEST: usize = 65_507;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Answers every datagram with itself, from the address that it came to, until it is ended. Tells the first from each
    /// address.
    Echo { address: SocketAddr },
    /// Sends datagrams of many sizes from one unconnected socket, and checks that each comes back as it was.
    Sizes {
        places: Vec<String>,
        #[arg(long, value_delimiter = ',')]
        sizes: Vec<usize>,
        /// Sends from this port.
        #[arg(long, default_value_t = 0)]
        from: u16,
    },
    /// Sends from many sockets to one place, and checks that each gets its own answer.
    Many {
        place: String,
        #[arg(long)]
        sockets: usize,
    },
    /// Sends one datagram on a connected socket, and tells what came of it.
    Once {
        place: String,
        /// Seconds to wait.
        #[arg(long, default_value_t = 3.0)]
        limit: f64,
    },
    /// Sends datagrams, and waits for no answer.
    Send {
        place: String,
        #[arg(long)]
        count: u64,
        #[arg(long)]
        size: usize,
        /// Milliseconds between two of them.
        #[arg(long, default_value_t = 2)]
        pause: u64,
    },
    /// Sends numbered datagrams at an even pace, as a game does, and tells which were answered.
    Flow {
        place: String,
        #[arg(long, default_value_t = 60)]
        rate: u64,
        #[arg(long)]
        seconds: f64,
    },
    /// Pings an address, and tells what came of it.
    Ping {
        address: std::net::IpAddr,
        #[arg(long, default_value_t = 56)]
        size: usize,
        /// Seconds to wait.
        #[arg(long, default_value_t = 3.0)]
        limit: f64,
    },
    /// Binds a socket, and reads nothing of what comes.
    Deaf { address: SocketAddr },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Echo { address } => echo(address),
        Verb::Sizes { places, sizes, from } => compare(&places, &sizes, from),
        Verb::Many { place, sockets } => many(&place, sockets),
        Verb::Once { place, limit } => once(&place, Duration::from_secs_f64(limit)),
        Verb::Send { place, count, size, pause } => send(&place, count, size, Duration::from_millis(pause)),
        Verb::Flow { place, rate, seconds } => flow::run(&place, rate, Duration::from_secs_f64(seconds)),
        Verb::Ping { address, size, limit } => ping::run(address, size, Duration::from_secs_f64(limit)),
        Verb::Deaf { address } => deaf(address),
    };
    match done {
        Ok(answer) => {
            print(&answer);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("udp: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn echo(address: SocketAddr) -> anyhow::Result<Value> {
    let socket = UdpSocket::bind(address)?;
    print(&json!({ "bound": socket.local_addr()? }));
    let mut buffer = vec![0; LARGEST + 1];
    let mut seen = std::collections::HashSet::new();
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                if seen.insert(from) {
                    print(&json!({ "first_from": from }));
                }
                socket.send_to(&buffer[..length], from)?;
            }
            // Errors for answers that nobody took.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn compare(places: &[String], sizes: &[usize], from: u16) -> anyhow::Result<Value> {
    let mut exchanged = 0;
    for place in places {
        let to = resolve(place)?;
        let socket = bind(to, from)?;
        let mut buffer = vec![0; LARGEST + 1];
        for &size in sizes {
            let sent = pattern(size, size as u64);
            socket.send_to(&sent, to).with_context(|| format!("sending {size} bytes to {to}"))?;
            let (length, from) = socket
                .recv_from(&mut buffer)
                .with_context(|| format!("{size} bytes to {to} were not answered"))?;
            ensure!(from == to, "an answer of {to} came from {from}");
            ensure!(buffer[..length] == sent, "{size} bytes came back as {length} others");
            exchanged += 1;
        }
    }
    Ok(json!({ "exchanged": exchanged }))
}

fn many(place: &str, sockets: usize) -> anyhow::Result<Value> {
    let to = resolve(place)?;
    let sockets = (0..sockets).map(|_| bind(to, 0)).collect::<anyhow::Result<Vec<_>>>()?;
    for (number, socket) in sockets.iter().enumerate() {
        socket.send_to(&pattern(32, number as u64), to)?;
    }
    let mut buffer = [0; 64];
    for (number, socket) in sockets.iter().enumerate() {
        let (length, from) = socket.recv_from(&mut buffer).with_context(|| format!("socket {number}"))?;
        ensure!(
            from == to && buffer[..length] == pattern(32, number as u64),
            "socket {number} got another's"
        );
    }
    Ok(json!({ "exchanged": sockets.len() }))
}

fn send(place: &str, count: u64, size: usize, pause: Duration) -> anyhow::Result<Value> {
    let to = resolve(place)?;
    let socket = bind(to, 0)?;
    for number in 0..count {
        socket.send_to(&pattern(size, number), to)?;
        std::thread::sleep(pause);
    }
    Ok(json!({ "sent": count }))
}

fn once(place: &str, limit: Duration) -> anyhow::Result<Value> {
    let to = resolve(place)?;
    let socket = bind(to, 0)?;
    let errors = ping::Errors::about(to.ip())?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    let began = Instant::now();
    socket.send(b"anybody?")?;
    let outcome = loop {
        match socket.recv(&mut [0; 64]) {
            Ok(_) => break "answered".to_owned(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => break word(&error),
        }
        if errors.say_unreachable()? {
            break "EHOSTUNREACH".to_owned();
        }
        if began.elapsed() > limit {
            break "nothing".to_owned();
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    Ok(json!({ "outcome": outcome, "ms": ms(began.elapsed()), "local": socket.local_addr()? }))
}

fn deaf(address: SocketAddr) -> anyhow::Result<Value> {
    let socket = UdpSocket::bind(address)?;
    print(&json!({ "bound": socket.local_addr()? }));
    loop {
        std::thread::park();
    }
}

/// A socket of the family of `to` that waits a while for answers.
fn bind(to: SocketAddr, port: u16) -> anyhow::Result<UdpSocket> {
    let any: SocketAddr = if to.is_ipv6() { ([0_u16; 8], port).into() } else { ([0_u8; 4], port).into() };
    let socket = UdpSocket::bind(any).with_context(|| format!("binding {any}"))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(socket)
}

fn resolve(place: &str) -> anyhow::Result<SocketAddr> {
    match place.to_socket_addrs()?.next() {
        Some(address) => Ok(address),
        None => bail!("{place} is no place"),
    }
}

/// Reproducible noise.
fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// An error by its name.
fn word(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "ECONNREFUSED".to_owned(),
        io::ErrorKind::HostUnreachable => "EHOSTUNREACH".to_owned(),
        _ => error.to_string(),
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[allow(clippy::print_stdout, reason = "what the test reads")]
fn print(answer: &Value) {
    println!("{answer}");
}
