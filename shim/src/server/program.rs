use std::collections::VecDeque;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use shim::limits::{EARLY_EXITS_MAX, ERROR_TAIL_BYTES};
use shim::{Reply, place};

use super::client::ClientId;
use super::gate::Gate;
use super::{Server, children};
use crate::start::note;

/// The program and the runc that brings it to life.
pub(super) struct Program {
    state: State,
    /// Who waits for its end.
    watchers: Vec<ClientId>,
    /// Children that ended before runc had said which one is the program.
    early: VecDeque<(Pid, i32)>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    None,
    Starting(Runc),
    AtGate(Runc),
    Running(Pid),
    Exited(i32),
}

#[derive(Debug, Clone, Copy)]
struct Runc {
    pid: Pid,
    /// Who waits for it.
    client: Option<ClientId>,
    /// Whether its failure is what the client wants.
    aborted: bool,
}

/// How runc is to bring the program to life.
pub(super) enum Birth {
    /// From its command line, in a time namespace of its own.
    Run,
    /// From images, in the time namespace that they tell of.
    Restore {
        /// Whether it stops at the gate.
        gate: bool,
    },
}

/// What stands in the exit file.
#[derive(Serialize, Deserialize)]
struct ExitFile {
    code: i32,
}

impl Program {
    /// A new shim in a directory where a program has ended knows of its end.
    pub(super) fn found(dir: &Path) -> Program {
        let code = std::fs::read(place::exit(dir)).ok();
        let code = code.and_then(|bytes| serde_json::from_slice::<ExitFile>(&bytes).ok());
        let state = code.map_or(State::None, |file| State::Exited(file.code));
        Program { state, watchers: Vec::new(), early: VecDeque::new() }
    }

    /// Goes on with a program that another shim of this process looked after.
    pub(super) fn resume(view: shim::Program) -> Program {
        let state = match view {
            shim::Program::Running { pid } => {
                Pid::from_raw(pid.cast_signed()).map_or(State::None, State::Running)
            }
            shim::Program::Exited { code } => State::Exited(code),
            shim::Program::None | shim::Program::Starting | shim::Program::AtGate => State::None,
        };
        Program { state, watchers: Vec::new(), early: VecDeque::new() }
    }

    /// As others see it.
    pub(super) fn view(&self) -> shim::Program {
        match self.state {
            State::None => shim::Program::None,
            State::Starting(_) => shim::Program::Starting,
            State::AtGate(_) => shim::Program::AtGate,
            State::Running(pid) => shim::Program::Running { pid: number(pid) },
            State::Exited(code) => shim::Program::Exited { code },
        }
    }

    pub(super) fn is(&self, pid: Pid) -> bool {
        matches!(self.state, State::Running(program) if program == pid)
    }

    pub(super) fn is_runc(&self, pid: Pid) -> bool {
        matches!(self.state, State::Starting(runc) | State::AtGate(runc) if runc.pid == pid)
    }

    /// Whether it lives, or is about to.
    pub(super) fn lives(&self) -> bool {
        !matches!(self.state, State::None | State::Exited(_))
    }

    /// Whether runc is at work.
    pub(super) fn is_being_born(&self) -> bool {
        matches!(self.state, State::Starting(_) | State::AtGate(_))
    }

    /// Remembers the end of a child that may turn out to be the program.
    pub(super) fn remember(&mut self, pid: Pid, code: i32) {
        if self.is_being_born() {
            self.early.truncate(EARLY_EXITS_MAX - 1);
            self.early.push_front((pid, code));
        }
    }

    /// Returns who waits for this.
    pub(super) fn arrived_at_gate(&mut self) -> Option<ClientId> {
        let State::Starting(mut runc) = self.state else { return None };
        let client = runc.client.take();
        self.state = State::AtGate(runc);
        client
    }

    pub(super) fn signal(&self, signal: Signal) -> Option<io::Result<()>> {
        let State::Running(pid) = self.state else { return None };
        Some(rustix::process::kill_process(pid, signal).map_err(Into::into))
    }

    /// Its exit code, if it ended; else the client is told later.
    pub(super) fn watch(&mut self, client: ClientId) -> Result<Option<i32>, &'static str> {
        match self.state {
            State::Exited(code) => Ok(Some(code)),
            State::None => Err("no program was started"),
            State::Starting(_) | State::AtGate(_) | State::Running(_) => {
                self.watchers.push(client);
                Ok(None)
            }
        }
    }
}

