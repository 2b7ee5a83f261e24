//! Delivery: an OPEN from another sidecar (or from a capsule on this host) is dialled to the program here, with
//! the real source address and port, and answered with what the program's kernel said.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use directory_api::outside;
use kernel::tcp;
use overlay_proto::{Answer, Frame, Half, Open, OpenOutcome, Role};

use super::opens::Dialled;
use super::surroundings::Surroundings;
use crate::capsule::network::{Network, Networks, Reach};
use crate::limits::{DELIVER_TIMEOUT, SUPERSEDE_TIMEOUT};
use crate::link::Link;
use crate::policy::Denial;
use crate::session::{Event, Facts, Program, Socket};
use crate::watched::watch;

/// Dials for an OPEN and answers it; `dialled` hears of its CANCEL.
pub async fn deliver(
    around: Surroundings,
    networks: Networks,
    link: Arc<Link>,
    open: Open,
    dialled: Dialled,
) {
    let session = open.session;
    let outcome = loop {
        if let Some(outcome) = opened_before(&around, &networks, &link, &open).await {
            break outcome;
        }
        if let Some(outcome) = dial(&around, &networks, &link, &open, &dialled).await {
            break outcome;
        }
    };
    // Before it is answered: the same session may be asked for again then.
    drop(dialled);
    tracing::debug!(%session, from = %open.source, to = %open.destination, ?outcome, "open");
    link.transmit(Frame::Answer(Answer { session, outcome }));
}

/// The answer was lost with a link, or with a sidecar: the same OPEN gets the same answer.
async fn opened_before(
    around: &Surroundings,
    networks: &Networks,
    link: &Arc<Link>,
    open: &Open,
) -> Option<OpenOutcome> {
    let key = (open.session, Role::Acceptor);
    if !around.table.has(&key) {
        return None;
    }
    // Also so that what an earlier host of the opener still says of the session is no longer believed.
    if !may_open(around, link, open).await {
        tracing::warn!(host = %link.host, capsule = %open.opener, "refused: the capsule is not placed on that host");
        return Some(OpenOutcome::Denied);
    }
    if around.table.reopen(&key, link)?.await.is_ok() {
        let generation = networks.of(&open.acceptor)?.generation();
        return Some(OpenOutcome::Accepted { generation });
    }
    // It was given up, and its end is under way.
    let deadline = Instant::now() + SUPERSEDE_TIMEOUT;
    while around.table.has(&key) && Instant::now() < deadline {
        tokio::time::sleep(SUPERSEDE_TIMEOUT / 400).await;
    }
    None
}

/// Dials; `None` when the same OPEN, that came over another link, was dialled meanwhile: its half is in the table.
async fn dial(
    around: &Surroundings,
    networks: &Networks,
    link: &Arc<Link>,
    open: &Open,
    dialled: &Dialled,
) -> Option<OpenOutcome> {
    let Some(network) = networks.of(&open.acceptor) else { return Some(OpenOutcome::NotHere) };
    match network.reach() {
        None if !network.locators().contains(open.destination.ip()) => return Some(OpenOutcome::NotHere),
        Some(reach) if !is_outside(around, reach, open.destination.ip()) => {
            return Some(OpenOutcome::Unreachable);
        }
        Some(reach) if reach.is_of_this_host() && !link.is_local() => {
            tracing::warn!(host = %link.host, capsule = %open.opener, "refused: it is not on this host, whose outlet it asks for");
            return Some(OpenOutcome::Denied);
        }
        None | Some(_) => {}
    }
    if !may_open(around, link, open).await {
        tracing::warn!(host = %link.host, capsule = %open.opener, "refused: the capsule is not placed on that host");
        return Some(OpenOutcome::Denied);
    }
    match may_connect(around, &network, open).await {
        Some(true) => {}
        Some(false) => return Some(OpenOutcome::Denied),
        // The directory has not told the rules since this sidecar began.
        None => return Some(OpenOutcome::Wait),
    }
    // Held until the session has begun: a capsule does not leave in between.
    let Some(_dialling) = network.quiet().dialling() else { return Some(OpenOutcome::Wait) };
    let key = (open.session, Role::Acceptor);
    let fd = tokio::select! {
        () = dialled.cancelled() => return Some(OpenOutcome::TimedOut),
        () = network.quiet().until_shut() => return Some(OpenOutcome::Wait),
        fd = dial_superseding(around, &network, open) => match fd {
            Ok(fd) => fd,
            // The same OPEN came over another link, and was dialled there.
            Err(_) if around.table.has(&key) => return None,
            Err(error) => return Some(outcome_of(&error)),
        },
    };
    crate::faults::pass("dialled");
    let held = format!("{}-a", open.session);
    if let Err(error) = network.keeper().hold(&held, fd.as_fd()).await {
        tracing::error!(capsule = %network.name(), error = format!("{error:#}"), "the shim does not hold a connection");
        return Some(OpenOutcome::Unreachable);
    }
    let socket = match Socket::new(fd, None) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%error, "a delivered connection can't be watched");
            return Some(OpenOutcome::Unreachable);
        }
    };
    let facts = Facts {
        own: open.acceptor,
        peer: open.opener,
        local: open.destination,
        remote: open.source,
        began: SystemTime::now(),
        way: None,
    };
    let generation = network.generation();
    let mut half = Half::new(open.session, Role::Acceptor, open.opener_generation, generation);
    if network.reach().is_some() {
        // It is never dialled again, whoever has accepted it.
        half.accepted();
    }
    let program = Program::Socket(socket);
    // On record before it is answered.
    let keeping = network.keeping(held, &facts, &half, &program);
    if !around.table.begin(half, facts, program, keeping, Some(link.clone()), Vec::new) {
        return None;
    }
    if dialled.is_cancelled() {
        let _ = around.table.tell(&key, Event::Cancelled(link.clone()));
    }
    Some(OpenOutcome::Accepted { generation })
}

