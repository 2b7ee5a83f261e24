//! Looks at connections from inside a capsule, closer than a database client does.

use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketFlags, SocketType, connect, getpeername, getsockname, socket_with,
    sockopt,
};
use serde_json::{Value, json};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Connects once and tells how it went and how long it took.
    Connect {
        place: String,
        /// As event loops do it: EINPROGRESS, poll, SO_ERROR.
        #[arg(long)]
        nonblocking: bool,
        /// Seconds to wait for the outcome of a non-blocking connect.
        #[arg(long, default_value_t = 30.0)]
        limit: f64,
    },
}

fn main() -> ExitCode {
    let Verb::Connect { place, nonblocking, limit } = Arguments::parse().verb;
    let Some(address) = place.to_socket_addrs().ok().and_then(|mut found| found.next()) else {
        eprintln!("probe: {place} is no place");
        return ExitCode::FAILURE;
    };
    match try_connect(address, nonblocking, Duration::from_secs_f64(limit)) {
        Ok(answer) => print(&answer),
        Err(error) => {
            eprintln!("probe: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// An error here is one of the probe itself; what became of the connect is in the answer.
fn try_connect(address: SocketAddr, nonblocking: bool, limit: Duration) -> rustix::io::Result<Value> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = if nonblocking { SocketFlags::NONBLOCK } else { SocketFlags::empty() };
    let socket = socket_with(family, SocketType::STREAM, flags | SocketFlags::CLOEXEC, None)?;
    let began = Instant::now();
    let at_first = connect(&socket, &address);
    let first_ms = milliseconds(began);
    let outcome = match at_first {
        Err(Errno::INPROGRESS) => wait(&socket, limit)?,
        other => other,
    };
    let ms = milliseconds(began);
    let (local, peer) = match outcome {
        Ok(()) => (name(Some(getsockname(&socket)?))?, name(getpeername(&socket)?)?),
        Err(_) => (None, None),
    };
    Ok(json!({
        "at_first": word(at_first), "first_ms": first_ms,
        "outcome": word(outcome), "ms": ms, "local": local, "peer": peer,
    }))
}

fn wait(socket: &OwnedFd, limit: Duration) -> rustix::io::Result<Result<(), Errno>> {
    let mut watched = [PollFd::new(socket, PollFlags::OUT)];
    let limit = limit.try_into().map_err(|_| Errno::INVAL)?;
    if poll(&mut watched, Some(&limit))? == 0 {
        return Ok(Err(Errno::INPROGRESS));
    }
    sockopt::socket_error(socket)
}

fn name(address: Option<SocketAddrAny>) -> rustix::io::Result<Option<String>> {
    address.map(|address| Ok(SocketAddr::try_from(address)?.to_string())).transpose()
}

fn word(outcome: Result<(), Errno>) -> String {
    match outcome {
        Ok(()) => "connected".into(),
        Err(Errno::INPROGRESS) => "EINPROGRESS".into(),
        Err(Errno::CONNREFUSED) => "ECONNREFUSED".into(),
        Err(Errno::HOSTUNREACH) => "EHOSTUNREACH".into(),
        Err(Errno::NETUNREACH) => "ENETUNREACH".into(),
        Err(Errno::TIMEDOUT) => "ETIMEDOUT".into(),
        Err(Errno::CONNRESET) => "ECONNRESET".into(),
        Err(other) => format!("errno {}", other.raw_os_error()),
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

#[expect(clippy::print_stdout, reason = "the answer is the output of this program")]
fn print(answer: &Value) {
    println!("{answer}");
}
