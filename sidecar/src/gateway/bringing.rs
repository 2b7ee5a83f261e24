//! Connections from outside on their way to a capsule.
//!
//! The shim accepts a connection; it is put on record before the capsule is asked, so that the next sidecar asks for the
//! same session. A machine sees its connection accepted before that, and reset if the program does not take it.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use directory_api::CapsuleRecord;
use kernel::syn::Verdict;
use overlay_proto::{CapsuleId, SessionId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Gateway, Publication, proxy_protocol};
use crate::capsule::keeper::Connection;
use crate::intercept::accepted::broken;
pub(super) use crate::intercept::accepted::refuse;
use crate::intercept::dial::{Dial, Opened};
use crate::limits::{OUTSIDE_LOOK, RETRY_FIRST, RETRY_LONGEST};
use crate::session::{Begin, BroughtRecord, Record, Slot, Way};
use crate::watched::{Watched, watch};

/// Takes what comes to the listeners of a publication until it is withdrawn; on the data plane's runtime.
pub(super) fn take(
    gateway: &Arc<Gateway>,
    publication: &Publication,
    listeners: [Option<OwnedFd>; 2],
    withdrawn: &CancellationToken,
    tasks: &TaskTracker,
) {
    for (name, listener) in publication.listeners().into_iter().zip(listeners) {
        let Some(listener) = listener else { continue };
        match watch(listener) {
            Ok(listener) => {
                let (gateway, publication) = (gateway.clone(), publication.clone());
                tasks.spawn(take_one(gateway, publication, name, listener, withdrawn.clone()));
            }
            Err(error) => tracing::error!(%error, "a listener can't be watched"),
        }
    }
}

/// Ends between two looks only: what the shim has accepted is brought, or reset.
async fn take_one(
    gateway: Arc<Gateway>,
    publication: Publication,
    name: String,
    listener: Watched,
    withdrawn: CancellationToken,
) {
    let closed = gateway.network.closed();
    while !withdrawn.is_cancelled() && !closed.is_cancelled() {
        match gateway.network.keeper().accept(&name).await {
            Ok(connections) if !connections.is_empty() => {
                for connection in connections {
                    tokio::spawn(bring(gateway.clone(), publication.clone(), connection));
                }
                continue;
            }
            Ok(_) => {}
            Err(_) if withdrawn.is_cancelled() => return,
            Err(error) => {
                tracing::error!(port = publication.host_port, %error, "connections can't be accepted");
                tokio::time::sleep(OUTSIDE_LOOK).await;
            }
        }
        tokio::select! {
            () = withdrawn.cancelled() => {}
            () = closed.cancelled() => {}
            ready = listener.readable() => match ready {
                Ok(mut ready) => ready.clear_ready(),
                Err(error) => {
                    tracing::error!(%error, "a listener can't be watched");
                    return;
                }
            }
        }
    }
}

/// A connection from outside of which no answer is known.
struct Taken {
    held: String,
    fd: OwnedFd,
    slot: Slot,
    /// What the program gets before all that the machine sends.
    preamble: Vec<u8>,
}

/// One on its way.
pub(super) struct Brought {
    taken: Taken,
    way: Way,
    session: SessionId,
    to: CapsuleId,
    again: bool,
}

impl Brought {
    /// One that an earlier sidecar had on its way.
    pub(super) fn found(slot: Slot, record: BroughtRecord, fd: OwnedFd, way: Way) -> Self {
        let BroughtRecord { held, session, to, preamble, .. } = record;
        Self { taken: Taken { held, fd, slot, preamble }, way, session, to, again: true }
    }
}

/// How a connection did not get to its capsule.
struct Refused {
    taken: Taken,
    verdict: Verdict,
}

/// Brings a connection that was just accepted to its capsule, or resets it.
pub(super) async fn bring(gateway: Arc<Gateway>, publication: Publication, connection: Connection) {
    let Connection { name, fd, local, peer } = connection;
    let Some(slot) = gateway.network.slots().take() else {
        tracing::warn!(from = %peer, "too many connections from outside");
        return refuse(&gateway.network, &fd, name);
    };
    let to = (publication.capsule, publication.port);
    let known = tokio::select! {
        known = record_of(&gateway, &to.0) => known.is_some(),
        () = broken(&fd) => false,
    };
    let families: &[bool] = if known { &[peer.is_ipv6(), !peer.is_ipv6()] } else { &[] };
    let preamble = match publication.proxy_protocol {
        true => proxy_protocol::header(peer, local),
        false => Vec::new(),
    };
    try_families(&gateway, families, peer, to, Taken { held: name, fd, slot, preamble }).await;
}

