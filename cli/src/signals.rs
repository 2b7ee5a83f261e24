//! Signals that a person or a supervisor sends to `capsule`.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// The signals that end a program unless it handles them.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    /// From now on they don't end this process.
    pub(crate) fn catch() -> Result<Self, Failure> {
        Self::open().map_err(|error| Failure::local("capsule/signals", "can't catch signals", error))
    }

    fn open() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next one, by its number. Dropping a pending call loses nothing.
    pub(crate) async fn next(&mut self) -> i32 {
        let kind = tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hangup.recv() => SignalKind::hangup(),
            _ = self.quit.recv() => SignalKind::quit(),
            _ = self.user1.recv() => SignalKind::user_defined1(),
            _ = self.user2.recv() => SignalKind::user_defined2(),
        };
        kind.as_raw_value()
    }

    /// The next one that asks to end.
    pub(crate) async fn end(&mut self) -> i32 {
        loop {
            let number = self.next().await;
            if asks_to_end(number) {
                return number;
            }
        }
    }
}

/// Whether a signal asks to end, as Ctrl-C does.
pub(crate) fn asks_to_end(number: i32) -> bool {
    [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()]
        .iter()
        .any(|kind| kind.as_raw_value() == number)
}