impl Server {
    /// Starts runc; the client is answered when it has come so far.
    pub(super) fn bring_to_life(
        &mut self,
        client: ClientId,
        argv: &[String],
        birth: &Birth,
    ) -> Result<(), String> {
        if self.program.lives() {
            return Err("the capsule has a program already".into());
        }
        let [runc, arguments @ ..] = argv else { return Err("an empty command line".into()) };
        for stale in [place::exit(&self.dir), place::program_pid(&self.dir), place::runc_log(&self.dir)] {
            let _ = std::fs::remove_file(stale);
        }
        self.gate = match birth {
            Birth::Restore { gate: true } => {
                Some(Gate::new(&self.dir).map_err(|error| format!("the gate can't be set up: {error}"))?)
            }
            Birth::Restore { gate: false } | Birth::Run => None,
        };
        let (out, err) = self.output.renew().map_err(|error| format!("no pipes for the program: {error}"))?;
        let mut command = Command::new(runc);
        command.args(arguments).stdin(Stdio::null()).stdout(out).stderr(err);
        if matches!(birth, Birth::Run) {
            children::in_new_time_namespace(&mut command);
        }
        let pid = self
            .clients
            .network(client)
            .and_then(|network| children::spawn(command, network))
            .map_err(|error| format!("{runc} can't be started: {error}"))?;
        self.program.early.clear();
        self.program.state = State::Starting(Runc { pid, client: Some(client), aborted: false });
        Ok(())
    }

    pub(super) fn open_gate(&mut self, client: ClientId) -> Result<(), String> {
        let (State::AtGate(runc), Some(gate)) = (self.program.state, &self.gate) else {
            return Err("nothing stands at the gate".into());
        };
        gate.open().map_err(|error| format!("the gate can't be opened: {error}"))?;
        self.program.state = State::Starting(Runc { client: Some(client), ..runc });
        Ok(())
    }

    pub(super) fn abort_gate(&mut self, client: ClientId) -> Result<(), String> {
        let (State::Starting(mut runc) | State::AtGate(mut runc), Some(_)) =
            (self.program.state, self.gate.take())
        else {
            return Err("no restore is under way".into());
        };
        if let Some(waiting) = runc.client.replace(client) {
            self.clients.reply(waiting, &failed("the restore was given up", String::new()));
        }
        runc.aborted = true;
        self.program.state = State::Starting(runc);
        Ok(())
    }

    /// runc has done its part: the program runs, or it never will.
    pub(super) fn runc_ended(&mut self, code: i32) {
        let (State::Starting(runc) | State::AtGate(runc)) = self.program.state else { return };
        self.gate = None;
        let born = (code == 0).then(|| program_pid(&self.dir)).flatten();
        let reply = match born {
            Some(pid) => {
                self.program.state = State::Running(pid);
                Reply::Started { pid: number(pid) }
            }
            None => {
                self.program.state = State::None;
                self.output.discard();
                self.tell_watchers(&failed("the program did not start", String::new()));
                match runc.aborted {
                    true => Reply::Done,
                    false => failed(&format!("runc ended with {code}"), error_tail(&self.dir)),
                }
            }
        };
        if let Some(client) = runc.client {
            self.clients.reply(client, &reply);
        }
        let early = self.program.early.iter().find(|(pid, _)| Some(*pid) == born).map(|(_, code)| *code);
        self.program.early.clear();
        if let Some(code) = early {
            self.program_ended(code);
        }
    }

    /// The log is complete and the exit file is there before anybody is told.
    pub(super) fn program_ended(&mut self, code: i32) {
        self.output.drain();
        if let Err(error) = write_exit(&self.dir, code) {
            note(&format!("the exit code {code} can't be written: {error}"));
        }
        self.program.state = State::Exited(code);
        self.tell_watchers(&Reply::Exited { code });
    }

    fn tell_watchers(&mut self, reply: &Reply) {
        for client in std::mem::take(&mut self.program.watchers) {
            self.clients.reply(client, reply);
        }
    }
}

/// A [`Reply::Failed`].
pub(super) fn failed(what: &str, stderr_tail: String) -> Reply {
    Reply::Failed { what: what.into(), stderr_tail }
}

fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().cast_unsigned()
}

fn program_pid(dir: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(place::program_pid(dir)).ok()?;
    Pid::from_raw(text.trim().parse().ok()?)
}

fn error_tail(dir: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(place::runc_log(dir))?;
        let start = file.metadata()?.len().saturating_sub(ERROR_TAIL_BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut tail = Vec::new();
        file.take(ERROR_TAIL_BYTES).read_to_end(&mut tail)?;
        Ok(tail)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).trim().to_owned()
}

fn write_exit(dir: &Path, code: i32) -> io::Result<()> {
    let path = place::exit(dir);
    let new = path.with_extension("new");
    std::fs::write(&new, serde_json::to_vec(&ExitFile { code }).map_err(io::Error::other)?)?;
    std::fs::rename(&new, &path)
}
