//! Bytes per second over one or several connections, as the receiver counts them.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;

const BUFFER_BYTES: usize = 128 << 10;
/// First byte of a connection: who sends.
const CLIENT_SENDS: u8 = b'C';
const SERVER_SENDS: u8 = b'S';

/// Measures bytes per second.
#[derive(Parser)]
struct Arguments {
    /// Serve at this address, until killed.
    #[arg(long, value_name = "ADDR:PORT", required_unless_present = "connect", conflicts_with = "connect")]
    listen: Option<String>,
    /// Measure against the one that listens there.
    #[arg(long, value_name = "HOST:PORT")]
    connect: Option<String>,
    /// How long to send.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Connections at once.
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Let the other side send.
    #[arg(long)]
    reverse: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match (&arguments.listen, &arguments.connect) {
        (Some(place), _) => serve(place),
        (None, Some(place)) => measure(place, &arguments),
        (None, None) => Ok(()),
    }
}

fn serve(place: &str) -> Result<()> {
    let listener = TcpListener::bind(place).with_context(|| format!("listening at {place}"))?;
    eprintln!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept()?;
        // A client that breaks off ends its own thread only.
        thread::spawn(move || answer(stream));
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut direction = [0];
    stream.read_exact(&mut direction)?;
    if direction[0] == CLIENT_SENDS {
        let bytes = drain(&mut stream)?;
        return stream.write_all(&bytes.to_be_bytes());
    }
    let buffer = vec![1; BUFFER_BYTES];
    // The client ends it by closing.
    while stream.write_all(&buffer).is_ok() {}
    Ok(())
}

fn drain(stream: &mut TcpStream) -> io::Result<u64> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut bytes = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(bytes),
            length => bytes += length as u64,
        }
    }
}

#[expect(clippy::print_stdout, reason = "the figures are the output of this program")]
fn measure(place: &str, arguments: &Arguments) -> Result<()> {
    let streams = (0..arguments.streams).map(|_| TcpStream::connect(place));
    let streams: Vec<TcpStream> =
        streams.collect::<io::Result<_>>().with_context(|| format!("connecting to {place}"))?;
    let limit = Duration::from_secs_f64(arguments.seconds);
    let began = Instant::now();
    let counts: Vec<io::Result<u64>> = thread::scope(|scope| {
        let reverse = arguments.reverse;
        let running: Vec<_> = streams
            .into_iter()
            .map(|stream| {
                scope.spawn(move || if reverse { pull(stream, limit) } else { push(stream, limit) })
            })
            .collect();
        running.into_iter().map(|thread| thread.join().expect("a transfer does not panic")).collect()
    });
    let seconds = began.elapsed().as_secs_f64();
    let bytes: u64 = counts.into_iter().sum::<io::Result<u64>>().context("the connection broke")?;
    let gbit_per_s = bytes as f64 * 8.0 / seconds / 1e9;
    let streams = arguments.streams;
    println!(
        "{}",
        serde_json::json!({ "bytes": bytes, "seconds": seconds, "gbit_per_s": gbit_per_s, "streams": streams })
    );
    Ok(())
}

/// Sends for so long; the receiver's count arrives when it has everything.
fn push(mut stream: TcpStream, limit: Duration) -> io::Result<u64> {
    let buffer = vec![1; BUFFER_BYTES];
    let began = Instant::now();
    stream.write_all(&[CLIENT_SENDS])?;
    while began.elapsed() < limit {
        stream.write_all(&buffer)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    Ok(u64::from_be_bytes(count))
}

fn pull(mut stream: TcpStream, limit: Duration) -> io::Result<u64> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut bytes = 0;
    let began = Instant::now();
    stream.write_all(&[SERVER_SENDS])?;
    while began.elapsed() < limit {
        bytes += stream.read(&mut buffer)? as u64;
    }
    Ok(bytes)
}
