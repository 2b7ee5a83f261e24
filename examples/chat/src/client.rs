//! The client: one thread writes at its pace, this one checks the number of every line that comes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::protocol::{FromClient, FromServer, LINE_BYTES_MAX};

/// Whom to talk to, and how much.
#[derive(Clone, Debug)]
pub struct Talk {
    /// `HOST:PORT` of the server.
    pub server: String,
    /// Name in the chat.
    pub name: String,
    /// Lines to write at most.
    pub lines: u64,
    /// Seconds to write at most.
    pub seconds: f64,
    /// Lines written per second; 0: as fast as possible.
    pub rate: f64,
    /// Called for every line of the chat.
    pub show: fn(&str),
}

/// What one client has seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// Whether every line came once, in order, over one connection.
    pub ok: bool,
    /// Name in the chat.
    pub name: String,
    /// Lines written.
    pub sent: u64,
    /// Lines received, of everybody.
    pub lines: u64,
    /// Numbers that never came.
    pub lost: u64,
    /// Numbers that came twice, or late.
    pub repeated: u64,
    /// Always 0: there is no code to connect again.
    pub reconnects: u64,
    /// Longest time between two lines received.
    pub longest_gap_ms: f64,
    /// Longest time from writing a line to its coming back.
    pub slowest_echo_ms: f64,
    /// From the connection to its end.
    pub seconds: f64,
    /// Own address at the beginning.
    pub local: Option<SocketAddr>,
    /// The server's address at the beginning.
    pub peer: Option<SocketAddr>,
    /// Whether both were the same at the end.
    pub same_addresses: bool,
    /// Why it ended early.
    pub error: Option<String>,
}

/// Talks, and says what was seen; a broken connection is in the summary's `error`.
///
/// # Errors
/// When the server can't be reached at all.
pub fn talk(talk: &Talk) -> Result<Summary> {
    let stream =
        TcpStream::connect(&talk.server).with_context(|| format!("connecting to {}", talk.server))?;
    stream.set_nodelay(true)?;
    let began = Instant::now();
    let (local, peer) = (stream.local_addr().ok(), stream.peer_addr().ok());
    let mut seen = Seen::new(Summary { name: talk.name.clone(), local, peer, ..Summary::default() });
    let error = thread::scope(|scope| {
        let writer = scope.spawn(|| write(&stream, talk, began));
        let read = seen.read(&stream, talk.show);
        if read.is_err() {
            // Ends the writer, which may stand in a full socket. An already dead connection needs no second death.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        let (sent, written) = writer.join().expect("writing does not panic");
        seen.summary.sent = sent;
        read.err().or(written.err().map(Into::into))
    });
    let mut summary = seen.finish();
    summary.error = error.map(|error| format!("{error:#}"));
    summary.seconds = began.elapsed().as_secs_f64();
    let complete = summary.error.is_none() && summary.lost == 0 && summary.repeated == 0;
    summary.ok = complete && summary.same_addresses;
    Ok(summary)
}

/// Gives the number of lines written, also when it broke off.
fn write(mut stream: &TcpStream, talk: &Talk, began: Instant) -> (u64, io::Result<()>) {
    let mut sent = 0;
    let mut say = |message: FromClient| stream.write_all(format!("{message}\n").as_bytes());
    let result = say(FromClient::Hello(talk.name.clone())).and_then(|()| {
        while sent < talk.lines && began.elapsed().as_secs_f64() < talk.seconds {
            // The time is for `slowest_echo_ms`: it comes back with the line.
            say(FromClient::Say(
                sent,
                format!("{} line {sent} of {}", began.elapsed().as_micros(), talk.name),
            ))?;
            sent += 1;
            if talk.rate > 0.0 {
                let due = Duration::from_secs_f64(sent as f64 / talk.rate);
                thread::sleep(due.saturating_sub(began.elapsed()));
            }
        }
        say(FromClient::Bye)
    });
    (sent, result)
}

struct Seen {
    summary: Summary,
    began: Instant,
    last: Option<Instant>,
    next: Option<u64>,
    own_next: u64,
}

impl Seen {
    fn new(summary: Summary) -> Seen {
        Seen {
            summary: Summary { same_addresses: true, ..summary },
            began: Instant::now(),
            last: None,
            next: None,
            own_next: 0,
        }
    }

    fn read(&mut self, stream: &TcpStream, show: fn(&str)) -> Result<()> {
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = String::new();
            reader.by_ref().take(LINE_BYTES_MAX * 2).read_line(&mut line).context("the connection broke")?;
            let Some(text) = line.strip_suffix('\n') else {
                bail!("the connection ended without a goodbye, after {} lines", self.summary.lines)
            };
            show(text);
            self.summary.same_addresses &= stream.local_addr().ok() == self.summary.local
                && stream.peer_addr().ok() == self.summary.peer;
            match text.parse::<FromServer>()? {
                FromServer::Welcome(next) => self.next = Some(next),
                FromServer::Line { number, name, own_number, text } => {
                    self.line(number, &name, own_number, &text)
                }
                FromServer::Goodbye(next) => {
                    let missing = next.saturating_sub(self.next.unwrap_or(next));
                    self.summary.lost += missing;
                    return Ok(());
                }
            }
        }
    }

    fn line(&mut self, number: u64, name: &str, own_number: u64, text: &str) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.summary.longest_gap_ms =
                self.summary.longest_gap_ms.max((now - last).as_secs_f64() * 1000.0);
        }
        self.summary.lines += 1;
        self.count(number, name, own_number);
        let sent = text.split(' ').next().and_then(|word| word.parse().ok()).map(Duration::from_micros);
        if let (Some(sent), true) = (sent, name == self.summary.name) {
            let echo_ms = self.began.elapsed().saturating_sub(sent).as_secs_f64() * 1000.0;
            self.summary.slowest_echo_ms = self.summary.slowest_echo_ms.max(echo_ms);
        }
    }

    /// A number above the expected one means that those between are lost; one below, that it came again.
    fn count(&mut self, number: u64, name: &str, own_number: u64) {
        let expected = self.next.unwrap_or(number);
        self.summary.lost += number.saturating_sub(expected);
        self.summary.repeated += u64::from(number < expected);
        self.next = Some(expected.max(number + 1));
        if name == self.summary.name {
            self.summary.lost += own_number.saturating_sub(self.own_next);
            self.summary.repeated += u64::from(own_number < self.own_next);
            self.own_next = self.own_next.max(own_number + 1);
        }
    }

    /// Lines of its own that never came back are lost too.
    fn finish(mut self) -> Summary {
        self.summary.lost += self.summary.sent.saturating_sub(self.own_next);
        self.summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(numbers: &[(u64, &str, u64)]) -> Summary {
        let mut seen = Seen::new(Summary { name: "me".into(), ..Summary::default() });
        seen.next = Some(5);
        for (number, name, own) in numbers {
            seen.line(*number, name, *own, "0 text");
        }
        seen.summary
    }

    #[test]
    fn in_order_is_neither_loss_nor_repetition() {
        let summary = seen(&[(5, "me", 0), (6, "you", 40), (7, "me", 1)]);
        assert_eq!((summary.lines, summary.lost, summary.repeated), (3, 0, 0));
    }

    #[test]
    fn loss_and_repetition_are_counted() {
        let summary = seen(&[(6, "you", 0), (9, "you", 1), (8, "you", 1), (10, "you", 2)]);
        assert_eq!((summary.lost, summary.repeated), (3, 1));
        let summary = seen(&[(5, "me", 1), (6, "me", 1)]);
        assert_eq!((summary.lost, summary.repeated), (1, 1));
    }
}
