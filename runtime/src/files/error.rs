use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong with a capsule's files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// The system refused something on a path.
    #[error("cannot {action} {}: {source}; {}", path.display(), advice(source))]
    Io {
        /// What was tried, as a verb: "open", "list".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A process could not be looked into.
    #[error("cannot read {what} of process {pid}: {source}; {}", advice(source))]
    Process {
        /// The process.
        pid: u32,
        /// The part of `/proc/PID`.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A tree has more entries than a listing may have.
    #[error("{} has more than {max} files; put them on a volume with :shared, which does not move", path.display())]
    TooManyFiles {
        /// The tree.
        path: PathBuf,
        /// The bound.
        max: usize,
    },
    /// A name goes through something that is no directory.
    #[error("{} leads through {}, which is no directory; choose another destination", path.display(), component.display())]
    NotADirectory {
        /// The whole path.
        path: PathBuf,
        /// The component in the way.
        component: PathBuf,
    },
    /// A path has too many symlinks.
    #[error("{} goes through too many symlinks; choose another destination", path.display())]
    TooManySymlinks {
        /// The whole path.
        path: PathBuf,
    },
    /// A path that must be absolute and below the root is not.
    #[error("{} is no absolute path below the capsule's root; write it as /DIR/NAME", path.display())]
    BadDestination {
        /// The path.
        path: PathBuf,
    },
    /// What another host wants to be removed can't be the truth.
    #[error("the list of what to remove in {} is refused: {why}; check the other host", path.display())]
    BadRemovals {
        /// The private layer.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A volume holds the place it would be copied to.
    #[error("{} contains the private layer {}; name a smaller directory, or share it with :shared", source_path.display(), upper.display())]
    SourceContainsUpper {
        /// The volume's source.
        source_path: PathBuf,
        /// The private layer.
        upper: PathBuf,
    },
    /// A command failed.
    #[error("{command} on {} failed ({status}): {stderr}; see the message, and try again", path.display())]
    Command {
        /// Its name.
        command: &'static str,
        /// What it worked on.
        path: PathBuf,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The last lines it wrote.
        stderr: String,
    },
    /// A socket path or a command cannot be written into rsync's command line.
    #[error("{} cannot be passed to rsync; move the data directory to a path without control characters", path.display())]
    UnquotablePath {
        /// The path.
        path: PathBuf,
    },
}

impl FilesError {
    pub(crate) fn io(
        action: &'static str,
        path: impl AsRef<Path>,
        source: impl Into<io::Error>,
    ) -> FilesError {
        FilesError::Io { action, path: path.as_ref().to_path_buf(), source: source.into() }
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "the sidecar must run as root with its full set of capabilities",
        io::ErrorKind::NotFound => {
            "something removed it meanwhile; check that nobody works in the data directory"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on that file system",
        io::ErrorKind::ReadOnlyFilesystem => "put the data directory on a writable file system",
        io::ErrorKind::Unsupported => "use a file system with extended attributes (ext4, xfs, btrfs) for it",
        _ => "see the host's kernel log",
    }
}
