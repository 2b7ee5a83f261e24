//! The capsule's shim as the keeper of session sockets: they outlive this sidecar.
//!
//! A thread of its own talks to the shim, since each message waits for its answer.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc;

use anyhow::{Context, anyhow};
use tokio::sync::oneshot;

/// The listener of IPv4, as the shim knows it.
pub const LISTENER4: &str = "listener4";
/// The listener of IPv6, as the shim knows it.
pub const LISTENER6: &str = "listener6";
/// The resolver's socket for datagrams.
pub const RESOLVER_UDP: &str = "resolver-udp";
/// The resolver's listener.
pub const RESOLVER_TCP: &str = "resolver-tcp";
/// The TPROXY socket for datagrams of IPv4.
pub const DATAGRAMS4: &str = "datagrams4";
/// The TPROXY socket for datagrams of IPv6.
pub const DATAGRAMS6: &str = "datagrams6";
/// The sessions of a capsule that is arriving, as the source sent them.
pub const ARRIVING: &str = "arriving";

/// A connection that the shim accepted, and holds.
#[derive(Debug)]
pub struct Connection {
    /// What it is held as.
    pub name: String,
    /// Our descriptor.
    pub fd: OwnedFd,
    /// The address that the program dialled.
    pub local: SocketAddr,
    /// The program's own.
    pub peer: SocketAddr,
}

enum Job {
    Hold(String, OwnedFd, oneshot::Sender<anyhow::Result<()>>),
    Accept(String, oneshot::Sender<io::Result<Vec<Connection>>>),
    Release(String, Option<oneshot::Sender<()>>),
}

/// The way to the shim. Each session has at most two jobs under way, which bounds their number.
#[derive(Debug, Clone)]
pub struct Keeper(mpsc::Sender<Job>);

impl Keeper {
    /// Connects to a shim; returns the file in which the sidecar notes what it knows of the held sessions as well.
    ///
    /// # Errors
    /// The shim does not answer.
    pub fn start(socket: &Path) -> anyhow::Result<(Self, OwnedFd)> {
        let mut shim = shim::Client::connect(socket).context("connecting to the capsule's shim")?;
        let table = shim.table().context("asking the capsule's shim for its table")?;
        let (jobs, queued) = mpsc::channel();
        let work = move || {
            while let Ok(job) = queued.recv() {
                carry_out(&mut shim, job);
            }
        };
        std::thread::Builder::new().name("keeper".into()).spawn(work)?;
        Ok((Self(jobs), table))
    }

    /// Has the shim hold a duplicate; returns when it does.
    ///
    /// # Errors
    /// It does not: what depends on this descriptor would not outlive the sidecar.
    pub async fn hold(&self, name: &str, fd: BorrowedFd<'_>) -> anyhow::Result<()> {
        self.begin_hold(name, fd)?.await
    }

    /// As [`Self::hold`], for many at once: the shim is asked now, and its answer is what is returned.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn begin_hold(
        &self,
        name: &str,
        fd: BorrowedFd<'_>,
    ) -> io::Result<impl Future<Output = anyhow::Result<()>> + Send + use<>> {
        let (held, answer) = oneshot::channel();
        let _ = self.0.send(Job::Hold(name.to_owned(), fd.try_clone_to_owned()?, held));
        Ok(async move { answer.await.map_err(|_| anyhow!("the capsule's shim has gone"))? })
    }

    /// Lets a descriptor go, soon.
    pub fn release(&self, name: String) {
        let _ = self.0.send(Job::Release(name, None));
    }

    /// Lets a descriptor go; returns when the shim has it no more, or has gone itself.
    pub async fn released(&self, name: String) {
        let (released, answer) = oneshot::channel();
        let _ = self.0.send(Job::Release(name, Some(released)));
        let _ = answer.await;
    }

    /// What waits at a listener.
    ///
    /// # Errors
    /// The shim does not answer, or can't accept.
    pub async fn accept(&self, listener: &str) -> io::Result<Vec<Connection>> {
        let (accepted, answer) = oneshot::channel();
        let _ = self.0.send(Job::Accept(listener.to_owned(), accepted));
        answer.await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?
    }
}

fn carry_out(shim: &mut shim::Client, job: Job) {
    match job {
        Job::Hold(session, fd, held) => {
            let done = shim.ask(&shim::Request::Hold { session }, &[fd.as_fd()]);
            let _ = held.send(done.map(drop).map_err(anyhow::Error::from));
        }
        Job::Accept(listener, accepted) => {
            let connections = shim.accept(&listener).map_err(io::Error::other).map(|connections| {
                let with_fd = |(one, fd): (shim::Accepted, OwnedFd)| Connection {
                    name: one.name,
                    fd,
                    local: one.local,
                    peer: one.peer,
                };
                connections.into_iter().map(with_fd).collect()
            });
            let _ = accepted.send(connections);
        }
        Job::Release(session, released) => {
            if let Err(error) = shim.ask(&shim::Request::Release { session }, &[]) {
                tracing::debug!(%error, "the shim does not let go");
            }
            if let Some(released) = released {
                let _ = released.send(());
            }
        }
    }
}
