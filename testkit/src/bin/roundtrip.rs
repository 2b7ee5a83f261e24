//! The time of a small message there and back, over one connection.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use testkit::figures::percentile;

/// Measures the time of a small message there and back.
#[derive(Parser)]
struct Arguments {
    /// Echo at this address, until killed.
    #[arg(long, value_name = "ADDR:PORT", required_unless_present = "connect", conflicts_with = "connect")]
    listen: Option<String>,
    /// Measure against the one that listens there.
    #[arg(long, value_name = "HOST:PORT")]
    connect: Option<String>,
    /// Bytes of a message.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// How long to measure, after a tenth of that for warming up.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
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
        thread::spawn(move || echo(stream));
    }
}

fn echo(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 64 << 10];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length])?;
    }
}

#[expect(clippy::print_stdout, reason = "the figures are the output of this program")]
fn measure(place: &str, arguments: &Arguments) -> Result<()> {
    let mut stream = TcpStream::connect(place).with_context(|| format!("connecting to {place}"))?;
    stream.set_nodelay(true)?;
    let message = vec![7; arguments.size.max(1)];
    let mut answer = message.clone();
    let mut samples_us = Vec::new();
    let began = Instant::now();
    let warm = Duration::from_secs_f64(arguments.seconds / 10.0);
    while began.elapsed() < warm + Duration::from_secs_f64(arguments.seconds) {
        let sent = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut answer)?;
        if began.elapsed() > warm {
            samples_us.push(sent.elapsed().as_secs_f64() * 1e6);
        }
    }
    let summary = serde_json::json!({
        "count": samples_us.len(),
        "p50_us": percentile(&mut samples_us, 0.5),
        "p99_us": percentile(&mut samples_us, 0.99),
        "max_us": percentile(&mut samples_us, 1.0),
    });
    println!("{summary}");
    Ok(())
}
