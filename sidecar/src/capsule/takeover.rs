//! Sessions that an earlier sidecar of this host left: taken from the capsule's shim, and attached again.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use kernel::repair;
use kernel::tcp::{self, TcpState};
use overlay_proto::Role;
use tokio::sync::mpsc;

use super::keeper::{
    ARRIVING, Connection, DATAGRAMS4, DATAGRAMS6, LISTENER4, LISTENER6, RESOLVER_TCP, RESOLVER_UDP,
};
use super::network::Network;
use crate::intercept::connect::Inherited;
use crate::moving::Arriving;
use crate::session::{Event, Facts, HalfRecord, Keeping, Parked, Record, Records, Slot, Way, Ways};
use crate::sidecar::Sidecar;

/// What was left of a capsule's sessions. They are known from the moment that this is made: what other hosts say of
/// them waits.
#[derive(Default)]
pub(crate) struct Left {
    halves: Vec<LeftHalf>,
    /// Sessions of a capsule that was arriving, as its source sent them, without those that are in `halves`.
    arriving: Arriving,
    inherited: Inherited,
}

/// A half on record, with what the shim holds for it.
struct LeftHalf {
    slot: Slot,
    record: HalfRecord,
    held: OwnedFd,
    mailbox: mpsc::Receiver<Event>,
    way: Option<Arc<Way>>,
}

impl Left {
    /// Puts together what belongs together.
    pub(crate) fn recognized(
        sidecar: &Sidecar,
        network: &Network,
        mut held: HashMap<String, OwnedFd>,
        records: Records,
    ) -> Self {
        let mut left = Self::default();
        let listeners = held.remove(LISTENER4).zip(held.remove(LISTENER6));
        left.inherited.listeners = listeners.map(|(listener4, listener6)| [listener4, listener6]);
        let resolver = held.remove(RESOLVER_UDP).zip(held.remove(RESOLVER_TCP));
        left.inherited.resolver = resolver.map(|(udp, tcp)| [udp, tcp]);
        let datagrams = held.remove(DATAGRAMS4).zip(held.remove(DATAGRAMS6));
        left.inherited.datagrams = datagrams.map(|(v4, v6)| [v4, v6]);
        let arriving = held.remove(ARRIVING);
        for (slot, record) in records {
            match record {
                Record::Opened(record) => {
                    sidecar.around.opens.inherit(record.session);
                    left.inherited.opened.push((slot, record));
                }
                Record::Brought(record) => match held.remove(&record.held) {
                    Some(held) => {
                        sidecar.around.opens.inherit(record.session);
                        left.inherited.brought.push((slot, record, held));
                    }
                    None => slot.clear(),
                },
                Record::Accepted(record) => match held.remove(&record.held) {
                    Some(held) => {
                        sidecar.around.opens.inherit(record.session);
                        left.inherited.asked.push((slot, record, held));
                    }
                    None => slot.clear(),
                },
                Record::Half(record) => {
                    let key = (record.half.session, record.half.role);
                    // Of one that was let go, or never held, the session is over, or had not begun.
                    let Some(held) = held.remove(&record.held) else {
                        slot.clear();
                        continue;
                    };
                    let Some(mailbox) = sidecar.table.register(key, &record.facts()) else { continue };
                    left.halves.push(LeftHalf { slot, record: *record, held, mailbox, way: None });
                }
            }
        }
        if let Some(file) = arriving {
            match Arriving::recognized(file.as_fd(), network.id(), &mut held, &sidecar.table) {
                Ok(arriving) => left.arriving = arriving,
                Err(error) => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "sessions of a capsule that arrived are lost"
                    );
                }
            }
        }
        for (name, fd) in held {
            let open = tcp::info(&fd).is_ok_and(|info| info.state != TcpState::Closed);
            match tcp::addresses(&fd) {
                // Accepted, and on record nowhere.
                Ok((local, peer)) if open && name.starts_with("accepted-") => {
                    left.inherited.accepted.push(Connection { name, fd, local, peer });
                }
                _ => network.keeper().release(name),
            }
        }
        left
    }

    /// Of a gateway: finds how the machines of its halves came in.
    pub(crate) fn find_ways(&mut self, ways: &Arc<Ways>) {
        for half in self.halves.iter_mut().filter(|half| half.record.half.role == Role::Opener) {
            // Of one that is over the address is not known any more; what it goes under is in use all the same.
            let outside = tcp::addresses(&half.held).map_or(half.record.local, |(_, outside)| outside);
            half.way = Some(Arc::new(ways.found(outside, half.record.local, half.record.remote)));
        }
    }

    /// What the interception of the capsule goes on with.
    pub(crate) fn inherited(&mut self) -> Inherited {
        std::mem::take(&mut self.inherited)
    }

    /// Brings the connections back to life that were captured for a move that does not go on.
    pub(super) fn resume(&self) {
        for half in &self.halves {
            if repair::is_silent(&half.held).unwrap_or(false)
                && let Err(error) = repair::resume(&half.held)
            {
                tracing::error!(session = %half.record.half.session, %error, "a connection was not brought back");
            }
        }
    }

    /// The sessions go on elsewhere, or nowhere.
    pub(crate) fn give_up(self, sidecar: &Sidecar) {
        for half in &self.halves {
            sidecar.table.remove((half.record.half.session, half.record.half.role));
        }
        for key in self.arriving.keys() {
            sidecar.table.remove(key);
        }
        for (_, record) in &self.inherited.opened {
            sidecar.around.opens.finish(record.session);
        }
        for (_, record, _) in &self.inherited.asked {
            sidecar.around.opens.finish(record.session);
        }
    }

    /// Lets the sessions go on: each half attaches again.
    pub(crate) async fn drive(self, sidecar: &Arc<Sidecar>, network: &Arc<Network>) {
        let (table, network) = (sidecar.table.clone(), network.clone());
        let driven = sidecar.data_plane.spawn(async move {
            let (mut halves, mut lost) = (0_u64, 0_u64);
            for LeftHalf { slot, record, held, mailbox, way } in self.halves {
                let facts = Facts { way, ..record.facts() };
                match record.revive(held) {
                    Ok((half, program)) => {
                        let keeping = Some(Keeping::found(slot, record));
                        table.drive(Parked { facts, half, program, keeping, mailbox }, None);
                        halves += 1;
                    }
                    Err(error) => {
                        tracing::error!(session = %record.half.session, error = format!("{error:#}"), "a session can't go on");
                        drop(mailbox);
                        table.forget((record.half.session, record.half.role));
                        network.keeper().release(record.held);
                        slot.clear();
                        lost += 1;
                    }
                }
            }
            halves += self.arriving.go_on(&network, &table).await;
            (halves, lost)
        });
        if let Ok((halves, lost)) = driven.await
            && halves + lost > 0
        {
            tracing::info!(halves, lost, "sessions taken over");
        }
    }
}