/// Goes on with a connection that an earlier sidecar had on its way.
pub(super) async fn bring_again(gateway: Arc<Gateway>, brought: Brought) {
    let (outside, to) = (brought.way.outside, (brought.to, brought.way.destination.port()));
    let other = [!brought.way.destination.is_ipv6()];
    if let Err(Refused { taken, verdict }) = go(&gateway, brought).await {
        let families: &[bool] = if verdict == Verdict::Refuse { &other } else { &[] };
        try_families(&gateway, families, outside, to, taken).await;
    }
}

/// Asks a capsule over one family after the other: its program may listen on one only. Resets the connection if it is
/// refused over all.
async fn try_families(
    gateway: &Arc<Gateway>,
    families: &[bool],
    outside: SocketAddr,
    to: (CapsuleId, u16),
    mut taken: Taken,
) {
    for v6 in families {
        let session = SessionId::from_bytes(crate::random::bytes());
        let Some(way) = find_way(gateway, outside, to, *v6) else { break };
        let record = BroughtRecord {
            held: taken.held.clone(),
            session,
            outside,
            source: way.source,
            destination: way.destination,
            to: to.0,
            preamble: taken.preamble.clone(),
        };
        if let Err(error) = taken.slot.write(&Record::Brought(record)) {
            tracing::error!(%error, "a connection from outside is not on record");
            break;
        }
        match go(gateway, Brought { taken, way, session, to: to.0, again: false }).await {
            Ok(()) => return,
            Err(refused) => {
                taken = refused.taken;
                if refused.verdict != Verdict::Refuse {
                    break;
                }
            }
        }
    }
    taken.slot.clear();
    refuse(&gateway.network, &taken.fd, taken.held);
}

fn find_way(
    gateway: &Gateway,
    outside: SocketAddr,
    (capsule, port): (CapsuleId, u16),
    v6: bool,
) -> Option<Way> {
    let record = gateway.around.places.capsule(&capsule)?;
    let (own, to) = (gateway.network.locators(), record.locators);
    let (locator, to) = if v6 { (own.v6.into(), to.v6.into()) } else { (own.v4.into(), to.v4.into()) };
    let way =
        gateway.ways.open(outside, locator, SocketAddr::new(to, port), gateway.machine_max, Begin::Anywhere);
    way.inspect_err(|error| {
        tracing::debug!(from = %outside, %error, "a connection from outside was refused");
        gateway.refuse_one();
    })
    .ok()
}

/// Asks the capsule, and begins the session; a machine that breaks its connection meanwhile ends that.
async fn go(gateway: &Arc<Gateway>, brought: Brought) -> Result<(), Refused> {
    let Brought { taken, way, session, again, .. } = brought;
    let ends = (way.source, way.destination);
    let sequence = u32::from_le_bytes(crate::random::bytes());
    let dial = Dial::new(gateway.network.clone(), gateway.around.clone(), ends, sequence, session).accepted();
    let dial = if again { dial.again() } else { dial };
    let outcome = tokio::select! {
        outcome = dial.run() => outcome,
        () = broken(&taken.fd) => Err(Verdict::Drop),
    };
    match outcome {
        Ok(opened) => {
            begin(gateway, opened, taken, way);
            Ok(())
        }
        Err(verdict) => {
            gateway.around.opens.give_up(session);
            tracing::debug!(from = %way.outside, to = %way.destination, ?verdict, "a connection from outside was not taken");
            Err(Refused { taken, verdict })
        }
    }
}

fn begin(gateway: &Gateway, mut opened: Opened, taken: Taken, way: Way) {
    let Taken { held, fd, slot, preamble } = taken;
    opened.keep_in(Some(slot));
    opened.say_first(preamble.into());
    let ends = (way.source, way.destination);
    opened.begin(&gateway.around, &gateway.network, (held, fd), ends, Some(Arc::new(way)));
}

/// The record of a capsule, waited for if neither this host nor the directory says anything: a sidecar that has just
/// started knows none. `None`: it was removed.
async fn record_of(gateway: &Gateway, capsule: &CapsuleId) -> Option<CapsuleRecord> {
    let places = &gateway.around.places;
    let mut pause = RETRY_FIRST;
    loop {
        if let Some(record) = places.capsule(capsule) {
            return Some(record);
        }
        if places.was_removed(capsule) {
            return None;
        }
        if places.refresh(capsule).await.is_err() && !places.was_removed(capsule) {
            places.changed_or(pause).await;
            pause = (pause * 2).min(RETRY_LONGEST);
        }
    }
}
