use std::os::fd::OwnedFd;

use rustix::process::Signal;
use shim::{Reply, Request};

use super::Server;
use super::client::ClientId;
use super::program::{Birth, failed};

impl Server {
    /// Does what a client asks, or starts to; `None` from the parts below means that the answer comes later.
    pub(super) fn answer(&mut self, id: ClientId, request: Request, fds: Vec<OwnedFd>) {
        let reply = match request {
            Request::Status => Some(self.status()),
            Request::Run { argv } => later(self.bring_to_life(id, &argv, &Birth::Run)),
            Request::Restore { argv, gate } => later(self.bring_to_life(id, &argv, &Birth::Restore { gate })),
            Request::OpenGate => later(self.open_gate(id)),
            Request::AbortGate => later(self.abort_gate(id)),
            Request::Exec { id: exec, argv } => later(
                self.clients
                    .network(id)
                    .and_then(|network| self.execs.start(id, exec, &argv, fds, network))
                    .map_err(|error| format!("exec: {error}")),
            ),
            Request::Signal { signal, exec } => Some(done(self.signal(signal, exec))),
            Request::Hold { session } => Some(done(match fds.into_iter().next() {
                Some(socket) => self.held.hold(session, socket),
                None => Err("no socket rode along".into()),
            })),
            Request::Release { session } => {
                self.held.release(&session);
                Some(Reply::Done)
            }
            Request::Accept { listener } => later(self.accept_for(id, &listener)),
            Request::Table => {
                self.clients.send(id, &Reply::Table, &[self.held.table()]);
                None
            }
            Request::SilenceAll => Some(done(self.held.silence_all().map_err(|error| error.to_string()))),
            Request::TakeSockets => {
                self.take_sockets(id);
                None
            }
            Request::DrainPipes => {
                self.output.drain();
                Some(Reply::Done)
            }
            Request::WatchExit => match self.program.watch(id) {
                Ok(code) => code.map(|code| Reply::Exited { code }),
                Err(what) => Some(failed(what, String::new())),
            },
            // When it worked there is nobody here to answer.
            Request::Replace { program } => Some(failed(&self.replace(&program), String::new())),
            Request::Quit => Some(done(self.quit())),
        };
        if let Some(reply) = reply {
            self.clients.reply(id, &reply);
        }
    }

    fn status(&self) -> Reply {
        let own = std::process::id();
        Reply::Status {
            shim_pid: own,
            netns_pid: own,
            program: self.program.view(),
            held: self.held.len(),
            version: shim::VERSION.into(),
        }
    }

    fn signal(&self, signal: i32, exec: Option<u64>) -> Result<(), String> {
        let signal = Signal::from_named_raw(signal).ok_or_else(|| format!("there is no signal {signal}"))?;
        let sent = match exec {
            Some(id) => self.execs.signal(id, signal).ok_or("that exec has ended")?,
            None => self.program.signal(signal).ok_or("no program runs")?,
        };
        sent.map_err(|error| error.to_string())
    }

    fn quit(&mut self) -> Result<(), String> {
        if self.program.lives() {
            return Err("the program still runs".into());
        }
        self.output.drain();
        self.quit = true;
        Ok(())
    }
}

fn later(started: Result<(), String>) -> Option<Reply> {
    started.err().map(|what| failed(&what, String::new()))
}

fn done(result: Result<(), String>) -> Reply {
    match result {
        Ok(()) => Reply::Done,
        Err(what) => failed(&what, String::new()),
    }
}
