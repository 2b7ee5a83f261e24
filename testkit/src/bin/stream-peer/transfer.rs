//! One connection: a thread that sends, and this one that receives and checks.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use testkit::pattern;

use crate::{Arguments, Close, Expect};

const BUFFER_BYTES: usize = 64 << 10;
/// A paced side moves a portion this often.
const PACE: Duration = Duration::from_millis(10);
/// What a paced side may catch up after it was held up, so that a stream stays spread over time.
const BURST: Duration = Duration::from_millis(100);

/// What happened on one connection.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) ok: bool,
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    /// What a PROXY header said: the machine that connected, and the address that it connected to.
    proxied: Option<[SocketAddr; 2]>,
    /// Whether both addresses stayed the same as at the beginning.
    same_addresses: bool,
    pub(crate) sent: u64,
    send_error: Option<String>,
    pub(crate) received: u64,
    pub(crate) wrong_at: Option<u64>,
    /// `eof`, `reset`, `open` when this side closed first, or another error.
    end: String,
    /// Between two reads.
    pub(crate) longest_gap_ms: f64,
    seconds: f64,
}

pub(crate) struct Connection<'a> {
    arguments: &'a Arguments,
    opener: bool,
    stream: TcpStream,
    began: Instant,
}

struct Received {
    bytes: u64,
    wrong_at: Option<u64>,
    end: String,
    gap: Duration,
    /// An address of the connection has changed.
    moved: bool,
    proxied: Option<[SocketAddr; 2]>,
}

impl<'a> Connection<'a> {
    pub(crate) fn new(arguments: &'a Arguments, opener: bool, stream: TcpStream) -> Self {
        Connection { arguments, opener, stream, began: Instant::now() }
    }

    pub(crate) fn run(self) -> Report {
        let addresses = self.addresses();
        if let (Some(local), Some(peer)) = addresses {
            eprintln!("connected {local} to {peer}");
        }
        let (sent, received) = thread::scope(|scope| {
            let sender = scope.spawn(|| self.send());
            let received = self.receive();
            (sender.join().expect("sending does not panic"), received)
        });
        let same_addresses = !received.moved && self.still_at(addresses);
        let (sent, send_error) = (sent.0, sent.1.map(|error| error.to_string()));
        let ok = same_addresses
            && send_error.is_none()
            && sent == self.arguments.send
            && received.wrong_at.is_none()
            && self.arguments.receive.is_none_or(|wanted| wanted == received.bytes)
            && self.expected(&received.end);
        Report {
            ok,
            local: addresses.0,
            peer: addresses.1,
            proxied: received.proxied,
            same_addresses,
            sent,
            send_error,
            received: received.bytes,
            wrong_at: received.wrong_at,
            end: received.end,
            longest_gap_ms: received.gap.as_secs_f64() * 1000.0,
            seconds: self.began.elapsed().as_secs_f64(),
        }
    }

    fn addresses(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        (self.stream.local_addr().ok(), self.stream.peer_addr().ok())
    }

    /// A connection that both sides have ended has no peer any more.
    fn still_at(&self, before: (Option<SocketAddr>, Option<SocketAddr>)) -> bool {
        let now = self.addresses();
        now.0 == before.0 && (now.1 == before.1 || now.1.is_none())
    }

    fn expected(&self, end: &str) -> bool {
        match (self.arguments.close, self.arguments.expect) {
            (Close::Full | Close::Exit | Close::Reset, _) if end == "open" => true,
            (_, Expect::Eof) => end == "eof",
            (_, Expect::Reset) => end == "reset",
            (_, Expect::Any) => true,
        }
    }

    fn send(&self) -> (u64, Option<io::Error>) {
        let mut sent = 0;
        let result = self.send_all(&mut sent).and_then(|()| self.finish());
        (sent, result.err())
    }

