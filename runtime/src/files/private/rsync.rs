//! The rsync command lines of both sides.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use rustix::fs::MemfdFlags;

use super::{CONNECT_MODE, Listing, Round};
use crate::files::FilesError;

/// What the sender is told. `--ignore-times` sends the content of every named file, by its differences: which
/// files those are was decided by the listing. `--modify-window=-1` lets rsync see nanoseconds: it would not set
/// back a directory's time that was moved within the second by the files put into it. `-XX` takes attributes named
/// `user.rsync.%…` along as well. The filters leave out `trusted.overlay.origin`, a file handle into the source's
/// base which at a host with a base of the same file system id (a cloned machine) could name another file; a filter
/// of attributes replaces rsync's own, so `system.*` (access lists go by `-A`) is named again; `s` keeps them from
/// being sent.
const SENDER_FLAGS: [&str; 12] = [
    "-lptgoDHAXXS",
    "--dirs",
    "--relative",
    "--numeric-ids",
    "--devices",
    "--specials",
    "--ignore-times",
    "--modify-window=-1",
    "--force",
    "--no-s",
    "--filter=-xs trusted.overlay.origin",
    "--filter=-xs system.*",
];

/// What such a sender expects of the other side: the letters of its flags, then after `e.` what rsync 3.2 and
/// later understand, without `i`: all names are sent before the first file, which hard links need.
const RECEIVER_FLAGS: [&str; 5] =
    ["--server", "-ldHogDtpAXXIRSe.LsfxCIvu", "--modify-window=-1", "--force", "--numeric-ids"];

/// Stands for the root of the layer in a list that has nothing else: the root's own name would mean all files in it.
/// Whether there is such a file or not, naming it does no harm.
const NO_FILE: &str = ".no-file";

/// Lets files be missing that were named.
const MAY_BE_MISSING: &str = "--ignore-missing-args";

/// Whether the capsule's programs run during a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// They do: files may vanish or change under rsync.
    Running,
    /// They don't.
    Frozen,
}

/// How a round's rsync ended, for [`super::Rounds::note`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The target has everything.
    Complete,
    /// Files changed under rsync's hands: the next round names them again.
    Incomplete,
}

/// The rsync of the source. It starts `connector` with [`CONNECT_MODE`] and the socket's path, and sends what `round`
/// names, or all of `upper`. In a round that is [`Pace::Frozen`] a file that is missing is an error. Its standard
/// input is taken; its standard error, which the caller reads, is a pipe.
pub fn rsync_sender(
    upper: &Path,
    connector: &Path,
    socket: &Path,
    round: Option<&Round>,
    pace: Pace,
) -> Result<Command, FilesError> {
    let all;
    let paths = match round {
        Some(round) => round.paths(),
        None => {
            all = Listing::of(upper)?.paths();
            &all
        }
    };
    // rsync sends the root before all that is named below it.
    let mut names: Vec<&Path> =
        paths.iter().map(PathBuf::as_path).filter(|path| *path != Path::new(".")).collect();
    let root_alone = names.is_empty();
    if root_alone {
        names.push(Path::new(NO_FILE));
    }
    let names = names_file(&names).map_err(|e| FilesError::io("write the list of names of", upper, e))?;
    let mut shell = quoted(connector)?;
    shell.push(" ");
    shell.push(CONNECT_MODE);
    shell.push(" ");
    shell.push(quoted(socket)?);

    let mut command = rsync();
    command.args(SENDER_FLAGS);
    if root_alone || pace == Pace::Running {
        command.arg(MAY_BE_MISSING);
    }
    command.args(["--from0", "--files-from=-", "-e"]).arg(shell);
    command.args([".", "peer:."]).current_dir(upper).stdin(names).stdout(Stdio::null());
    Ok(command)
}

/// The rsync of the target, which writes into `directory` what [`rsync_sender`] sends. Standard input and output
/// are pipes to be joined with the other host. Nothing of it comes from the other host.
pub fn rsync_receiver(directory: &Path) -> Command {
    let mut command = rsync();
    command.args(RECEIVER_FLAGS).args([".", "."]).current_dir(directory);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// What the end of either side's rsync means.
///
/// # Errors
/// The round failed, and what the target's directory holds is to be thrown away.
pub fn ended(status: ExitStatus, stderr: &str, upper: &Path, pace: Pace) -> Result<Ended, FilesError> {
    match (status.code(), pace) {
        // 24: files vanished after they were listed (rsync(1), EXIT VALUES); the next listing says so too.
        (Some(0), _) | (Some(24), Pace::Running) => Ok(Ended::Complete),
        // 23: some could not be sent, for one because they changed while they were read. Which is not said.
        (Some(23), Pace::Running) => Ok(Ended::Incomplete),
        _ => {
            let path = upper.to_path_buf();
            Err(FilesError::Command { command: "rsync", path, status, stderr: tail(stderr) })
        }
    }
}

fn rsync() -> Command {
    let mut command = Command::new("rsync");
    // rsync takes settings that change the protocol from RSYNC_* and from aliases in $HOME/.popt.
    let path = std::env::var_os("PATH");
    command.env_clear().env("LC_ALL", "C").stderr(Stdio::piped());
    command.env("PATH", path.unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()));
    command
}

fn names_file(paths: &[&Path]) -> std::io::Result<File> {
    let mut bytes = Vec::new();
    for path in paths {
        // A name that starts with '#' or ';' would be a comment. The "./" makes rsync send the root as well, even if
        // nothing that is named is there.
        bytes.extend_from_slice(b"./");
        bytes.extend_from_slice(path.as_os_str().as_bytes());
        bytes.push(0);
    }
    let mut file = File::from(rustix::fs::memfd_create("rsync-names", MemfdFlags::CLOEXEC)?);
    file.write_all(&bytes)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// A word as rsync splits the command of `-e`: in quotes, a quote in it doubled.
fn quoted(path: &Path) -> Result<OsString, FilesError> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() || bytes.iter().any(u8::is_ascii_control) {
        return Err(FilesError::UnquotablePath { path: path.to_path_buf() });
    }
    let mut word = vec![b'\''];
    for byte in bytes {
        word.push(*byte);
        if *byte == b'\'' {
            word.push(b'\'');
        }
    }
    word.push(b'\'');
    Ok(OsString::from_vec(word))
}

fn tail(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join(" | ")
}
