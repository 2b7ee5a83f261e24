//! Follows the output of a program wherever its capsule goes.
//!
//! ```text
//!            ┌────────── Moved, or the stream was cut ───────────┐
//!            ▼                                                   │
//!  call follow from POSITION ─► pieces gather ─► Position: write them out
//!                                                                │
//!                                                    Exit ───────┴──► the code
//! ```
//! Pieces are written only once the position after them is known, so whatever
//! is cut off is asked for again, and nothing is written twice.

use std::{
    cell::Cell,
    collections::VecDeque,
    future::Future,
    io,
    time::{Duration, Instant},
};

use admin_api::{ErrorView, Frame, FrameReader, FrameWriter, Request, limits};
use tokio::{
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    time::sleep,
};

use crate::{
    context::Context,
    failure::Failure,
    output::{Output, Piece},
    sidecar,
    signals::{self, Signals},
};

/// How long a sidecar may be away before the program is lost sight of.
const RECONNECT_MAX: Duration = Duration::from_secs(600);
/// Pauses between attempts to reach it.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_LONGEST: Duration = Duration::from_secs(1);
/// Most signals kept for a program that can't be reached at the moment.
const SIGNALS_KEPT_MAX: usize = 16;
/// The code by which a sidecar says that the host of a capsule can't be asked: its program goes on.
const HOST_AWAY: &str = "link/host-away";

/// What is followed.
pub(crate) struct Followed {
    /// The capsule's name.
    pub(crate) name: String,
    /// Its id.
    pub(crate) id: String,
    /// Up to where the output was written out.
    pub(crate) position: u64,
}

/// How one call ended.
enum Ending {
    Exit(i32),
    Moved(String),
    Cut,
    /// The sidecar can't reach the one that knows.
    Unheard(String),
    /// The person asked twice to end while nothing was heard.
    Left,
    Refused(Box<ErrorView>),
    Unwritable(io::Error),
}

/// Follows until the program ended. Signals that the relay catches go to it.
pub(crate) async fn follow(
    context: &Context,
    followed: &mut Followed,
    output: &mut Output,
    relay: &mut SignalRelay,
) -> Result<i32, Failure> {
    let mut away: Option<Away> = None;
    loop {
        let heard = Cell::new(false);
        let ending = one_call(context, followed, output, relay, &heard).await;
        relay.call_ended(heard.get());
        if heard.get() {
            away = None;
        }
        match ending {
            Ending::Exit(code) => return Ok(code),
            Ending::Refused(error) => return Err(error.into()),
            Ending::Unwritable(error) => return Err(error.into()),
            Ending::Moved(to) => context.note(&format!("capsule: {} moved to {to}", followed.name)),
            Ending::Cut if away.is_none() => context.note(&format!(
                "capsule: the sidecar at {} is away; {} goes on without it, waiting",
                context.socket.display(),
                followed.name
            )),
            Ending::Unheard(what) if away.is_none() => {
                context.note(&format!("capsule: {what}; {} goes on without it, waiting", followed.name));
            }
            Ending::Cut | Ending::Unheard(_) => {}
            Ending::Left => {
                return Err(lost_sight(followed, "it could not be reached to pass the signal on"));
            }
        }
        let away = away.get_or_insert_with(Away::begin);
        away.wait(followed, relay).await?;
    }
}

async fn one_call(
    context: &Context,
    followed: &mut Followed,
    output: &mut Output,
    relay: &mut SignalRelay,
    heard: &Cell<bool>,
) -> Ending {
    let request = Request::Follow {
        name: followed.name.clone(),
        id: followed.id.clone(),
        from_position: followed.position,
        signals: relay.signals.is_some(),
    };
    let Ok(open) = sidecar::open(context, request).await else {
        return Ending::Cut;
    };
    let (mut reader, mut writer) = (open.reader, open.writer);
    tokio::select! {
        ending = receive(context, &mut reader, &mut followed.position, output, heard) => ending,
        () = relay.send(&mut writer, heard) => Ending::Left,
    }
}

/// Writes out what comes, group by group.
async fn receive(
    context: &Context,
    reader: &mut FrameReader<OwnedReadHalf>,
    position: &mut u64,
    output: &mut Output,
    heard: &Cell<bool>,
) -> Ending {
    let mut group: Vec<Piece> = Vec::new();
    let mut group_bytes = 0;
    loop {
        let frame = match reader.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) | Err(_) => return Ending::Cut,
        };
        heard.set(heard.get() || !matches!(frame, Frame::Error(_)));
        let piece = match frame {
            Frame::Stdout(bytes) => Piece::Stdout(bytes),
            Frame::Stderr(bytes) => Piece::Stderr(bytes),
            Frame::Position(after) => {
                if let Err(error) = output.write(group.drain(..)).await {
                    return Ending::Unwritable(error);
                }
                (*position, group_bytes) = (after, 0);
                continue;
            }
            // The program is over: whatever came is all there is.
            Frame::Exit(code) => {
                return match output.write(group).await {
                    Ok(()) => Ending::Exit(code),
                    Err(error) => Ending::Unwritable(error),
                };
            }
            Frame::Moved(moved) => return Ending::Moved(moved.to),
            Frame::Error(error) if error.code == HOST_AWAY => return Ending::Unheard(error.what),
            Frame::Error(error) => return Ending::Refused(Box::new(error)),
            Frame::Progress(progress) if !progress.message.is_empty() => {
                context.note(&progress.message);
                continue;
            }
            _ => continue,
        };
        group_bytes += piece.len();
        if group_bytes > limits::GROUP_BYTES_MAX {
            return Ending::Refused(Box::new(
                ErrorView::new("sidecar/protocol", "the sidecar sends output without saying how far it is")
                    .next("compare capsule --version with the VERSION of capsule hosts"),
            ));
        }
        group.push(piece);
    }
}

