//! How many connections per second can be opened, used once and closed; or many that stay open and idle.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use rustix::event::{PollFd, PollFlags, poll};
use testkit::figures::percentile;

const MESSAGE_BYTES: usize = 64;
/// Time that a connection held gets to show that it is alive.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
/// Threads that accept: more than any number of clients at once in use here.
const ACCEPTORS: usize = 64;

/// Measures connections per second: connect, echo of 64 bytes, close.
#[derive(Parser)]
struct Arguments {
    /// Serve at this address, until killed.
    #[arg(long, value_name = "ADDR:PORT", required_unless_present = "connect", conflicts_with = "connect")]
    listen: Option<String>,
    /// Measure against the one that listens there.
    #[arg(long, value_name = "HOST:PORT")]
    connect: Option<String>,
    /// How long to measure, or to hold.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Measure until this file is there, if that is earlier.
    #[arg(long, value_name = "FILE")]
    until: Option<PathBuf>,
    /// Connections under way at once.
    #[arg(long, default_value_t = 1)]
    parallel: usize,
    /// Open so many, keep them idle, and see at the end that each is alive; with --listen: keep them and send back what
    /// comes.
    #[arg(long)]
    hold: Option<usize>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match (&arguments.listen, &arguments.connect, arguments.hold) {
        (Some(place), _, None) => serve(place),
        (Some(place), _, Some(_)) => keep(place),
        (None, Some(place), None) => measure(place, &arguments),
        (None, Some(place), Some(count)) => hold(place, count, arguments.seconds),
        (None, None, _) => Ok(()),
    }
}

fn listen(place: &str) -> Result<TcpListener> {
    let listener = TcpListener::bind(place).with_context(|| format!("listening at {place}"))?;
    eprintln!("listening on {}", listener.local_addr()?);
    Ok(listener)
}

fn serve(place: &str) -> Result<()> {
    let listener = listen(place)?;
    thread::scope(|scope| {
        for _ in 0..ACCEPTORS {
            scope.spawn(|| {
                loop {
                    // A connection that broke is the client's to report.
                    let _ = listener.accept().and_then(|(stream, _)| echo_once(stream));
                }
            });
        }
    });
    Ok(())
}

/// This side closes first, so that the ports of the measuring side are free again at once.
fn echo_once(mut stream: TcpStream) -> io::Result<()> {
    let mut message = [0; MESSAGE_BYTES];
    stream.read_exact(&mut message)?;
    stream.write_all(&message)
}

/// Keeps every connection, and sends back what comes on any of them, in one thread.
fn keep(place: &str) -> Result<()> {
    let listener = listen(place)?;
    let mut kept: Vec<TcpStream> = Vec::new();
    let mut message = [0; MESSAGE_BYTES];
    loop {
        let mut fds = vec![PollFd::new(&listener, PollFlags::IN)];
        fds.extend(kept.iter().map(|stream| PollFd::new(stream, PollFlags::IN)));
        rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut talks = ready[1..].iter();
        kept.retain_mut(|stream| {
            if !talks.next().is_some_and(|ready| *ready) {
                return true;
            }
            matches!(stream.read(&mut message), Ok(count) if count > 0 && stream.write_all(&message[..count]).is_ok())
        });
        if ready[0] {
            kept.push(listener.accept()?.0);
        }
    }
}

#[expect(clippy::print_stdout, reason = "the figures are the output of this program")]
fn measure(place: &str, arguments: &Arguments) -> Result<()> {
    let limit = Duration::from_secs_f64(arguments.seconds);
    let until = arguments.until.as_deref();
    let began = Instant::now();
    let results: Vec<Found> = thread::scope(|scope| {
        let running: Vec<_> = (0..arguments.parallel)
            .map(|_| scope.spawn(move || repeat(place, began, limit, until)))
            .collect();
        running.into_iter().map(|thread| thread.join().expect("failures are counted")).collect()
    });
    let seconds = began.elapsed().as_secs_f64();
    let mut all = Found::default();
    for found in results {
        all.whole_us.extend(found.whole_us);
        all.connect_us.extend(found.connect_us);
        all.failures.extend(found.failures);
    }
    let Found { whole_us: mut samples_us, mut connect_us, failures } = all;
    let summary = serde_json::json!({
        "connections": samples_us.len(),
        "per_second": samples_us.len() as f64 / seconds,
        "p50_us": percentile(&mut samples_us, 0.5),
        "p99_us": percentile(&mut samples_us, 0.99),
        "connect_p50_us": percentile(&mut connect_us, 0.5),
        "connect_p99_us": percentile(&mut connect_us, 0.99),
        "failed": failures.len(),
        "first_failure": failures.first(),
    });
    println!("{summary}");
    anyhow::ensure!(failures.is_empty(), "{} connections failed", failures.len());
    Ok(())
}

/// What became of connections.
#[derive(Default)]
struct Found {
    /// From before the connect to the end of the answer.
    whole_us: Vec<f64>,
    /// The connect alone.
    connect_us: Vec<f64>,
    failures: Vec<String>,
}

fn repeat(place: &str, began: Instant, limit: Duration, until: Option<&Path>) -> Found {
    let mut found = Found::default();
    while began.elapsed() < limit && !until.is_some_and(Path::exists) {
        let start = Instant::now();
        match once(place) {
            Ok(connect) => {
                found.whole_us.push(start.elapsed().as_secs_f64() * 1e6);
                found.connect_us.push(connect.as_secs_f64() * 1e6);
            }
            Err(error) => {
                found.failures.push(format!("after {:.3} s: {error:#}", began.elapsed().as_secs_f64()));
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
    found
}

/// Says how long the connect took.
fn once(place: &str) -> Result<Duration> {
    let began = Instant::now();
    let stream = TcpStream::connect(place).context("connect")?;
    let connect = began.elapsed();
    let from = stream.local_addr().context("a connection without an address")?;
    echoed(stream).with_context(|| format!("the connection from {from}"))?;
    Ok(connect)
}

fn echoed(mut stream: TcpStream) -> io::Result<()> {
    let message = [9; MESSAGE_BYTES];
    stream.write_all(&message)?;
    let mut answer = Vec::with_capacity(MESSAGE_BYTES);
    stream.read_to_end(&mut answer)?;
    if answer == message { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

#[expect(clippy::print_stdout, reason = "the figures are the output of this program")]
fn hold(place: &str, count: usize, seconds: f64) -> Result<()> {
    let began = Instant::now();
    let streams = (0..count).map(|_| TcpStream::connect(place));
    let streams: Vec<TcpStream> =
        streams.collect::<io::Result<_>>().with_context(|| format!("connecting {count} times to {place}"))?;
    eprintln!("{} are open after {:.2} s", streams.len(), began.elapsed().as_secs_f64());
    thread::sleep(Duration::from_secs_f64(seconds));
    let alive = streams.iter().filter(|stream| answers(stream)).count();
    println!("{}", serde_json::json!({ "held": streams.len(), "alive": alive }));
    anyhow::ensure!(
        alive == streams.len(),
        "{} of {} connections are dead",
        streams.len() - alive,
        streams.len()
    );
    Ok(())
}

/// Whether what is sent on a connection comes back.
fn answers(mut stream: &TcpStream) -> bool {
    let (message, mut answer) = ([7; MESSAGE_BYTES], [0; MESSAGE_BYTES]);
    let asked = stream.set_read_timeout(Some(ANSWERS_WITHIN)).and_then(|()| stream.write_all(&message));
    asked.and_then(|()| stream.read_exact(&mut answer)).is_ok() && answer == message
}