    fn send_all(&self, sent: &mut u64) -> io::Result<()> {
        let mut buffer = vec![0; portion(self.arguments.rate)];
        let mut pace = Pace::new(self.arguments.rate);
        let mut stream = &self.stream;
        while *sent < self.arguments.send {
            let length = buffer.len().min(usize::try_from(self.arguments.send - *sent).unwrap_or(usize::MAX));
            pattern::fill(self.seed(self.opener), *sent, &mut buffer[..length]);
            let length = match stream.write(&buffer[..length]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            };
            *sent += length as u64;
            pace.wait(length);
        }
        Ok(())
    }

    fn finish(&self) -> io::Result<()> {
        thread::sleep(Duration::from_secs_f64(self.arguments.linger));
        match self.arguments.close {
            Close::Half => self.stream.shutdown(Shutdown::Write),
            Close::Full => Ok(()),
            // The kernel closes the socket, with all that is still in it.
            Close::Exit => std::process::exit(0),
            Close::Reset => rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO))
                .map_err(io::Error::from),
        }
    }

    fn receive(&self) -> Received {
        let mut received = Received {
            bytes: 0,
            wrong_at: None,
            end: "open".into(),
            gap: Duration::ZERO,
            moved: false,
            proxied: None,
        };
        let addresses = self.addresses();
        if matches!(self.arguments.close, Close::Exit | Close::Reset) {
            return received;
        }
        thread::sleep(Duration::from_secs_f64(self.arguments.read_after));
        if self.arguments.proxy_protocol {
            match crate::proxied::read(&self.stream) {
                Ok(ends) => received.proxied = Some(ends),
                Err(error) => {
                    received.end = error.to_string();
                    return received;
                }
            }
        }
        let mut pace = Pace::new(self.arguments.read_rate);
        let mut buffer = vec![0; portion(self.arguments.read_rate)];
        let mut last = Instant::now();
        let mut told = Instant::now();
        while !self.has_all(received.bytes) {
            let length = match (&self.stream).read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    received.end = "reset".into();
                    break;
                }
                Err(error) => {
                    received.end = error.to_string();
                    break;
                }
                Ok(0) => {
                    received.end = "eof".into();
                    break;
                }
                Ok(length) => length,
            };
            received.gap = received.gap.max(last.elapsed());
            let wrong = pattern::first_wrong(self.seed(!self.opener), received.bytes, &buffer[..length]);
            received.wrong_at = received.wrong_at.or(wrong);
            received.bytes += length as u64;
            received.moved |= !self.still_at(addresses);
            pace.wait(length);
            last = Instant::now();
            if self.arguments.progress && told.elapsed() >= Duration::from_secs(1) {
                told = Instant::now();
                eprintln!("received {} at {:.1} s", received.bytes, self.began.elapsed().as_secs_f64());
            }
        }
        received
    }

    /// Who closes fully stops reading at the number he was told; everybody else waits for the end.
    fn has_all(&self, bytes: u64) -> bool {
        self.arguments.close == Close::Full && self.arguments.receive.is_none_or(|wanted| bytes >= wanted)
    }

    fn seed(&self, by_opener: bool) -> u64 {
        self.arguments.seed.wrapping_mul(2).wrapping_add(u64::from(by_opener))
    }
}

/// Keeps to a rate by sleeping after each portion.
struct Pace {
    rate: u64,
    due: Instant,
}

impl Pace {
    fn new(rate: u64) -> Pace {
        Pace { rate, due: Instant::now() }
    }

    fn wait(&mut self, bytes: usize) {
        if self.rate == 0 {
            return;
        }
        let now = Instant::now();
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        self.due = self.due.max(earliest) + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        thread::sleep(self.due.saturating_duration_since(now));
    }
}

fn portion(rate: u64) -> usize {
    if rate == 0 {
        return BUFFER_BYTES;
    }
    let bytes = rate as f64 * PACE.as_secs_f64();
    (bytes as usize).clamp(1, BUFFER_BYTES)
}
