//! Delivery: an OPEN from another sidecar (or from a capsule on this host) is dialled to the program here, with
//! the real source address and port, and answered with what the program's kernel said.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::SystemTime;

use kernel::tcp;
use overlay_proto::{Answer, Frame, Half, Open, OpenOutcome, Role};

use super::connect::Surroundings;
use crate::capsule::network::{Network, Networks};
use crate::limits::{DELIVER_TIMEOUT, RECEIVE_BUFFER_BYTES, SUPERSEDE_TIMEOUT};
use crate::link::Link;
use crate::session::{Event, Facts, Program, Socket};
use crate::watched::watch;

/// Dials for an OPEN and answers it.
pub async fn deliver(around: Surroundings, networks: Networks, link: Arc<Link>, open: Open) {
    let session = open.session;
    let outcome = match around.table.has(&(session, Role::Acceptor)) {
        // The answer was lost with a link: the same OPEN gets the same answer.
        true => networks.of(&open.acceptor).map_or(OpenOutcome::NotHere, |network| OpenOutcome::Accepted {
            generation: network.generation(),
        }),
        false => dial(&around, &networks, &link, &open).await,
    };
    tracing::debug!(%session, from = %open.source, to = %open.destination, ?outcome, "open");
    link.transmit(Frame::Answer(Answer { session, outcome }));
}

async fn dial(around: &Surroundings, networks: &Networks, link: &Arc<Link>, open: &Open) -> OpenOutcome {
    let Some(network) = networks.of(&open.acceptor) else { return OpenOutcome::NotHere };
    if !network.locators().contains(open.destination.ip()) {
        return OpenOutcome::NotHere;
    }
    if !may_open(around, link, open).await {
        tracing::warn!(host = %link.host, capsule = %open.opener, "refused: the capsule is not placed on that host");
        return OpenOutcome::Denied;
    }
    // Held until the session has begun: a capsule does not leave in between.
    let Some(_dialling) = network.quiet().dialling() else { return OpenOutcome::Wait };
    let dialled = around.opens.dialling(open.session, link);
    let key = (open.session, Role::Acceptor);
    let fd = tokio::select! {
        () = dialled.cancelled() => return OpenOutcome::TimedOut,
        () = network.quiet().until_shut() => return OpenOutcome::Wait,
        fd = dial_superseding(around, &network, open) => match fd {
            Ok(fd) => fd,
            // The same OPEN came over another link, and was dialled there.
            Err(_) if around.table.has(&key) => return OpenOutcome::Accepted { generation: network.generation() },
            Err(error) => return outcome_of(&error),
        },
    };
    let _ = tcp::set_receive_buffer(&fd, RECEIVE_BUFFER_BYTES);
    network.keep(key, fd.as_fd());
    let socket = match Socket::new(fd, None) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%error, "a delivered connection can't be watched");
            return OpenOutcome::Unreachable;
        }
    };
    let facts = Facts {
        own: open.acceptor,
        peer: open.opener,
        local: open.destination,
        remote: open.source,
        began: SystemTime::now(),
    };
    let generation = network.generation();
    let half = Half::new(open.session, Role::Acceptor, open.opener_generation, generation);
    if !around.table.begin(half, facts, Program::Socket(socket), link.clone(), Vec::new) {
        return OpenOutcome::Denied;
    }
    if dialled.is_cancelled() {
        let _ = around.table.tell(&key, Event::Cancelled(link.clone()));
    }
    OpenOutcome::Accepted { generation }
}

/// Dials; when the last connection between these addresses is still there, its program has given it up for this one.
async fn dial_superseding(around: &Surroundings, network: &Network, open: &Open) -> io::Result<OwnedFd> {
    let began = std::time::Instant::now();
    loop {
        match dial_program(network, open.source, open.destination).await {
            Err(error)
                if is_taken(&error)
                    && began.elapsed() < SUPERSEDE_TIMEOUT
                    && !around.table.has(&(open.session, Role::Acceptor)) =>
            {
                around.table.supersede(open.session, open.destination, open.source);
                tokio::time::sleep(SUPERSEDE_TIMEOUT / 20).await;
            }
            dialled => return dialled,
        }
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse)
}

/// A host may open sessions only for capsules that the directory places there, from their own locator (D8).
async fn may_open(around: &Surroundings, link: &Link, open: &Open) -> bool {
    let placed = || {
        around.places.capsule(&open.opener).is_some_and(|record| {
            record.host == link.host
                && record.generation == open.opener_generation
                && record.locators.contains(open.source.ip())
        })
    };
    if placed() {
        return true;
    }
    // The watch may be late: ask before refusing.
    around.places.refresh(&open.opener).await.is_ok() && placed()
}

/// Dials a program in its capsule's network.
///
/// # Errors
/// What the program's kernel answered.
pub async fn dial_program(
    network: &Network,
    source: SocketAddr,
    destination: SocketAddr,
) -> io::Result<OwnedFd> {
    let fd = network.in_netns(move || tcp::dial(source, destination)).await?;
    let fd = watch(fd)?;
    let answered = async {
        loop {
            let mut ready = fd.writable().await?;
            if tcp::dial_result(fd.get_ref())?.is_some() {
                return Ok::<_, io::Error>(());
            }
            ready.clear_ready();
        }
    };
    tokio::time::timeout(DELIVER_TIMEOUT, answered)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    Ok(fd.into_inner())
}

fn outcome_of(error: &io::Error) -> OpenOutcome {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => OpenOutcome::Refused,
        io::ErrorKind::TimedOut => OpenOutcome::TimedOut,
        _ => {
            tracing::warn!(%error, "a dial failed");
            OpenOutcome::Unreachable
        }
    }
}
