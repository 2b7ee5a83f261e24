//! The two directions of a half: peeked bytes on their way to the link, arrived bytes on their way to the program.
//!
//! Every step can be cancelled at any await without losing a byte: what was taken from one side and not yet
//! accepted by the other stays in `pending`.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use overlay_proto::{AttachKey, EndKind, StreamHeader};
use tokio::time::Instant;

use super::program::{Peeked, Program};
use super::turns::{Stalls, Turn};
use crate::limits::{EARLY_STREAMS, PEEK_BYTES_MIN, READ_CHUNK_BYTES};
use crate::link::{Link, Receiver, Sender, WriteError};

/// From the program to the link.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    opening: Option<(Arc<Link>, StreamHeader)>,
    stream: Option<Sender>,
    pending: Bytes,
    /// The place among the writers of the link.
    turn: Turn,
    peek_bytes: usize,
    /// The next bytes may be such that were peeked before, however many: the runtime does not tell of them again.
    sought: bool,
    /// The program's stream has ended and the core knows.
    ended: bool,
    discarding: bool,
    /// The other side has no room: it attaches again when it has.
    parked: bool,
}

/// What happened in the outgoing direction.
#[derive(Debug)]
pub(super) enum OutgoingStep {
    /// So many bytes were written to the stream.
    Sent(usize),
    /// The program's stream ended after what was sent.
    Ended(EndKind),
    /// The program's connection was reset.
    ProgramFailed,
    /// The stream broke.
    StreamBroke,
}

impl Outgoing {
    /// Opens a stream on `link` at the next step.
    pub(super) fn start(&mut self, link: Arc<Link>, header: StreamHeader) {
        self.stop();
        self.ended = false;
        self.sought = true;
        self.opening = Some((link, header));
    }

    /// Drops the stream and what was peeked for it.
    pub(super) fn stop(&mut self) {
        self.opening = None;
        self.parked = false;
        self.pending = Bytes::new();
        self.turn = Turn::None;
        if let Some(stream) = self.stream.take() {
            stream.abandon();
        }
    }

    /// The core knows that the program's stream ended: the last bytes are on the stream.
    pub(super) fn end(&mut self) {
        self.ended = true;
        if let Some(stream) = self.stream.take() {
            stream.finish();
        }
    }

    /// Bytes of the program that nobody wants are dropped as they come.
    pub(super) fn discard(&mut self) {
        self.stop();
        self.discarding = true;
    }

    /// Keeps only the first of the bytes that wait for the link: the rest is in the program's queue still, and with many
    /// sessions on one busy link the copies would take more memory than the queues.
    fn cut(&mut self, program: &Program, ahead: u64) {
        self.peek_bytes = PEEK_BYTES_MIN;
        if self.pending.len() == PEEK_BYTES_MIN {
            return;
        }
        if let Err(error) = program.seek(ahead + PEEK_BYTES_MIN as u64) {
            tracing::error!(%error, "the peek offset can't be set");
            return;
        }
        self.pending = Bytes::copy_from_slice(&self.pending[..PEEK_BYTES_MIN]);
        self.sought = true;
    }

    /// True while the other side has no room.
    pub(super) fn is_parked(&self) -> bool {
        self.parked
    }

    /// True while peeked bytes wait for a slow far side.
    pub(super) fn is_stalled(&self) -> bool {
        self.parked || !self.pending.is_empty()
    }

    /// Moves one piece along; `ahead` is what was sent and not consumed.
    pub(super) async fn step(&mut self, program: &Program, ahead: u64) -> OutgoingStep {
        if self.discarding {
            program.discard().await;
            return std::future::pending().await;
        }
        if let Some((link, header)) = &self.opening {
            match link.open(*header).await {
                Ok(stream) => self.stream = Some(stream),
                Err(_) => {
                    self.opening = None;
                    return OutgoingStep::StreamBroke;
                }
            }
            self.opening = None;
        }
        let Some(stream) = &mut self.stream else { return std::future::pending().await };
        if self.pending.is_empty() {
            if self.ended {
                return std::future::pending().await;
            }
            let bytes_max = self.peek_bytes.clamp(PEEK_BYTES_MIN, READ_CHUNK_BYTES);
            let at_once = match self.sought {
                true => program.peek_at_once(ahead, bytes_max),
                false => Err(io::ErrorKind::WouldBlock.into()),
            };
            let peeked = match at_once {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.sought = false;
                    program.peek(ahead, bytes_max).await
                }
                at_once => at_once,
            };
            match peeked {
                Ok(Peeked::Bytes(bytes)) => {
                    self.peek_bytes = if bytes.len() == bytes_max { bytes_max * 4 } else { bytes.len() * 2 };
                    self.pending = bytes;
                }
                Ok(Peeked::End(kind)) => return OutgoingStep::Ended(kind),
                Err(_) => return OutgoingStep::ProgramFailed,
            }
        }
        if self.pending.len() >= PEEK_BYTES_MIN && self.turn.begin(stream.turns()) {
            self.cut(program, ahead);
        }
        self.turn.come().await;
        let Some(stream) = &mut self.stream else { return std::future::pending().await };
        let written = stream.write(&mut self.pending).await;
        if self.pending.is_empty() {
            self.turn = Turn::None;
        }
        match written {
            Ok(count) => OutgoingStep::Sent(count),
            Err(WriteError::Broken) => {
                self.stream = None;
                self.turn = Turn::None;
                OutgoingStep::StreamBroke
            }
            Err(WriteError::Parked) => {
                self.stream = None;
                self.pending = Bytes::new();
                self.turn = Turn::None;
                self.parked = true;
                std::future::pending().await
            }
        }
    }
}

