use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong with a capsule's bundle, root and runtime.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The system refused something on a path.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: "mount", "write".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory's path has characters that mount options or CRIU's options cannot carry.
    #[error("{} can't be used: keep to letters, digits and _ - + . @ % / in the paths of directories", path.display())]
    BadPath {
        /// The path.
        path: PathBuf,
    },
    /// The capsule's files could not be prepared.
    #[error(transparent)]
    Files(#[from] crate::files::FilesError),
    /// There is no such user in the capsule's root.
    #[error("there is no {kind} {name:?} in the capsule's root; name one from its /etc, or a number")]
    UnknownUser {
        /// "user" or "group".
        kind: &'static str,
        /// What was asked for.
        name: String,
    },
    /// A command of runc failed.
    #[error("runc {verb} failed: {}", tail.trim())]
    Runc {
        /// The verb.
        verb: &'static str,
        /// The end of what it and CRIU had to say.
        tail: String,
    },
    /// A command did not end in time, and was ended.
    #[error("runc {verb} did not end within {seconds} s")]
    TimedOut {
        /// The verb.
        verb: &'static str,
        /// The time it had.
        seconds: u64,
    },
    /// The processes of a capsule did not all stop in time.
    #[error("the processes in the cgroup {cgroup} did not {state} within {millis} ms")]
    Freezer {
        /// The cgroup.
        cgroup: String,
        /// "freeze" or "thaw".
        state: &'static str,
        /// The time they had.
        millis: u64,
    },
    /// A process is in the middle of starting a program, and stays there.
    #[error(
        "process {pid} of the host has been starting a program for {millis} ms (vfork), and can't be saved before that runs; try again"
    )]
    StartsProgram {
        /// The process, as the host numbers it.
        pid: u32,
        /// How long it had.
        millis: u64,
    },
    /// This machine has no cgroup controller that can freeze.
    #[error("this machine has no cgroup freezer; mount cgroup v2, or the freezer controller of v1")]
    NoFreezer,
}

impl RuntimeError {
    pub(crate) fn io(
        action: &'static str,
        path: impl AsRef<Path>,
        source: impl Into<io::Error>,
    ) -> RuntimeError {
        RuntimeError::Io { action, path: path.as_ref().to_owned(), source: source.into() }
    }
}