/// Whether a gateway or an outlet lets capsules reach an address that is none of a capsule.
fn is_outside(around: &Surroundings, reach: &Reach, address: IpAddr) -> bool {
    reach.contains(address) && !around.places.may_be_locator(&address)
}

/// Dials; when the last connection between these addresses is still there, its program has given it up for this one.
async fn dial_superseding(around: &Surroundings, network: &Network, open: &Open) -> io::Result<OwnedFd> {
    let began = Instant::now();
    loop {
        match dial_program(network, open.source, open.destination).await {
            Err(error)
                if is_taken(&error)
                    && began.elapsed() < SUPERSEDE_TIMEOUT
                    && !around.table.has(&(open.session, Role::Acceptor)) =>
            {
                around.table.supersede(open.session, open.opener, open.destination, open.source);
                tokio::time::sleep(SUPERSEDE_TIMEOUT / 20).await;
            }
            dialled => return dialled,
        }
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse)
}

/// Whether a machine outside can have an address: its gateway says whose it is.
fn is_of_machine(around: &Surroundings, address: IpAddr) -> bool {
    outside::is_of_one_machine(address) && !around.places.may_be_locator(&address)
}

/// A host may open sessions only for capsules that the directory places there, from their own locator (D8); a gateway also
/// for machines outside.
async fn may_open(around: &Surroundings, link: &Link, open: &Open) -> bool {
    let placed = || {
        around.places.capsule(&open.opener).is_some_and(|record| {
            record.host == link.host
                && record.generation == open.opener_generation
                && (record.locators.contains(open.source.ip())
                    || record.is_outside() && is_of_machine(around, open.source.ip()))
        })
    };
    if placed() {
        return true;
    }
    // The watch may be late: ask before refusing.
    around.places.refresh(&open.opener).await.is_ok() && placed()
}

/// Whether the policy allows a session; `None` while it is not known.
async fn may_connect(around: &Surroundings, network: &Network, open: &Open) -> Option<bool> {
    if around.places.capsule(&open.acceptor).is_none() {
        let _ = around.places.refresh(&open.acceptor).await;
    }
    let (from, to) = (around.places.capsule(&open.opener)?, around.places.capsule(&open.acceptor)?);
    let port = open.destination.port();
    let judgement = around.places.policy().judge_now(&from, &to, port).await?;
    if judgement.is_allowed() {
        return Some(true);
    }
    tracing::debug!(session = %open.session, from = %from.name, to = %to.name, port, %judgement, "refused by the policy");
    let denial = Denial { from: from.id, to: to.id, port, at: SystemTime::now(), judgement };
    network.policed().denied_in(denial.clone());
    around.places.policy().totals().denied_in(denial);
    Some(false)
}

/// Dials a program in its capsule's network, or from the host's own a machine outside.
///
/// # Errors
/// What the program's kernel answered.
pub async fn dial_program(
    network: &Network,
    source: SocketAddr,
    destination: SocketAddr,
) -> io::Result<OwnedFd> {
    let outside = network.reach().is_some();
    let fd = network
        .in_netns(
            move || if outside { tcp::dial_outside(destination) } else { tcp::dial(source, destination) },
        )
        .await?;
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
        // Of machines outside: this host has no way to them.
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => OpenOutcome::Unreachable,
        _ => {
            tracing::warn!(%error, "a dial failed");
            OpenOutcome::Unreachable
        }
    }
}
