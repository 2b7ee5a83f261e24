//! The shim at work: one poll(2) loop over its socket, its clients, the program's pipes, the gate and its children.
//!
//! Nothing in the loop waits for anything else: runc is a child whose end is one more event, and what a client asked
//! of it is answered then.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, WaitOptions, WaitStatus};
use shim::limits::CLIENTS_MAX;
use shim::{Reply, place, wire};

use self::client::{ClientId, Clients};
use self::execs::Execs;
use self::gate::Gate;
use self::held::Held;
use self::output::Output;
use self::program::Program;
use crate::start::note;

mod answer;
mod children;
mod client;
mod execs;
mod gate;
mod held;
mod output;
mod program;
pub(crate) mod replace;

/// Everything that the shim owns.
pub(crate) struct Server {
    dir: PathBuf,
    listener: OwnedFd,
    signals: OwnedFd,
    clients: Clients,
    program: Program,
    output: Output,
    gate: Option<Gate>,
    execs: Execs,
    held: Held,
    quit: bool,
    id: String,
    /// Its lock says that the shim lives.
    locked: File,
}

/// What happened.
#[derive(Debug, Clone, Copy)]
enum Event {
    Connection,
    ChildEnded,
    Output(shim::log::Stream),
    Gate,
    Request(ClientId),
    RoomToSend(ClientId),
}

impl Server {
    /// Binds the socket in the directory of a capsule, of which `locked` is locked.
    pub(crate) fn bind(dir: &Path, id: &str, locked: File) -> anyhow::Result<Server> {
        let listener = wire::listen(&place::socket(dir)).context("listening in the capsule's directory")?;
        Ok(Server {
            dir: dir.to_owned(),
            signals: children::watch().context("watching for children")?,
            clients: Clients::default(),
            program: Program::found(dir),
            output: Output::open(dir).context("opening the log")?,
            gate: None,
            execs: Execs::default(),
            held: Held::new().context("making the table of sessions")?,
            quit: false,
            id: id.to_owned(),
            locked,
            listener,
        })
    }

    /// Serves until it is told to quit.
    pub(crate) fn serve(mut self) -> anyhow::Result<()> {
        while !self.quit {
            for event in self.wait()? {
                self.handle(event);
            }
        }
        let _ = std::fs::remove_file(place::socket(&self.dir));
        Ok(())
    }

    fn wait(&self) -> io::Result<Vec<Event>> {
        let mut watched: Vec<(BorrowedFd<'_>, PollFlags, Event)> = vec![
            (self.signals.as_fd(), PollFlags::IN, Event::ChildEnded),
            (self.listener.as_fd(), PollFlags::IN, Event::Connection),
        ];
        // What runc writes before the program is alive is not the program's: it is kept or thrown away at its end.
        let pipes = self.output.pipes().filter(|_| !self.program.is_being_born());
        watched.extend(pipes.map(|(fd, stream)| (fd, PollFlags::IN, Event::Output(stream))));
        watched.extend(self.gate.as_ref().map(|gate| (gate.as_fd(), PollFlags::IN, Event::Gate)));
        for (id, client) in self.clients.iter() {
            let (flags, event) = match client.is_taking() {
                true => (PollFlags::OUT, Event::RoomToSend(id)),
                false => (PollFlags::IN, Event::Request(id)),
            };
            watched.push((client.as_fd(), flags, event));
        }
        let mut fds: Vec<PollFd<'_>> =
            watched.iter().map(|(fd, flags, _)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
        let ready = fds.iter().zip(&watched).filter(|(fd, _)| !fd.revents().is_empty());
        Ok(ready.map(|(_, (_, _, event))| *event).collect())
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Connection => self.accept(),
            Event::ChildEnded => self.reap(),
            Event::Output(stream) => self.output.read(stream),
            Event::Gate => self.gate_moved(),
            Event::Request(id) => self.receive(id),
            Event::RoomToSend(id) => self.give_sockets(id),
        }
    }

    fn accept(&mut self) {
        use rustix::net::SocketFlags;
        match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) if self.clients.len() < CLIENTS_MAX => self.clients.add(socket),
            Ok(_) => note("too many clients"),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNABORTED) => {}
            Err(error) => note(&format!("accepting a client: {error}")),
        }
    }

    fn receive(&mut self, id: ClientId) {
        match self.clients.receive(id) {
            Ok(Some(received)) => self.answer(id, received.message, received.fds),
            Ok(None) => self.forget(id),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                let what = format!("no request of this shim: {error}");
                self.clients.reply(id, &Reply::Failed { what, stderr_tail: String::new() });
            }
        }
    }

    /// A client has gone: whatever waits for it goes on, but an exec without anybody to hear of it is hung up.
    fn forget(&mut self, id: ClientId) {
        self.clients.remove(id);
        self.execs.hang_up(id);
    }

    fn reap(&mut self) {
        children::acknowledge(&self.signals);
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            self.child_ended(pid, status);
        }
    }

    fn child_ended(&mut self, pid: Pid, status: WaitStatus) {
        let code = children::exit_code(status);
        if let Some(exec) = self.execs.ended(pid) {
            self.clients.reply(exec, &Reply::Exited { code });
        } else if self.program.is_runc(pid) {
            self.runc_ended(code);
        } else if self.program.is(pid) {
            self.program_ended(code);
        } else {
            self.program.remember(pid, code);
        }
    }
}

/// Descriptors by a name that is not used again.
type Table<T> = BTreeMap<u64, T>;
