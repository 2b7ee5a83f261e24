//! From a command somebody ran to a process of its own, in a network namespace of its own.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, bail};
use rustix::fs::FlockOperation;
use rustix::pipe::PipeFlags;
use rustix::process::{Resource, Rlimit};
use rustix::thread::UnshareFlags;
use shim::place;

use crate::server::Server;

/// So that the shim goes after what it serves: without it the capsule's sessions are gone.
const OOM_SCORE: &str = "-900";
const READY: &[u8] = b"ready";

/// Starts the shim; returns when it serves, or with the reason why it does not.
pub(crate) fn start(dir: &Path, id: &str) -> anyhow::Result<()> {
    let dir = crate::directory(dir)?;
    let (mut told, tell) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map(|(r, w)| (File::from(r), w))?;
    if fork()? == Side::Parent {
        drop(tell);
        let mut said = Vec::new();
        told.read_to_end(&mut said)?;
        if said == READY {
            return Ok(());
        }
        bail!("{}", String::from_utf8_lossy(&said));
    }
    drop(told);
    // Whoever called must not be the parent, nor share a terminal.
    rustix::process::setsid()?;
    if fork()? == Side::Parent {
        std::process::exit(0);
    }
    serve(&dir, id, tell);
}

fn serve(dir: &Path, id: &str, tell: OwnedFd) -> ! {
    let mut tell = Some(tell);
    let ended = prepare(dir).and_then(|locked| {
        let server = Server::bind(dir, id, locked)?;
        if let Some(tell) = tell.take() {
            File::from(tell).write_all(READY)?;
        }
        note(&format!("shim of capsule {id} serves as process {}", std::process::id()));
        server.serve()
    });
    match (ended, tell) {
        (Ok(()), _) => std::process::exit(0),
        (Err(error), Some(tell)) => {
            let _ = File::from(tell).write_all(format!("{error:#}").as_bytes());
            std::process::exit(1)
        }
        (Err(error), None) => {
            note(&format!("ended: {error:#}"));
            std::process::exit(1)
        }
    }
}

/// Goes on in the place of an earlier shim, in its process.
pub(crate) fn resume(estate: &str) -> anyhow::Result<()> {
    let estate = crate::server::replace::estate(estate)?;
    let id = estate.id.clone();
    let server = Server::resume(estate)?;
    note(&format!("shim {} of capsule {id} goes on as process {}", shim::VERSION, std::process::id()));
    server.serve()
}

/// Everything that the shim is, beside what it serves. Returns the file whose lock says that it lives.
fn prepare(dir: &Path) -> anyhow::Result<File> {
    let locked = lock(dir)?;
    std::env::set_current_dir("/")?;
    detach_streams(dir)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let files = rustix::process::getrlimit(Resource::Nofile);
    let all = Rlimit { current: files.maximum, maximum: files.maximum };
    rustix::process::setrlimit(Resource::Nofile, all).context("raising the limit of open files")?;
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    // SAFETY: the process has one thread, and file descriptor tables are not unshared.
    #[allow(unsafe_code, reason = "a system call that std lacks")]
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.context("making a network namespace")?;
    Ok(locked)
}

/// One shim for a directory.
fn lock(dir: &Path) -> anyhow::Result<File> {
    let path = place::pid(dir);
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("a shim serves {} already", dir.display());
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

fn detach_streams(dir: &Path) -> anyhow::Result<()> {
    let null = File::open("/dev/null")?;
    let diary = OpenOptions::new().append(true).create(true).mode(0o600).open(place::diary(dir))?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&diary)?;
    rustix::stdio::dup2_stderr(&diary)?;
    Ok(())
}

/// Writes a line to the shim's diary.
pub(crate) fn note(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

#[derive(PartialEq, Eq)]
enum Side {
    Parent,
    Child,
}

fn fork() -> anyhow::Result<Side> {
    // SAFETY: the process has one thread, so the child may go on as the parent would have.
    #[allow(unsafe_code, reason = "std has no fork")]
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()).context("forking"),
        0 => Ok(Side::Child),
        _ => Ok(Side::Parent),
    }
}
