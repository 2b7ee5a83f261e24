//! Sets TCP_USER_TIMEOUT, sends a checked stream (of `stream-peer --seed 1`), and tells what becomes of both.
//!
//! Every half second a line on standard error has the time-out as the program sees it, and the bytes sent.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::net::sockopt;
use serde_json::json;
use testkit::pattern;

/// The stream of the opener, for `stream-peer --seed 1`.
const SEED: u64 = 3;
const TELL_EVERY: Duration = Duration::from_millis(500);
const PORTION: Duration = Duration::from_millis(10);

#[derive(Parser)]
struct Arguments {
    /// Where to connect.
    #[arg(long, value_name = "HOST:PORT")]
    connect: String,
    /// TCP_USER_TIMEOUT, in milliseconds.
    #[arg(long)]
    timeout_ms: u32,
    /// Bytes per second.
    #[arg(long, default_value_t = 1 << 20)]
    rate: u64,
    /// Send until there is this file.
    #[arg(long, default_value = "/tmp/enough")]
    until: PathBuf,
}

#[expect(clippy::print_stdout, reason = "the summary is the output of this program")]
fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let stream = TcpStream::connect(&arguments.connect)?;
    sockopt::set_tcp_user_timeout(&stream, arguments.timeout_ms)?;
    let watched = stream.try_clone()?;
    thread::spawn(move || {
        loop {
            let timeout = sockopt::tcp_user_timeout(&watched).map_err(|error| error.to_string());
            eprintln!("time-out {timeout:?}");
            thread::sleep(TELL_EVERY);
        }
    });
    let mut sent = 0;
    let ended = send(&stream, &arguments, &mut sent);
    let error = ended.err().map(|error| error.to_string());
    println!("{}", json!({ "sent": sent, "error": error }));
    Ok(())
}

fn send(mut stream: &TcpStream, arguments: &Arguments, sent: &mut u64) -> io::Result<()> {
    let mut portion = vec![0; usize::try_from(arguments.rate).unwrap_or(usize::MAX) / 100];
    let mut due = Instant::now();
    while !arguments.until.exists() {
        pattern::fill(SEED, *sent, &mut portion);
        stream.write_all(&portion)?;
        *sent += portion.len() as u64;
        due += PORTION;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        due = due.max(Instant::now() - PORTION);
    }
    stream.shutdown(Shutdown::Write)?;
    let ended = io::Read::read(&mut stream, &mut [0; 1])?;
    if ended == 0 { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}
