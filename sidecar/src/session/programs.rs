//! The way from a half to its program's own socket: through the descriptors of the capsule's processes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};

use kernel::user_timeout;
use overlay_proto::CapsuleId;

use super::{Event, Facts, Key, Table};
use crate::limits::ASIDE_GATHER;

/// Both addresses of a connection.
type Ends = (SocketAddr, SocketAddr);

/// Tells the processes of a capsule that is on this host.
pub type Processes = Box<dyn Fn(&CapsuleId) -> Vec<u32> + Send + Sync>;

/// Looks for programs' sockets; many halves of a capsule that ask at once are served by one look.
#[derive(Default)]
pub(super) struct Programs {
    processes: OnceLock<Processes>,
    asked: Mutex<HashMap<CapsuleId, HashMap<Ends, Asked>>>,
}

/// Who asked, and whether also for a socket without TCP_USER_TIMEOUT.
#[derive(Debug, Clone, Copy)]
struct Asked {
    key: Key,
    always: bool,
}

impl Programs {
    /// Says where processes are found; before that, none are.
    pub(super) fn complete(&self, processes: Processes) {
        let _ = self.processes.set(processes);
    }

    /// Looks for the program's socket of a half, soon, and gives it a duplicate: if TCP_USER_TIMEOUT is set in it, or
    /// `always`.
    pub(super) fn look(self: &Arc<Self>, table: Table, key: Key, facts: &Facts, always: bool) {
        let mut all = self.asked.lock().expect("no panics under this lock");
        let asked = all.entry(facts.own).or_default();
        let first = asked.is_empty();
        asked.insert((facts.local, facts.remote), Asked { key, always });
        if !first {
            return;
        }
        let (programs, own) = (self.clone(), facts.own);
        tokio::spawn(async move {
            tokio::time::sleep(ASIDE_GATHER).await;
            let asked = programs.asked.lock().expect("no panics under this lock").remove(&own);
            let asked = asked.unwrap_or_default();
            let _ = tokio::task::spawn_blocking(move || {
                let Some(processes) = programs.processes.get() else { return };
                show(&processes(&own), &asked, &table);
            })
            .await;
        });
    }

    /// Gives the halves of a capsule duplicates of the programs' sockets in which TCP_USER_TIMEOUT is set. They are in
    /// the mailboxes when this returns. Blocks.
    pub(super) fn show_all(&self, table: &Table, own: &CapsuleId) {
        let Some(processes) = self.processes.get() else { return };
        let asked: HashMap<_, _> = table
            .connections_of(own)
            .into_iter()
            .map(|(key, connection)| (connection, Asked { key, always: false }))
            .collect();
        show(&processes(own), &asked, table);
    }
}

fn show(pids: &[u32], asked: &HashMap<Ends, Asked>, table: &Table) {
    for pid in pids {
        user_timeout::each_connection(*pid, |socket| {
            if let Some(one) = asked.get(&(socket.local, socket.peer))
                && (one.always || socket.timeout_ms > 0)
            {
                let _ = table.tell(&one.key, Event::ProgramSocket(socket));
            }
        });
    }
}
