//! Sends and receives streams of which every byte is checked, for tests that move or kill whatever is on the way.
//!
//! Two of them talk: one with `--listen`, one with `--connect`. Each sends `--send` bytes of its side's pattern and
//! checks what it receives offset by offset. A JSON summary is printed at the end; the exit code is 0 when everything
//! was as expected.

mod proxied;
mod transfer;

use std::io;
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use serde::Serialize;
use testkit::parse_size;

use transfer::{Connection, Report};

/// Sends and receives streams of which every byte is checked.
#[derive(Parser)]
pub(crate) struct Arguments {
    /// Accept connections at this address.
    #[arg(long, value_name = "ADDR:PORT", required_unless_present = "connect", conflicts_with = "connect")]
    listen: Option<String>,
    /// Connect to this host name or address.
    #[arg(long, value_name = "HOST:PORT")]
    connect: Option<String>,
    /// Bytes to send (suffixes K, M, G).
    #[arg(long, default_value = "0", value_parser = parse_size)]
    pub(crate) send: u64,
    /// Bytes that must come; without it any number does.
    #[arg(long, value_parser = parse_size)]
    pub(crate) receive: Option<u64>,
    /// Bytes sent per second; 0: as fast as possible.
    #[arg(long, default_value = "0", value_parser = parse_size)]
    pub(crate) rate: u64,
    /// Bytes read per second; 0: as fast as possible.
    #[arg(long, default_value = "0", value_parser = parse_size)]
    pub(crate) read_rate: u64,
    /// Which pattern; the same on both sides.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// What to do when everything is sent.
    #[arg(long, value_enum, default_value = "half")]
    pub(crate) close: Close,
    /// How the other side must end.
    #[arg(long, value_enum, default_value = "eof")]
    pub(crate) expect: Expect,
    /// Seconds to listen before the first accept.
    #[arg(long, default_value_t = 0.0)]
    accept_after: f64,
    /// Seconds to wait before the first read.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) read_after: f64,
    /// Seconds to keep the connection open and quiet after everything was sent, before closing.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) linger: f64,
    /// Connections to open or to accept, all at once.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Expect a header of the PROXY protocol, version 2, before the first byte of each connection, and report it.
    #[arg(long)]
    pub(crate) proxy_protocol: bool,
    /// Print a line to stderr every second.
    #[arg(long)]
    pub(crate) progress: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Close {
    /// End the own direction, then read until the other side ends its own.
    Half,
    /// Close as soon as everything is sent and `--receive` bytes have come.
    Full,
    /// Send, and end the program at once without reading anything.
    Exit,
    /// Send, and reset the connection.
    Reset,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Expect {
    /// An orderly end.
    Eof,
    /// A reset.
    Reset,
    /// Whatever it is.
    Any,
}

#[derive(Serialize)]
struct Summary {
    ok: bool,
    role: &'static str,
    sent: u64,
    received: u64,
    wrong: usize,
    longest_gap_ms: f64,
    seconds: f64,
    connections: Vec<Report>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let began = Instant::now();
    let streams = match open(&arguments) {
        Ok(streams) => streams,
        Err(error) => {
            eprintln!("stream-peer: {error}");
            return ExitCode::FAILURE;
        }
    };
    let opener = arguments.connect.is_some();
    let reports: Vec<Report> = thread::scope(|scope| {
        let arguments = &arguments;
        let running: Vec<_> = streams
            .into_iter()
            .map(|stream| scope.spawn(move || Connection::new(arguments, opener, stream).run()))
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().expect("a transfer reports and does not panic"))
            .collect()
    });
    let summary = Summary {
        ok: reports.iter().all(|report| report.ok),
        role: if opener { "connect" } else { "listen" },
        sent: reports.iter().map(|report| report.sent).sum(),
        received: reports.iter().map(|report| report.received).sum(),
        wrong: reports.iter().filter(|report| report.wrong_at.is_some()).count(),
        longest_gap_ms: reports.iter().map(|report| report.longest_gap_ms).fold(0.0, f64::max),
        seconds: began.elapsed().as_secs_f64(),
        connections: reports,
    };
    print(&summary);
    if summary.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All connections are there before the first byte is sent: each waits in the other side's backlog.
fn open(arguments: &Arguments) -> io::Result<Vec<TcpStream>> {
    if let Some(place) = &arguments.connect {
        return (0..arguments.connections).map(|_| TcpStream::connect(place)).collect();
    }
    let place = arguments.listen.as_deref().unwrap_or_default();
    let listener = TcpListener::bind(place)?;
    eprintln!("listening on {}", listener.local_addr()?);
    thread::sleep(Duration::from_secs_f64(arguments.accept_after));
    (0..arguments.connections).map(|_| Ok(listener.accept()?.0)).collect()
}

#[expect(clippy::print_stdout, reason = "the summary is the output of this program")]
fn print(summary: &Summary) {
    println!("{}", serde_json::to_string(summary).expect("numbers and strings"));
}