/// From the link to the program.
#[derive(Debug)]
pub(super) struct Incoming {
    stream: Option<Receiver>,
    pending: Bytes,
    /// When something moved along last.
    moved: Instant,
    /// The stream was dropped because the program takes nothing.
    parked: bool,
    /// Streams whose attach the core does not know yet.
    early: VecDeque<(StreamHeader, Receiver)>,
    stalls: Stalls,
}

/// What happened in the incoming direction.
#[derive(Debug)]
pub(super) enum IncomingStep {
    /// The program's connection accepted so many bytes.
    Delivered(usize),
    /// The program's connection was reset.
    ProgramFailed,
    /// The stream ended or broke; if bytes are missing, the other half attaches again.
    StreamEnded,
    /// The program, that took nothing for long, may have room.
    Room,
}

impl Default for Incoming {
    fn default() -> Self {
        let (stream, pending, early) = (None, Bytes::new(), VecDeque::new());
        Self { stream, pending, moved: Instant::now(), parked: false, early, stalls: Stalls::default() }
    }
}

impl Incoming {
    /// One of many on this host.
    pub(super) fn among(stalls: Stalls) -> Self {
        Self { stalls, ..Self::default() }
    }

    /// From here on the stream with this key, beginning at this offset, is the one to read; it may be here already.
    pub(super) fn start(&mut self, key: AttachKey, offset: u64) {
        self.stop();
        self.early.retain(|(header, _)| header.key >= key);
        let expected = |(header, _): &(StreamHeader, Receiver)| header.key == key && header.offset == offset;
        if let Some(at) = self.early.iter().position(expected) {
            self.stream = self.early.remove(at).map(|(_, stream)| stream);
        }
    }

    /// Reads this stream.
    pub(super) fn take(&mut self, stream: Receiver) {
        self.stream = Some(stream);
    }

    /// Keeps a stream whose attach the core does not know yet.
    pub(super) fn keep(&mut self, header: StreamHeader, stream: Receiver) {
        if self.early.len() == EARLY_STREAMS {
            self.early.pop_front();
        }
        self.early.push_back((header, stream));
    }

    /// Drops the stream and what was not accepted by the program; it is sent again after the next attach.
    pub(super) fn stop(&mut self) {
        self.stream = None;
        self.pending = Bytes::new();
        self.parked = false;
    }

    /// Moves one piece along. A program that takes nothing for [`PARK_AFTER`](crate::limits::PARK_AFTER), or less where
    /// many don't, costs nothing from then on: the stream is dropped, with its share of the link's window.
    pub(super) async fn step(&mut self, program: &Program) -> IncomingStep {
        if !self.parked
            && let Some(step) = self.deliver(program).await
        {
            return step;
        }
        program.writable().await;
        IncomingStep::Room
    }

    /// Moves one piece along; `None` when the stream was parked.
    async fn deliver(&mut self, program: &Program) -> Option<IncomingStep> {
        if self.pending.is_empty() {
            let Some(stream) = &mut self.stream else { return std::future::pending().await };
            match stream.read().await {
                Ok(Some(bytes)) => {
                    self.pending = bytes;
                    self.moved = Instant::now();
                }
                Ok(None) | Err(_) => {
                    self.stream = None;
                    return Some(IncomingStep::StreamEnded);
                }
            }
        }
        let stall = self.stalls.begin();
        let park_at = self.moved + stall.park_after();
        tokio::select! {
            biased;
            sent = program.send(&mut self.pending) => Some(match sent {
                Ok(count) => {
                    self.moved = Instant::now();
                    IncomingStep::Delivered(count)
                }
                Err(_) => IncomingStep::ProgramFailed,
            }),
            () = tokio::time::sleep_until(park_at), if self.stream.is_some() => {
                if let Some(stream) = self.stream.take() {
                    stream.park();
                }
                self.stop();
                self.parked = true;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
