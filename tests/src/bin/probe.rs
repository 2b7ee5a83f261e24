//! Looks at connections from inside a capsule, closer than a database client does.

use std::io;
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
        #[command(flatten)]
        options: Options,
    },
    /// Connects many times at once, without blocking, and counts the outcomes.
    Crowd {
        place: String,
        #[arg(long)]
        count: usize,
        /// Seconds to wait for all outcomes.
        #[arg(long, default_value_t = 40.0)]
        limit: f64,
    },
    /// Connects without blocking and closes each socket within two milliseconds, however far its connect is.
    Abandon {
        place: String,
        #[arg(long)]
        count: u64,
    },
    /// Connects, sends nothing, and tells how the connection ended; then stays for some seconds.
    Outlive {
        place: String,
        /// Seconds to wait for its end.
        #[arg(long, default_value_t = 30.0)]
        limit: f64,
        #[arg(long, default_value_t = 0.0)]
        stay: f64,
    },
    /// Listens with the shortest backlog there is, and accepts only after some seconds.
    Backlog {
        place: SocketAddr,
        #[arg(long)]
        accept_after: f64,
    },
    /// Reads the clocks over and over, and tells the longest step of each so far, until it is ended.
    Clocks,
}

/// What a program may ask of its socket before it connects.
#[derive(clap::Args, Default)]
struct Options {
    /// The port to connect from.
    #[arg(long)]
    from: Option<u16>,
    /// TCP_USER_TIMEOUT, milliseconds.
    #[arg(long)]
    user_timeout: Option<u32>,
    /// SO_SNDTIMEO, milliseconds.
    #[arg(long)]
    send_timeout: Option<u64>,
}

