//! The shim's place taken by another program: a new version of it, in the same process.
//!
//! `exec` keeps the process, its children, its namespaces and the descriptors that are told to stay. What they are is
//! written into a file in memory, whose descriptor is on the new program's command line.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use anyhow::{Context, ensure};
use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;
use serde::{Deserialize, Serialize};

use super::client::Clients;
use super::execs::Execs;
use super::held::Held;
use super::output::Output;
use super::program::Program;
use super::{Server, children};
use crate::start::note;

/// Version of [`Estate`] that is written.
const VERSION: u32 = 1;

/// The word on the command line before the descriptor of the file.
pub(crate) const RESUME: &CStr = c"--resume";

/// What the next program gets. Descriptors are numbers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Estate {
    version: u32,
    pub(crate) dir: PathBuf,
    pub(crate) id: String,
    /// The file whose lock says that the shim lives.
    locked: RawFd,
    listener: RawFd,
    out: Option<RawFd>,
    err: Option<RawFd>,
    table: RawFd,
    accepted: u64,
    held: BTreeMap<String, RawFd>,
    program: shim::Program,
}

impl Server {
    /// Gives everything to another program. Returns only when that failed, and says why.
    pub(super) fn replace(&mut self, program: &str) -> String {
        if self.program.is_being_born() {
            return "runc is at work".into();
        }
        let (held, accepted, table) = self.held.parts();
        let (out, err) = self.output.ends();
        let estate = Estate {
            version: VERSION,
            dir: self.dir.clone(),
            id: self.id.clone(),
            locked: self.locked.as_raw_fd(),
            listener: self.listener.as_raw_fd(),
            out: out.map(|fd| fd.as_raw_fd()),
            err: err.map(|fd| fd.as_raw_fd()),
            table: table.as_raw_fd(),
            accepted,
            held: held.iter().map(|(name, fd)| (name.clone(), fd.as_raw_fd())).collect(),
            program: self.program.view(),
        };
        let mut staying = vec![self.locked.as_fd(), self.listener.as_fd(), table];
        staying.extend(out.into_iter().chain(err));
        staying.extend(held.values().map(AsFd::as_fd));
        let error = give(&estate, &staying, program);
        for fd in staying {
            let _ = rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC);
        }
        format!("{program} can't take over: {error}")
    }

    /// Takes what [`Server::replace`] gave.
    ///
    /// # Errors
    /// The estate is not one of this version, or the kernel refuses a part.
    pub(crate) fn resume(estate: Estate) -> anyhow::Result<Server> {
        ensure!(estate.version == VERSION, "an estate of version {}", estate.version);
        let held = estate.held.into_iter().map(|(name, fd)| Ok((name, inherited(fd)?)));
        let held = held.collect::<io::Result<BTreeMap<_, _>>>().context("what is held")?;
        let out = estate.out.map(inherited).transpose()?;
        let err = estate.err.map(inherited).transpose()?;
        let mut server = Server {
            held: Held::resume(held, estate.accepted, inherited(estate.table)?),
            output: Output::resume(&estate.dir, out, err).context("opening the log")?,
            program: Program::resume(estate.program),
            listener: inherited(estate.listener)?,
            locked: File::from(inherited(estate.locked)?),
            signals: children::watch().context("watching for children")?,
            clients: Clients::default(),
            gate: None,
            execs: Execs::default(),
            quit: false,
            id: estate.id,
            dir: estate.dir,
        };
        // Children may have ended in between, without a further signal.
        server.reap();
        Ok(server)
    }
}

/// Reads the file that the earlier program left.
///
/// # Errors
/// It is none.
pub(crate) fn estate(fd: &str) -> anyhow::Result<Estate> {
    let mut file = File::from(inherited(fd.parse()?)?);
    file.seek(SeekFrom::Start(0))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    serde_json::from_slice(&text).context("the estate can't be read")
}

fn give(estate: &Estate, staying: &[BorrowedFd<'_>], program: &str) -> io::Error {
    let attempt = || -> io::Result<io::Error> {
        let mut file = File::from(rustix::fs::memfd_create("estate", MemfdFlags::empty())?);
        file.write_all(&serde_json::to_vec(estate).map_err(io::Error::other)?)?;
        for fd in staying {
            rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
        }
        let path = CString::new(program).map_err(io::Error::other)?;
        let fd = CString::new(file.as_raw_fd().to_string()).map_err(io::Error::other)?;
        // What the estate says too is for people who look at the processes.
        let dir = CString::new(estate.dir.as_os_str().as_encoded_bytes()).map_err(io::Error::other)?;
        let id = CString::new(estate.id.as_str()).map_err(io::Error::other)?;
        let words: [&CStr; 7] = [&path, c"--dir", &dir, c"--id", &id, RESUME, &fd];
        let mut arguments: Vec<_> = words.iter().map(|word| word.as_ptr()).collect();
        arguments.push(std::ptr::null());
        let environment = [std::ptr::null()];
        note(&format!("{program} takes over"));
        // SAFETY: the strings outlive the call, the lists end with null; it returns only on failure.
        #[allow(unsafe_code, reason = "std's exec would unblock the signals that are waited for")]
        unsafe {
            libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr())
        };
        Ok(io::Error::last_os_error())
    };
    attempt().unwrap_or_else(|error| error)
}

/// A descriptor that came with `exec`.
fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the estate names each descriptor once, and they were left open for this program.
    #[allow(unsafe_code, reason = "descriptors of another program come as numbers")]
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}
