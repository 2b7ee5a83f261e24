//! Sessions that an earlier sidecar of this host left: taken from the capsule's shim, and attached again.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use kernel::repair;
use kernel::tcp::{self, TcpState};

use super::keeper::{ARRIVING, Connection, LISTENER4, LISTENER6};
use super::network::Network;
use crate::intercept::connect::Inherited;
use crate::moving::Arriving;
use crate::session::{HalfRecord, Keeping, Parked, Record, Records, Slot};
use crate::sidecar::Sidecar;

/// What was left of a capsule's sessions.
#[derive(Default)]
pub(crate) struct Left {
    /// Halves on record, with what the shim holds for them.
    halves: Vec<(Slot, HalfRecord, OwnedFd)>,
    /// Sessions of a capsule that was arriving, as its source sent them; those on record are in `halves`.
    arriving: Option<OwnedFd>,
    /// Sockets that nothing on record names: of sessions that ended, or that came with a capsule that was arriving.
    others: HashMap<String, OwnedFd>,
}

impl Left {
    /// Puts together what belongs together.
    pub(super) fn sorted(
        mut held: HashMap<String, OwnedFd>,
        records: Records,
    ) -> (Self, Inherited) {
        let mut left = Self { arriving: held.remove(ARRIVING), ..Self::default() };
        let listeners = held.remove(LISTENER4).zip(held.remove(LISTENER6));
        let mut inherited = Inherited {
            listeners: listeners.map(|(listener4, listener6)| [listener4, listener6]),
            ..Inherited::default()
        };
        for (slot, record) in records {
            match record {
                Record::Opened(record) => inherited.opened.push((slot, record)),
                Record::Half(record) => match held.remove(&record.held) {
                    Some(fd) => left.halves.push((slot, *record, fd)),
                    // It was let go, or never held: its session had not begun, or is over.
                    None => slot.clear(),
                },
            }
        }
        // Connections that were accepted and are on record nowhere; what else is held under another name came by a move.
        for (name, fd) in held {
            let open = tcp::info(&fd).is_ok_and(|info| info.state != TcpState::Closed);
            match tcp::addresses(&fd) {
                Ok((local, peer)) if open && name.starts_with("accepted-") => {
                    inherited.accepted.push(Connection { name, fd, local, peer });
                }
                _ => {
                    left.others.insert(name, fd);
                }
            }
        }
        (left, inherited)
    }

    /// Brings the connections back to life that were captured for a move that does not go on.
    pub(super) fn resume(&self) {
        for (_, record, fd) in &self.halves {
            if repair::is_silent(fd).unwrap_or(false)
                && let Err(error) = repair::resume(fd)
            {
                tracing::error!(session = %record.half.session, %error, "a connection was not brought back");
            }
        }
    }

    /// Lets the sessions go on: each half attaches again.
    pub(super) async fn drive(self, sidecar: &Arc<Sidecar>, network: &Arc<Network>) {
        let (table, network) = (sidecar.table.clone(), network.clone());
        let driven = sidecar.data_plane.spawn(async move {
            let (mut halves, mut lost) = (0_u64, 0_u64);
            for (slot, record, fd) in self.halves {
                let (facts, held) = (record.facts(), record.held.clone());
                let (half, program) = match record.revive(fd) {
                    Ok(revived) => revived,
                    Err(error) => {
                        tracing::error!(session = %record.half.session, error = format!("{error:#}"), "a session can't go on");
                        slot.clear();
                        network.keeper().release(held);
                        lost += 1;
                        continue;
                    }
                };
                let key = (half.id(), half.role());
                let Some(mailbox) = table.register(key, &facts) else { continue };
                let keeping = Some(Keeping::found(slot, record));
                table.drive(Parked { facts, half, program, keeping, mailbox }, None);
                halves += 1;
            }
            let arrived = match self.arriving {
                Some(file) => Arriving::read(file.as_fd(), network.id()),
                None => Ok(Arriving::default()),
            };
            match arrived {
                Ok(arriving) => halves += arriving.go_on(self.others, &network, &table).await,
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "sessions of a capsule that arrived are lost");
                }
            }
            (halves, lost)
        });
        if let Ok((halves, lost)) = driven.await
            && halves + lost > 0
        {
            tracing::info!(halves, lost, "sessions taken over");
        }
    }
}
