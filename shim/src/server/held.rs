use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use shim::Reply;
use shim::limits::{HELD_MAX, MESSAGE_FDS_MAX, SESSION_NAME_BYTES_MAX};

use super::Server;
use super::client::ClientId;

/// Sockets kept for the sidecar, by the name of their session.
#[derive(Default)]
pub(super) struct Held(BTreeMap<String, OwnedFd>);

impl Held {
    pub(super) fn hold(&mut self, session: String, socket: OwnedFd) -> Result<(), String> {
        if session.len() > SESSION_NAME_BYTES_MAX {
            return Err("the session's name is too long".into());
        }
        if self.0.len() >= HELD_MAX && !self.0.contains_key(&session) {
            return Err(format!("{HELD_MAX} sockets are held already"));
        }
        self.0.insert(session, socket);
        Ok(())
    }

    pub(super) fn release(&mut self, session: &str) {
        self.0.remove(session);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Goes on past sockets that refuse, and tells the first reason.
    pub(super) fn silence_all(&self) -> io::Result<()> {
        let mut first = Ok(());
        for socket in self.0.values() {
            first = first.and(kernel::repair::silence(socket));
        }
        first
    }
}

impl Server {
    pub(super) fn take_sockets(&mut self, id: ClientId) {
        let names = self.held.0.keys().rev().cloned().collect();
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
            .filter_map(|name| self.held.0.get(&name).map(|socket| (name, socket.as_fd())))
            .collect();
        let (sessions, fds): (Vec<String>, Vec<BorrowedFd<'_>>) = held.into_iter().unzip();
        self.clients.send(id, &Reply::Sockets { sessions, last }, &fds);
    }
}
