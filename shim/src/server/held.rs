use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kernel::tcp::TcpState;
use rustix::fs::MemfdFlags;
use shim::limits::{ACCEPTED_MAX, HELD_MAX, MESSAGE_FDS_MAX, SESSION_NAME_BYTES_MAX};
use shim::{Accepted, Reply};

use super::Server;
use super::client::ClientId;

/// Descriptors kept for the sidecar, by name, and the file of what it knows of them.
pub(super) struct Held {
    by_name: BTreeMap<String, OwnedFd>,
    /// Connections accepted so far: their names.
    accepted: u64,
    table: OwnedFd,
}

impl Held {
    pub(super) fn new() -> io::Result<Held> {
        let table = rustix::fs::memfd_create("sessions", MemfdFlags::CLOEXEC)?;
        Ok(Held { by_name: BTreeMap::new(), accepted: 0, table })
    }

    /// What another shim held.
    pub(super) fn resume(by_name: BTreeMap<String, OwnedFd>, accepted: u64, table: OwnedFd) -> Held {
        Held { by_name, accepted, table }
    }

    /// What is held, the count of connections, and the table.
    pub(super) fn parts(&self) -> (&BTreeMap<String, OwnedFd>, u64, BorrowedFd<'_>) {
        (&self.by_name, self.accepted, self.table.as_fd())
    }

    pub(super) fn table(&self) -> BorrowedFd<'_> {
        self.table.as_fd()
    }

    pub(super) fn hold(&mut self, session: String, socket: OwnedFd) -> Result<(), String> {
        if session.len() > SESSION_NAME_BYTES_MAX {
            return Err("the session's name is too long".into());
        }
        if self.by_name.len() >= HELD_MAX && !self.by_name.contains_key(&session) {
            return Err(format!("{HELD_MAX} sockets are held already"));
        }
        self.by_name.insert(session, socket);
        Ok(())
    }

    /// Accepts what waits at a listener, and holds it.
    fn accept(&mut self, listener: &str) -> Result<Vec<Accepted>, String> {
        let listener = self.by_name.get(listener).ok_or("no such listener is held")?;
        let listener = listener.try_clone().map_err(|error| error.to_string())?;
        let mut connections = Vec::new();
        while connections.len() < ACCEPTED_MAX && self.by_name.len() < HELD_MAX {
            match kernel::tcp::accept(&listener) {
                Ok(Some((socket, local, peer))) => {
                    self.accepted += 1;
                    let name = format!("accepted-{}", self.accepted);
                    self.by_name.insert(name.clone(), socket);
                    connections.push(Accepted { name, local, peer });
                }
                Ok(None) => break,
                // What was accepted before is not forgotten for it.
                Err(error) if connections.is_empty() => return Err(error.to_string()),
                Err(_) => break,
            }
        }
        Ok(connections)
    }

    pub(super) fn release(&mut self, session: &str) {
        self.by_name.remove(session);
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Goes on past sockets that refuse, and tells the first reason.
    pub(super) fn silence_all(&self) -> io::Result<()> {
        let mut first = Ok(());
        // Neither a listener nor a file is a connection.
        for socket in self
            .by_name
            .values()
            .filter(|fd| kernel::tcp::info(fd).is_ok_and(|info| info.state != TcpState::Listen))
        {
            first = first.and(kernel::repair::silence(socket));
        }
        first
    }
}

impl Server {
    /// Accepts for a client, and sends it what was accepted.
    pub(super) fn accept_for(&mut self, id: ClientId, listener: &str) -> Result<(), String> {
        let connections = self.held.accept(listener)?;
        let fds = connections.iter().filter_map(|one| self.held.by_name.get(&one.name)).map(AsFd::as_fd);
        let fds: Vec<BorrowedFd<'_>> = fds.collect();
        self.clients.send(id, &Reply::Accepted { connections: connections.clone() }, &fds);
        Ok(())
    }

    pub(super) fn take_sockets(&mut self, id: ClientId) {
        let names = self.held.by_name.keys().rev().cloned().collect();
        if let Some(taking) = self.clients.taking(id) {
            *taking = Some(names);
        }
    }

    /// Sends the next few sockets to a client that has room for them.
    pub(super) fn give_sockets(&mut self, id: ClientId) {
        let Some(taking) = self.clients.taking(id) else { return };
        let Some(names) = taking else { return };
        let batch = names.split_off(names.len().saturating_sub(MESSAGE_FDS_MAX));
        let last = names.is_empty();
        if last {
            *taking = None;
        }
        // A session may have been released meanwhile.
        let held: Vec<(String, BorrowedFd<'_>)> = batch
            .into_iter()
            .filter_map(|name| self.held.by_name.get(&name).map(|socket| (name, socket.as_fd())))
            .collect();
        let (sessions, fds): (Vec<String>, Vec<BorrowedFd<'_>>) = held.into_iter().unzip();
        self.clients.send(id, &Reply::Sockets { sessions, last }, &fds);
    }
}
