//! The long stream of changes.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::call::Shared;
use crate::limits::{BACKOFF_FIRST, BACKOFF_MAX, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, WATCH_SILENCE_TIME};
use crate::wire::{WatchPiece, piece_from_wire};
use crate::{ApiError, CapsuleRecord, Change, HostRecord, Request, Rule, WireError, frame};

/// Why a stream of changes ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("nobody listens")]
    Dropped,
    #[error("{0}")]
    Connect(String),
    #[error(transparent)]
    Broken(#[from] frame::FrameError),
    #[error("the directory closed the stream")]
    Closed,
    #[error("nothing is heard of the directory")]
    Silent,
    #[error(transparent)]
    Refused(ApiError),
    #[error(transparent)]
    Undecodable(#[from] WireError),
}

/// A snapshot on its way.
#[derive(Default)]
struct Gathered {
    capsules: Vec<CapsuleRecord>,
    hosts: Vec<HostRecord>,
    rules: Vec<Rule>,
}

/// Watches until nobody listens, from the last revision after each break.
pub(super) async fn run(shared: Arc<Shared>, mut revision: u64, changes: mpsc::Sender<Change>) {
    let mut pause = BACKOFF_FIRST;
    loop {
        let before = revision;
        let ended = tokio::select! {
            ended = follow(&shared, &mut revision, &changes) => ended,
            () = changes.closed() => return,
        };
        match ended {
            Err(Ended::Dropped) | Ok(()) => return,
            Err(Ended::Refused(error)) => warn!(%error, "the directory refuses the watch"),
            Err(Ended::Undecodable(error)) => {
                warn!(%error, "the watch brought a change that this version does not understand");
            }
            Err(error @ (Ended::Connect(_) | Ended::Broken(_) | Ended::Closed | Ended::Silent)) => {
                debug!(%error, revision, "the watch broke, resuming");
            }
        }
        pause = if revision == before { (pause * 2).min(BACKOFF_MAX) } else { BACKOFF_FIRST };
        tokio::select! {
            () = sleep(pause) => {}
            () = changes.closed() => return,
        }
    }
}

async fn follow(shared: &Shared, revision: &mut u64, changes: &mpsc::Sender<Change>) -> Result<(), Ended> {
    let connection = shared.connection().await.map_err(|error| Ended::Connect(error.to_string()))?;
    let (mut send, mut receive) =
        connection.open_bi().await.map_err(|error| Ended::Connect(error.to_string()))?;
    let request = Request::Watch { from_revision: *revision };
    frame::write(&mut send, &request.encode(), REQUEST_BYTES_MAX).await?;
    let mut gathered = Gathered::default();
    loop {
        let message = tokio::select! {
            message = frame::read(&mut receive, RESPONSE_BYTES_MAX) => message?.ok_or(Ended::Closed)?,
            () = silence(&connection), if shared.addresses().are_several() => {
                shared.leave(&connection);
                return Err(Ended::Silent);
            }
        };
        let piece = match gathered.take(piece_from_wire(&message)?) {
            Err(Ended::Refused(refusal)) if refusal.is_passing() && shared.addresses().are_several() => {
                shared.leave(&connection);
                return Err(Ended::Refused(refusal));
            }
            other => other?,
        };
        let Some(change) = piece else { continue };
        let reached = change.revision();
        changes.send(change).await.map_err(|_| Ended::Dropped)?;
        *revision = reached;
    }
}

/// Returns when nothing was heard for a while from a directory that is pinged.
async fn silence(connection: &quinn::Connection) {
    let mut before = connection.stats().udp_rx.datagrams;
    loop {
        sleep(WATCH_SILENCE_TIME).await;
        let heard = connection.stats().udp_rx.datagrams;
        if heard == before {
            return;
        }
        before = heard;
    }
}

impl Gathered {
    /// Takes one piece; gives a change when it is whole.
    fn take(&mut self, piece: WatchPiece) -> Result<Option<Change>, Ended> {
        match piece {
            WatchPiece::Change(change) => Ok(Some(change)),
            WatchPiece::Refused(refusal) => Err(Ended::Refused(refusal)),
            WatchPiece::Snapshot { piece: Change::Snapshot { revision, capsules, hosts, rules }, last } => {
                self.capsules.extend(capsules);
                self.hosts.extend(hosts);
                self.rules.extend(rules);
                if !last {
                    return Ok(None);
                }
                let Self { capsules, hosts, rules } = std::mem::take(self);
                Ok(Some(Change::Snapshot { revision, capsules, hosts, rules }))
            }
            WatchPiece::Snapshot { piece, .. } => Ok(Some(piece)),
        }
    }
}
