use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use shim::wire::{self, Received};
use shim::{Reply, Request};

use super::{Table, children};
use crate::start::note;

/// A connection, while it lasts; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClientId(u64);

/// Those who are connected.
#[derive(Default)]
pub(super) struct Clients {
    next: u64,
    connected: Table<Client>,
    buffer: Vec<u8>,
}

/// One of them.
pub(super) struct Client {
    socket: OwnedFd,
    /// Names of the sockets that it asked for and has not got yet.
    taking: Option<Vec<String>>,
}

impl Clients {
    pub(super) fn add(&mut self, socket: OwnedFd) {
        self.next += 1;
        self.connected.insert(self.next, Client { socket, taking: None });
    }

    pub(super) fn remove(&mut self, id: ClientId) {
        self.connected.remove(&id.0);
    }

    pub(super) fn len(&self) -> usize {
        self.connected.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ClientId, &Client)> {
        self.connected.iter().map(|(id, client)| (ClientId(*id), client))
    }

    pub(super) fn receive(&mut self, id: ClientId) -> io::Result<Option<Received<Request>>> {
        match self.connected.get(&id.0) {
            Some(client) => wire::receive(&client.socket, &mut self.buffer),
            None => Ok(None),
        }
    }

    /// The network namespace that a client is in.
    pub(super) fn network(&self, id: ClientId) -> io::Result<OwnedFd> {
        let client = self.connected.get(&id.0).ok_or(io::ErrorKind::NotConnected)?;
        children::network_of(rustix::net::sockopt::socket_peercred(&client.socket)?.pid)
    }

    /// Answers a client, if it is still there. One that does not read its few answers is let go.
    pub(super) fn reply(&mut self, id: ClientId, reply: &Reply) {
        self.send(id, reply, &[]);
    }

    pub(super) fn send(&mut self, id: ClientId, reply: &Reply, fds: &[BorrowedFd<'_>]) {
        let Some(client) = self.connected.get(&id.0) else { return };
        if let Err(error) = wire::send(&client.socket, reply, fds) {
            note(&format!("a client is let go: {error}"));
            self.remove(id);
        }
    }

    pub(super) fn taking(&mut self, id: ClientId) -> Option<&mut Option<Vec<String>>> {
        self.connected.get_mut(&id.0).map(|client| &mut client.taking)
    }
}

impl Client {
    /// Whether it waits for more sockets.
    pub(super) fn is_taking(&self) -> bool {
        self.taking.is_some()
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
