//! The time of a small message there and back, over one connection or by UDP.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use testkit::figures::percentile;

/// Time after which a datagram counts as lost, which ends the measurement.
const LOST_AFTER: Duration = Duration::from_secs(5);

/// Measures the time of a small message there and back.
#[derive(Parser)]
struct Arguments {
    /// Echo at this address, until killed.
    #[arg(long, value_name = "ADDR:PORT", required_unless_present = "connect", conflicts_with = "connect")]
    listen: Option<String>,
    /// Measure against the one that listens there.
    #[arg(long, value_name = "HOST:PORT")]
    connect: Option<String>,
    /// By datagrams instead of a connection, over IPv4.
    #[arg(long)]
    udp: bool,
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
        (Some(place), _) if arguments.udp => serve_datagrams(place),
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

fn serve_datagrams(place: &str) -> Result<()> {
    let socket = UdpSocket::bind(place).with_context(|| format!("listening at {place}"))?;
    eprintln!("listening on {}", socket.local_addr()?);
    let mut buffer = [0; 64 << 10];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        // One that can't be answered is the client's to miss.
        let _ = socket.send_to(&buffer[..length], from);
    }
}

/// Sends a message, and takes its answer.
fn exchange(place: &str, udp: bool) -> Result<impl FnMut(&[u8], &mut [u8]) -> Result<()>> {
    let (mut stream, mut socket) = (None, None);
    if udp {
        let one = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        one.set_read_timeout(Some(LOST_AFTER))?;
        one.connect(place).with_context(|| format!("connecting to {place}"))?;
        socket = Some(one);
    } else {
        let one = TcpStream::connect(place).with_context(|| format!("connecting to {place}"))?;
        one.set_nodelay(true)?;
        stream = Some(one);
    }
    Ok(move |message: &[u8], answer: &mut [u8]| {
        match (&mut stream, &mut socket) {
            (Some(stream), _) => {
                stream.write_all(message)?;
                stream.read_exact(answer)?;
            }
            (None, Some(socket)) => {
                socket.send(message)?;
                let length = socket.recv(answer).context("a datagram was lost")?;
                anyhow::ensure!(length == message.len(), "a datagram of {length} bytes came");
            }
            (None, None) => {}
        }
        Ok(())
    })
}

#[expect(clippy::print_stdout, reason = "the figures are the output of this program")]
fn measure(place: &str, arguments: &Arguments) -> Result<()> {
    let mut exchange = exchange(place, arguments.udp)?;
    let message = vec![7; arguments.size.max(1)];
    let mut answer = message.clone();
    let mut samples_us = Vec::new();
    let began = Instant::now();
    let warm = Duration::from_secs_f64(arguments.seconds / 10.0);
    while began.elapsed() < warm + Duration::from_secs_f64(arguments.seconds) {
        let sent = Instant::now();
        exchange(&message, &mut answer)?;
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