impl Options {
    fn apply(&self, socket: &OwnedFd, to: SocketAddr) -> io::Result<()> {
        let socket = socket2::SockRef::from(socket);
        if let Some(port) = self.from {
            let any: SocketAddr =
                if to.is_ipv6() { ([0_u16; 8], port).into() } else { ([0_u8; 4], port).into() };
            socket.set_reuse_address(true)?;
            socket.bind(&any.into())?;
        }
        if let Some(milliseconds) = self.user_timeout {
            socket.set_tcp_user_timeout(Some(Duration::from_millis(milliseconds.into())))?;
        }
        if let Some(milliseconds) = self.send_timeout {
            socket.set_write_timeout(Some(Duration::from_millis(milliseconds)))?;
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Connect { place, nonblocking, limit, options } => address_of(&place)
            .and_then(|address| try_connect(address, nonblocking, Duration::from_secs_f64(limit), &options)),
        Verb::Crowd { place, count, limit } => {
            address_of(&place).and_then(|address| crowd(address, count, Duration::from_secs_f64(limit)))
        }
        Verb::Abandon { place, count } => address_of(&place).and_then(|address| abandon(address, count)),
        Verb::Outlive { place, limit, stay } => {
            address_of(&place).and_then(|address| outlive(address, Duration::from_secs_f64(limit), stay))
        }
        Verb::Backlog { place, accept_after } => accept_late(place, Duration::from_secs_f64(accept_after)),
        Verb::Clocks => watch_clocks(),
    };
    match done {
        Ok(answer) => print(&answer),
        Err(error) => {
            eprintln!("probe: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn address_of(place: &str) -> io::Result<SocketAddr> {
    let nowhere = || io::Error::other(format!("{place} is no place"));
    place.to_socket_addrs()?.next().ok_or_else(nowhere)
}

fn open(address: SocketAddr, nonblocking: bool) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = if nonblocking { SocketFlags::NONBLOCK } else { SocketFlags::empty() };
    socket_with(family, SocketType::STREAM, flags | SocketFlags::CLOEXEC, None)
}

/// An error here is one of the probe itself; what became of the connect is in the answer.
fn try_connect(
    address: SocketAddr,
    nonblocking: bool,
    limit: Duration,
    options: &Options,
) -> io::Result<Value> {
    let socket = open(address, nonblocking)?;
    options.apply(&socket, address)?;
    let began = Instant::now();
    let at_first = connect(&socket, &address);
    let first_ms = milliseconds(began);
    let outcome = match at_first {
        Err(Errno::INPROGRESS) if nonblocking => wait(&socket, limit)?,
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

fn crowd(address: SocketAddr, count: usize, limit: Duration) -> io::Result<Value> {
    let mut outcomes = std::collections::BTreeMap::<String, usize>::new();
    let began = Instant::now();
    let (mut waiting, mut decided) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let socket = open(address, true)?;
        match connect(&socket, &address) {
            Err(Errno::INPROGRESS) => waiting.push(socket),
            other => *outcomes.entry(word(other)).or_default() += 1,
        }
    }
    eprintln!("{} under way", waiting.len());
    while !waiting.is_empty() && began.elapsed() < limit {
        let mut watched: Vec<_> = waiting.iter().map(|socket| PollFd::new(socket, PollFlags::OUT)).collect();
        let pause = Duration::from_millis(100).try_into().map_err(|_| Errno::INVAL)?;
        poll(&mut watched, Some(&pause))?;
        let ready: Vec<bool> = watched.iter().map(|fd| !fd.revents().is_empty()).collect();
        for (at, _) in ready.iter().enumerate().rev().filter(|(_, ready)| **ready) {
            let Some(outcome) = decided_as(&waiting[at])? else { continue };
            let socket = waiting.swap_remove(at);
            *outcomes.entry(word(outcome)).or_default() += 1;
            // One that is closed is no longer there for its server.
            decided.push(socket);
        }
    }
    let ms = milliseconds(began);
    Ok(json!({ "outcomes": outcomes, "undecided": waiting.len(), "ms": ms }))
}

/// How the connect of a socket ended; `None` if it has not. Linux puts an ICMP error into the error queue, and wakes who polls,
/// a moment before SO_ERROR has it (`tcp_v4_err`; seen as POLLERR without POLLHUP, SO_ERROR 0, and EHOSTUNREACH when it was
/// asked again): no error does not mean a connection yet.
fn decided_as(socket: &OwnedFd) -> rustix::io::Result<Option<Result<(), Errno>>> {
    let outcome = sockopt::socket_error(socket)?;
    Ok((outcome.is_err() || getpeername(socket).is_ok()).then_some(outcome))
}

/// As a browser does that tries two addresses and keeps what answers first.
fn abandon(address: SocketAddr, count: u64) -> io::Result<Value> {
    for number in 0..count {
        let socket = open(address, true)?;
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        std::thread::sleep(Duration::from_micros(number % 20 * 100));
    }
    Ok(json!({ "abandoned": count }))
}

/// Tells of the connect, and then of its end.
fn outlive(address: SocketAddr, limit: Duration, stay: f64) -> io::Result<Value> {
    let socket = open(address, false)?;
    let (began, outcome) = (Instant::now(), connect(&socket, &address));
    let ms = milliseconds(began);
    eprintln!("{}", word(outcome));
    let end = match outcome {
        Ok(()) => end_of(&socket, limit)?,
        Err(_) => "never made".into(),
    };
    let answer = json!({ "outcome": word(outcome), "ms": ms, "end": end, "end_ms": milliseconds(began) });
    if stay > 0.0 {
        eprintln!("{end}");
        std::thread::sleep(Duration::from_secs_f64(stay));
    }
    Ok(answer)
}

fn end_of(socket: &OwnedFd, limit: Duration) -> io::Result<String> {
    let limit = limit.try_into().map_err(|_| Errno::INVAL)?;
    if poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&limit))? == 0 {
        return Ok("none".into());
    }
    match rustix::io::read(socket, &mut [0; 16]) {
        Ok(0) => Ok("over".into()),
        Ok(_) => Ok("bytes".into()),
        Err(error) => Ok(word(Err(error))),
    }
}

/// Never ends.
fn accept_late(place: SocketAddr, after: Duration) -> io::Result<Value> {
    let socket = open(place, false)?;
    rustix::net::bind(&socket, &place)?;
    rustix::net::listen(&socket, 0)?;
    print(&json!({ "listening": place }));
    std::thread::sleep(after);
    let mut accepted = Vec::new();
    loop {
        accepted.push(rustix::net::accept(&socket)?);
        print(&json!({ "accepted": accepted.len() }));
    }
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
    let until = Instant::now() + limit;
    loop {
        let mut watched = [PollFd::new(socket, PollFlags::OUT)];
        let left = until.saturating_duration_since(Instant::now());
        if poll(&mut watched, Some(&left.try_into().map_err(|_| Errno::INVAL)?))? == 0 {
            return Ok(Err(Errno::INPROGRESS));
        }
        if let Some(outcome) = decided_as(socket)? {
            return Ok(outcome);
        }
    }
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
