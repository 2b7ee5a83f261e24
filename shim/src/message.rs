use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What a shim can be asked; every request has one [`Reply`], which may take as long as what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// How things stand: [`Reply::Status`].
    Status,
    /// Starts the program in a new time namespace by `runc run --detach`: [`Reply::Started`].
    Run {
        /// The whole command line of runc.
        argv: Vec<String>,
    },
    /// Restores the program by `runc restore --detach`: [`Reply::AtGate`] or, without a gate, [`Reply::Started`].
    Restore {
        /// The whole command line of runc.
        argv: Vec<String>,
        /// Whether CRIU's options name the gate as action script.
        gate: bool,
    },
    /// Lets the restored program run: [`Reply::Started`].
    OpenGate,
    /// Makes the restore fail: [`Reply::Done`] when runc has cleared up.
    AbortGate,
    /// Runs `runc exec` with the three descriptors that ride along as its standard streams: [`Reply::Exited`].
    Exec {
        /// Chosen by the client; names it in [`Request::Signal`].
        id: u64,
        /// The whole command line of runc.
        argv: Vec<String>,
    },
    /// Sends a signal to the program, or to an exec: [`Reply::Done`].
    Signal {
        /// The signal's number.
        signal: i32,
        /// The exec that is meant.
        exec: Option<u64>,
    },
    /// Keeps a duplicate of the descriptor that rides along, a session's socket or a listener: [`Reply::Done`].
    Hold {
        /// Its name; an older descriptor of the same name is let go.
        session: String,
    },
    /// Lets a descriptor go: [`Reply::Done`], also when there is none.
    Release {
        /// Its name.
        session: String,
    },
    /// Accepts what waits at a listener that is held, and holds it: [`Reply::Accepted`]. The shim does it so that no
    /// connection is ever in the hands of a process that may die alone.
    Accept {
        /// The listener's name.
        listener: String,
    },
    /// Asks for the file in which the sidecar notes what it knows of the held sessions: [`Reply::Table`].
    Table,
    /// Puts all held sockets into repair mode, so that nobody hears of their end: [`Reply::Done`].
    SilenceAll,
    /// Asks for duplicates of all held sockets: one or more [`Reply::Sockets`].
    TakeSockets,
    /// Writes everything to the log that the program's pipes hold: [`Reply::Done`].
    DrainPipes,
    /// Waits for the program's end: [`Reply::Exited`].
    WatchExit,
    /// Has the program of this path take the shim's place, in the same process: the connection ends when it is done. Not
    /// while runc is at work.
    Replace {
        /// The path of the program.
        program: String,
    },
    /// Ends the shim, if no program runs: [`Reply::Done`].
    Quit,
}

/// What a shim answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// How things stand.
    Status {
        /// The shim.
        shim_pid: u32,
        /// A process in the capsule's network namespace, whatever the program does: the shim.
        netns_pid: u32,
        /// The program.
        program: Program,
        /// Descriptors held.
        held: usize,
        /// The shim's version.
        #[serde(default)]
        version: String,
    },
    /// The program runs.
    Started {
        /// Its first process, as the host numbers it.
        pid: u32,
    },
    /// Restored, and standing at the gate.
    AtGate,
    /// The program or the exec ended.
    Exited {
        /// Its exit code, or 128 + the signal that ended it.
        code: i32,
    },
    /// It could not be done.
    Failed {
        /// What, and why.
        what: String,
        /// The end of what runc wrote.
        stderr_tail: String,
    },
    /// Sockets ride along in this order.
    Sockets {
        /// The names of their sessions.
        sessions: Vec<String>,
        /// Whether these are all that were left.
        last: bool,
    },
    /// The connections' sockets ride along in this order; none when nothing waits.
    Accepted {
        /// What they are held as.
        connections: Vec<Accepted>,
    },
    /// The file rides along. The shim never reads it.
    Table,
    /// It is done.
    Done,
}

/// A connection that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// What it is held as; never used again.
    pub name: String,
    /// The address that was dialled.
    pub local: SocketAddr,
    /// Who dialled.
    pub peer: SocketAddr,
}

/// The state of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// None was started.
    None,
    /// runc is at work.
    Starting,
    /// Restored, and standing at the gate.
    AtGate,
    /// It runs (or is paused).
    Running {
        /// Its first process, as the host numbers it.
        pid: u32,
    },
    /// It ended.
    Exited {
        /// Its exit code, or 128 + the signal that ended it.
        code: i32,
    },
}
