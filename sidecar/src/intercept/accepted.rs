//! Connects that are accepted before anybody was asked: those that find the holding queue full where the host is set to
//! let them go on, and all where the kernel has no queue.
//!
//! A program sees its connection made, and reset when the far program refuses or can't be reached. It is on record
//! before the far side is asked, so that the next sidecar asks for the same session. When the capsule is about to leave,
//! the gate stops new ones, whose kernel repeats them; those that have no answer in the time that dials get are reset.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kernel::rules;
use kernel::syn::{Verdict, WhenFull};
use kernel::tcp::{self, TcpState};
use overlay_proto::SessionId;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::dial::Dial;
use super::surroundings::Surroundings;
use crate::capsule::keeper::Connection;
use crate::capsule::network::Network;
use crate::capsule::quiet::State;
use crate::config::{Config, HeldConnectsFull};
use crate::limits::OUTSIDE_LOOK;
use crate::session::{AcceptedRecord, Record, Slot};

/// How this host holds connects, and what became of those that it did not hold.
#[derive(Debug)]
pub struct Holding {
    /// SYNs that one capsule's queue holds at once.
    pub(super) held_max: u32,
    /// What becomes of one more.
    pub(super) when_full: WhenFull,
    asked: AtomicU64,
    reset: AtomicU64,
}

impl Holding {
    /// As the settings say.
    pub fn new(config: &Config) -> Self {
        let when_full = match config.held_connects_full {
            HeldConnectsFull::Wait => WhenFull::Drop,
            HeldConnectsFull::Accept => WhenFull::Deliver,
        };
        let (asked, reset) = Default::default();
        Self { held_max: config.held_connects_max, when_full, asked, reset }
    }

    /// Connections that were accepted before the far program was asked.
    pub fn accepted_first(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Those of them that were reset, because there was no good answer.
    pub fn reset(&self) -> u64 {
        self.reset.load(Ordering::Relaxed)
    }
}

/// The connections of one capsule that were accepted first, while the far side is asked.
pub(super) struct AcceptedFirst {
    network: Arc<Network>,
    around: Surroundings,
    asked: JoinSet<()>,
    /// The capsule leaves without an answer.
    leaving: CancellationToken,
}

/// One of them.
struct Accepted {
    held: String,
    fd: OwnedFd,
    slot: Slot,
    session: SessionId,
    /// The program's address, and the one that it dialled.
    ends: (SocketAddr, SocketAddr),
}

impl AcceptedFirst {
    /// None where every connect is held, or dropped.
    pub(super) async fn open(network: Arc<Network>, around: Surroundings) -> Option<Self> {
        let holds = network.holds();
        if holds && around.holding.when_full == WhenFull::Drop {
            return None;
        }
        if !holds {
            tracing::warn!(
                capsule = %network.name(),
                "its connects are not held: they are accepted first, and reset when the far program refuses"
            );
        }
        let first = Self { network, around, asked: JoinSet::new(), leaving: CancellationToken::new() };
        match first.switch_gate().await {
            Ok(()) => Some(first),
            Err(error) => {
                tracing::warn!(
                    capsule = %first.network.name(), %error,
                    "an earlier version set its network up: connects that can't be held wait until it moves or starts again"
                );
                None
            }
        }
    }

    /// Connections that are being asked for.
    pub(super) fn count(&self) -> usize {
        self.asked.len()
    }

    /// Waits for the end of one.
    async fn ended(&mut self) {
        if self.asked.join_next().await.is_none() {
            std::future::pending().await
        }
    }

    /// Lets connects pass while connections may begin, and stops them otherwise.
    pub(super) async fn follow_quiet(&self) {
        if let Err(error) = self.switch_gate().await {
            tracing::error!(capsule = %self.network.name(), %error, "the gate for connects can't be switched");
        }
    }

    async fn switch_gate(&self) -> Result<(), rules::RulesError> {
        let shut = self.network.quiet().state() != State::Open;
        self.network.in_netns(move || rules::gate(shut)).await
    }

