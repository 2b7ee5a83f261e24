//! Connections from outside on their way to a capsule.
//!
//! The shim accepts a connection; it is put on record before the capsule is asked, so that the next sidecar asks for the
//! same session. A machine sees its connection accepted before that, and reset if the program does not take it.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use directory_api::CapsuleRecord;
use kernel::syn::Verdict;
use kernel::tcp::{self, TcpState};
use overlay_proto::{CapsuleId, SessionId};
use tokio_util::sync::CancellationToken;

use super::{Gateway, Publication};
use crate::capsule::keeper::Connection;
use crate::capsule::network::Network;
use crate::intercept::connect::{Dial, Opened};
use crate::limits::{OUTSIDE_LOOK, RETRY_FIRST, RETRY_LONGEST};
use crate::session::{Begin, BroughtRecord, Record, Slot, Way};
use crate::watched::{Watched, watch};

/// Takes what comes to the listeners of a publication until it is withdrawn.
pub(super) async fn take(
    gateway: Arc<Gateway>,
    publication: Publication,
    listeners: [Option<OwnedFd>; 2],
    withdrawn: CancellationToken,
) {
    let closed = gateway.network.closed();
    let taking = publication.listeners().into_iter().zip(listeners).filter_map(|(name, listener)| {
        let listener =
            watch(listener?).map_err(|error| tracing::error!(%error, "a listener can't be watched"));
        Some(take_one(gateway.clone(), publication.clone(), name, listener.ok()?))
    });
    let mut taking: tokio::task::JoinSet<()> = taking.collect();
    tokio::select! {
        () = withdrawn.cancelled() => {}
        () = closed.cancelled() => {}
        () = async { while taking.join_next().await.is_some() {} } => {}
    }
}

async fn take_one(gateway: Arc<Gateway>, publication: Publication, name: String, listener: Watched) {
    loop {
        match gateway.network.keeper().accept(&name).await {
            Ok(connections) if !connections.is_empty() => {
                for connection in connections {
                    tokio::spawn(bring(gateway.clone(), publication.clone(), connection));
                }
                continue;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!(port = publication.host_port, %error, "connections can't be accepted");
            }
        }
        match listener.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            Err(error) => {
                tracing::error!(%error, "a listener can't be watched");
                return;
            }
        }
    }
}

/// A connection from outside on its way.
struct Brought {
    held: String,
    fd: OwnedFd,
    way: Way,
    slot: Slot,
    session: SessionId,
    again: bool,
}

/// How a connection did not get to its capsule.
struct Refused {
    held: String,
    fd: OwnedFd,
    slot: Slot,
    verdict: Verdict,
}

/// Brings a connection that was just accepted to its capsule, or resets it.
pub(super) async fn bring(gateway: Arc<Gateway>, publication: Publication, connection: Connection) {
    let Connection { name, fd, peer, .. } = connection;
    let Some(slot) = gateway.network.slots().take() else {
        tracing::warn!(from = %peer, "too many connections from outside");
        return refuse(&gateway.network, &fd, name);
    };
    let to = (publication.capsule, publication.port);
    let known = tokio::select! {
        known = record_of(&gateway, &to.0) => known,
        () = broken(&fd) => None,
    };
    let families = if known.is_some() { vec![peer.is_ipv6(), !peer.is_ipv6()] } else { vec![] };
    let (mut name, mut fd, mut slot) = (name, fd, slot);
    // A program may listen on one family only: the other one is asked when it refuses.
    for v6 in families {
        let session = SessionId::from_bytes(crate::random::bytes());
        let Some(way) = find_way(&gateway, peer, to, v6) else { break };
        let record = BroughtRecord { held: name.clone(), session, source: way.source, to: to.0, port: to.1 };
        if let Err(error) = slot.write(&Record::Brought(record)) {
            tracing::error!(%error, "a connection from outside is not on record");
            break;
        }
        let brought = Brought { held: name, fd, way, slot, session, again: false };
        match go(&gateway, brought).await {
            Ok(()) => return,
            Err(refused) => {
                let refusal = refused.verdict == Verdict::Refuse;
                (name, fd, slot) = (refused.held, refused.fd, refused.slot);
                if !refusal {
                    break;
                }
            }
        }
    }
    slot.clear();
    refuse(&gateway.network, &fd, name);
}

/// Goes on with a connection that an earlier sidecar had on its way.
pub(super) async fn bring_again(gateway: Arc<Gateway>, slot: Slot, record: BroughtRecord, fd: OwnedFd) {
    let BroughtRecord { held, session, source, to, port } = record;
    let known = tokio::select! {
        known = record_of(&gateway, &to) => known,
        () = broken(&fd) => None,
    };
    let destination = known.map(|record| match source.is_ipv6() {
        true => SocketAddr::new(record.locators.v6.into(), port),
        false => SocketAddr::new(record.locators.v4.into(), port),
    });
    let (Some(destination), Ok((_, outside))) = (destination, tcp::addresses(&fd)) else {
        gateway.around.opens.finish(session);
        slot.clear();
        return refuse(&gateway.network, &fd, held);
    };
    let way = gateway.ways.found(outside, source, destination);
    if let Err(refused) = go(&gateway, Brought { held, fd, way, slot, session, again: true }).await {
        refused.slot.clear();
        refuse(&gateway.network, &refused.fd, refused.held);
    }
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
    let Brought { held, fd, way, slot, session, again } = brought;
    let ends = (way.source, way.destination);
    let sequence = u32::from_le_bytes(crate::random::bytes());
    let dial = Dial::new(gateway.network.clone(), gateway.around.clone(), ends, sequence, session);
    let dial = if again { dial.again() } else { dial };
    let outcome = tokio::select! {
        outcome = dial.run() => outcome,
        () = broken(&fd) => Err(Verdict::Drop),
    };
    match outcome {
        Ok(opened) => {
            begin(gateway, opened, slot, (held, fd), way);
            Ok(())
        }
        Err(verdict) => {
            gateway.around.opens.finish(session);
            tracing::debug!(from = %way.outside, to = %way.destination, ?verdict, "a connection from outside was not taken");
            Err(Refused { held, fd, slot, verdict })
        }
    }
}

fn begin(gateway: &Gateway, mut opened: Opened, slot: Slot, connection: (String, OwnedFd), way: Way) {
    opened.keep_in(slot);
    let ends = (way.source, way.destination);
    opened.begin(&gateway.around, &gateway.network, connection, ends, Some(Arc::new(way)));
}

/// Ends when a connection broke. It is looked at now and then: one whose machine said FIN would be ready at all times.
async fn broken(fd: &OwnedFd) {
    while !tcp::info(fd).is_ok_and(|info| info.state == TcpState::Closed) {
        tokio::time::sleep(OUTSIDE_LOOK).await;
    }
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

/// Resets a connection.
pub(super) fn refuse(network: &Network, fd: &OwnedFd, held: String) {
    let _ = tcp::reset(fd);
    network.keeper().release(held);
}
