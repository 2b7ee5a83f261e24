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
use rustix::time::{ClockId, clock_gettime};
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
    /// Reads the clocks over and over, and tells the longest step of each so far, until it is ended.
    Clocks,
}

fn main() -> ExitCode {
    let (place, nonblocking, limit) = match Arguments::parse().verb {
        Verb::Connect { place, nonblocking, limit } => (place, nonblocking, limit),
        Verb::Clocks => watch_clocks(),
    };
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

/// Never ends. A step back counts as one of the length of a century.
fn watch_clocks() -> ! {
    const CLOCKS: [ClockId; 3] = [ClockId::Monotonic, ClockId::Boottime, ClockId::Realtime];
    const BACK: f64 = 1e13;
    let read = || {
        CLOCKS.map(|clock| {
            let time = clock_gettime(clock);
            time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
        })
    };
    let (mut last, mut longest) = (read(), [0_f64; 3]);
    for count in 0_u64.. {
        std::thread::sleep(Duration::from_millis(10));
        let now = read();
        for at in 0..CLOCKS.len() {
            let step = now[at] - last[at];
            longest[at] = longest[at].max(if step < 0.0 { BACK } else { step });
        }
        last = now;
        if count % 10 == 0 {
            let [monotonic, boottime, realtime] = longest;
            print(&json!({"monotonic": monotonic, "boottime": boottime, "realtime": realtime}));
        }
    }
    unreachable!("there are enough numbers")
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
