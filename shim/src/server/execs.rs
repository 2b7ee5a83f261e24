use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal};

use super::children;
use super::client::ClientId;

/// The `runc exec` that are at work. Each ends with the exit code of what it ran.
#[derive(Default)]
pub(super) struct Execs(BTreeMap<i32, Exec>);

struct Exec {
    id: u64,
    pid: Pid,
    client: ClientId,
}

impl Execs {
    pub(super) fn start(
        &mut self,
        client: ClientId,
        id: u64,
        argv: &[String],
        fds: Vec<OwnedFd>,
        network: OwnedFd,
    ) -> io::Result<()> {
        let [program, arguments @ ..] = argv else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an empty command line"));
        };
        let Ok([stdin, stdout, stderr]) = <[OwnedFd; 3]>::try_from(fds) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an exec needs three descriptors"));
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::from(stdout))
            .stderr(Stdio::from(stderr));
        let pid = children::spawn(command, network)?;
        self.0.insert(pid.as_raw_nonzero().get(), Exec { id, pid, client });
        Ok(())
    }

    /// runc passes signals on to what it runs.
    pub(super) fn signal(&self, id: u64, signal: Signal) -> Option<io::Result<()>> {
        let exec = self.0.values().find(|exec| exec.id == id)?;
        Some(rustix::process::kill_process(exec.pid, signal).map_err(Into::into))
    }

    pub(super) fn ended(&mut self, pid: Pid) -> Option<ClientId> {
        self.0.remove(&pid.as_raw_nonzero().get()).map(|exec| exec.client)
    }

    pub(super) fn hang_up(&self, client: ClientId) {
        for exec in self.0.values().filter(|exec| exec.client == client) {
            let _ = rustix::process::kill_process(exec.pid, Signal::HUP);
        }
    }
}