    /// Asks the far side for a connection that was just accepted. One that comes when the capsule leaves is reset.
    pub(super) fn ask(&mut self, Connection { name, fd, local, peer }: Connection) {
        self.around.holding.asked.fetch_add(1, Ordering::Relaxed);
        if self.network.quiet().state() == State::Shut {
            tracing::debug!(capsule = %self.network.name(), to = %local, "a connection is reset: the capsule leaves");
            return self.reset(&fd, name);
        }
        let Some(slot) = self.network.slots().take() else {
            tracing::warn!(capsule = %self.network.name(), to = %local, "a connection is reset: too many sessions");
            return self.reset(&fd, name);
        };
        let session = SessionId::from_bytes(crate::random::bytes());
        let record = AcceptedRecord { held: name.clone(), session, source: peer, destination: local };
        if let Err(error) = slot.write(&Record::Accepted(record)) {
            tracing::error!(%session, %error, "a connection is not on record");
            slot.clear();
            return self.reset(&fd, name);
        }
        self.go_on(Accepted { held: name, fd, slot, session, ends: (peer, local) }, false);
    }

    /// Goes on with a connection that an earlier sidecar asked for.
    pub(super) fn ask_again(&mut self, slot: Slot, record: AcceptedRecord, fd: OwnedFd) {
        let AcceptedRecord { held, session, source, destination } = record;
        self.go_on(Accepted { held, fd, slot, session, ends: (source, destination) }, true);
    }

    fn go_on(&mut self, accepted: Accepted, again: bool) {
        let (network, around, leaving) = (self.network.clone(), self.around.clone(), self.leaving.clone());
        self.asked.spawn(accepted.bring(network, around, leaving, again));
    }

    fn reset(&self, fd: &OwnedFd, held: String) {
        self.around.holding.reset.fetch_add(1, Ordering::Relaxed);
        refuse(&self.network, fd, held);
    }

    /// Resets those that have no answer yet. When this returns there are none.
    pub(super) async fn reset_rest(&mut self) {
        self.leaving.cancel();
        while self.asked.join_next().await.is_some() {}
        self.leaving = CancellationToken::new();
    }
}

impl Accepted {
    /// Asks the far side, and begins the session or resets the connection.
    async fn bring(
        self,
        network: Arc<Network>,
        around: Surroundings,
        leaving: CancellationToken,
        again: bool,
    ) {
        let Self { held, fd, slot, session, ends } = self;
        let sequence = u32::from_le_bytes(crate::random::bytes());
        let dial = Dial::new(network.clone(), around.clone(), ends, sequence, session).accepted();
        let dial = if again { dial.again() } else { dial };
        let outcome = tokio::select! {
            outcome = dial.run() => outcome,
            () = broken(&fd) => Err(Verdict::Drop),
            () = leaving.cancelled() => Err(Verdict::Drop),
        };
        match outcome {
            Ok(mut opened) => {
                opened.keep_in(Some(slot));
                opened.begin(&around, &network, (held, fd), ends, None);
            }
            Err(verdict) => {
                tracing::debug!(capsule = %network.name(), to = %ends.1, ?verdict, "a connection is reset");
                around.opens.give_up(session);
                around.holding.reset.fetch_add(1, Ordering::Relaxed);
                slot.clear();
                refuse(&network, &fd, held);
            }
        }
    }
}

/// Waits for the end of one of them, if there can be any.
pub(super) async fn ended(first: &mut Option<AcceptedFirst>) {
    match first {
        Some(first) => first.ended().await,
        None => std::future::pending().await,
    }
}

/// Ends when a connection broke. It is looked at now and then: one whose opener said FIN would be ready at all times.
pub(crate) async fn broken(fd: &OwnedFd) {
    while !tcp::info(fd).is_ok_and(|info| info.state == TcpState::Closed) {
        tokio::time::sleep(OUTSIDE_LOOK).await;
    }
}

/// Resets a connection.
pub(crate) fn refuse(network: &Network, fd: &OwnedFd, held: String) {
    let _ = tcp::reset(fd);
    network.keeper().release(held);
}