/// Signals on their way to the program.
pub(crate) struct SignalRelay {
    signals: Option<Signals>,
    waiting: VecDeque<i32>,
    /// Given to a sidecar that has not been heard of yet: they may have got no further.
    unconfirmed: VecDeque<i32>,
}

impl SignalRelay {
    /// Catches signals for the program.
    pub(crate) fn catch() -> Result<Self, Failure> {
        Ok(Self { signals: Some(Signals::catch()?), waiting: VecDeque::new(), unconfirmed: VecDeque::new() })
    }

    /// Leaves signals to do what they do to `capsule`.
    pub(crate) fn none() -> Self {
        Self { signals: None, waiting: VecDeque::new(), unconfirmed: VecDeque::new() }
    }

    /// Keeps signals for a program that is being started. `None` when asked to
    /// end for the second time before it was.
    pub(crate) async fn during<T>(&mut self, starting: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(starting);
        loop {
            let number = tokio::select! {
                started = &mut starting => return Some(started),
                number = self.next() => number,
            };
            if self.keep(number) {
                return None;
            }
        }
    }

    /// Keeps a signal until it can be sent. True when it asks to end and one
    /// that does waits already.
    fn keep(&mut self, number: i32) -> bool {
        let ends = |number: &i32| signals::asks_to_end(*number);
        let again = ends(&number) && self.waiting.iter().chain(&self.unconfirmed).any(ends);
        if self.waiting.len() < SIGNALS_KEPT_MAX {
            self.waiting.push_back(number);
        }
        again
    }

    /// Sends signals as they come, those that waited first. One that could not
    /// be sent waits for the next call. Ends when asked to end for the second time before anything was heard.
    async fn send(&mut self, writer: &mut FrameWriter<OwnedWriteHalf>, heard: &Cell<bool>) {
        loop {
            while let Some(&number) = self.waiting.front() {
                if writer.write(&Frame::Signal(number)).await.is_err() {
                    // The reader sees the same cut and ends the call.
                    return std::future::pending().await;
                }
                self.waiting.pop_front();
                // Of a sidecar that was heard nothing is sent again.
                if !heard.get() && self.unconfirmed.len() < SIGNALS_KEPT_MAX {
                    self.unconfirmed.push_back(number);
                }
            }
            let number = self.next().await;
            if heard.get() {
                self.unconfirmed.clear();
            }
            if self.keep(number) && !heard.get() {
                return;
            }
        }
    }

    /// What went out in a call that was not heard goes out again.
    fn call_ended(&mut self, heard: bool) {
        if !heard {
            std::mem::swap(&mut self.waiting, &mut self.unconfirmed);
            self.waiting.append(&mut self.unconfirmed);
            self.waiting.truncate(SIGNALS_KEPT_MAX);
        }
        self.unconfirmed.clear();
    }

    async fn next(&mut self) -> i32 {
        match &mut self.signals {
            Some(signals) => signals.next().await,
            None => std::future::pending().await,
        }
    }
}

/// A time without the program in sight.
struct Away {
    since: Instant,
    pause: Duration,
}

impl Away {
    fn begin() -> Self {
        Self { since: Instant::now(), pause: RETRY_FIRST }
    }

    /// Waits before the next attempt. The second Ctrl-C in such a time leaves.
    async fn wait(&mut self, followed: &Followed, relay: &mut SignalRelay) -> Result<(), Failure> {
        if self.since.elapsed() > RECONNECT_MAX {
            return Err(lost_sight(followed, "the sidecar has been away for ten minutes"));
        }
        let pause = sleep(self.pause);
        tokio::pin!(pause);
        self.pause = (self.pause * 2).min(RETRY_LONGEST);
        loop {
            let number = tokio::select! {
                () = &mut pause => return Ok(()),
                number = relay.next() => number,
            };
            if relay.keep(number) {
                return Err(lost_sight(followed, "it could not be reached to pass the signal on"));
            }
        }
    }
}

fn lost_sight(followed: &Followed, why: &str) -> Failure {
    let name = &followed.name;
    ErrorView::new("run/lost-sight", format!("{name} goes on out of sight"))
        .on(name)
        .why(why)
        .next(format!("see it again with capsule logs -f {name}, end it with capsule stop {name}"))
        .into()
}
