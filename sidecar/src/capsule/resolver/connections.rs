//! Lookups by TCP. While the capsule stands still its connections to the resolver are parked between two bytes, and where
//! it goes they are built up again, with what was asked in them and not answered.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use kernel::repair::{self, TcpSnapshot};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answering::{Upstreams, answer};
use super::exchange::Transport;
use super::lookups::Lookups;
use crate::limits::{LOOKUP_CONNECTION_BYTES, LOOKUP_CONNECTIONS_CARRIED, LOOKUPS_PARKED};

/// Time without a query after which a connection is closed.
const IDLE: Duration = Duration::from_secs(10);

/// Pause after the kernel gave no connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// The connections of a capsule to its resolver.
#[derive(Debug)]
pub(super) struct Connections {
    state: Mutex<State>,
    released: Notify,
    /// Those who may have a connection that is not parked.
    busy: TaskTracker,
}

#[derive(Debug)]
struct State {
    /// Cancelled while the capsule stands still.
    going: CancellationToken,
    parked: Vec<Connection>,
    /// The listener once more, for what lies in it when all is parked.
    listener: Option<std::net::TcpListener>,
}

/// One connection between two bytes.
#[derive(Debug)]
struct Connection {
    socket: std::net::TcpStream,
    pending: Pending,
    repair: Repair,
}

/// What the kernel has been told of a parked connection.
#[derive(Debug)]
enum Repair {
    /// Nothing: it is open.
    Off,
    /// It is captured.
    Captured,
    /// It was built up here, and has not begun to go on.
    Arrived(Box<TcpSnapshot>),
}

/// What of a connection no kernel has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Pending {
    /// Read and not answered.
    asked: Vec<u8>,
    /// Answered and not written.
    unsent: Vec<u8>,
}

/// A connection on its way to another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ConnectionImage {
    tcp: TcpSnapshot,
    pending: Pending,
}

impl Connections {
    /// Held from the beginning, or not.
    pub(super) fn new(held: bool) -> Self {
        let going = CancellationToken::new();
        if held {
            going.cancel();
        }
        let state = State { going, parked: Vec::new(), listener: None };
        Self { state: Mutex::new(state), released: Notify::new(), busy: TaskTracker::new() }
    }

    /// Where they come from.
    pub(super) fn serve_at(&self, listener: &TcpListener) -> std::io::Result<()> {
        self.state().listener = Some(listener.as_fd().try_clone_to_owned()?.into());
        Ok(())
    }

    /// From here on nothing is read or written.
    pub(super) fn hold(&self) {
        self.state().going.cancel();
    }

    /// Goes on; must be called in the capsule's network, whose lock is off.
    pub(super) fn release(&self) {
        let mut state = self.state();
        for connection in &mut state.parked {
            let fd = connection.socket.as_fd();
            let again = match std::mem::replace(&mut connection.repair, Repair::Off) {
                Repair::Off => Ok(()),
                Repair::Captured => repair::resume(fd).map_err(anyhow::Error::from),
                Repair::Arrived(tcp) => repair::activate(fd, &tcp).map_err(anyhow::Error::from),
            };
            if let Err(error) = again {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "a connection to the resolver was not brought back"
                );
            }
        }
        state.going = CancellationToken::new();
        drop(state);
        self.released.notify_one();
    }

    /// Those of a capsule whose programs are frozen and whose network is locked. They are silent from here on.
    pub(super) async fn capture(&self) -> Vec<ConnectionImage> {
        self.busy.close();
        if tokio::time::timeout(LOOKUPS_PARKED, self.busy.wait()).await.is_err() {
            tracing::warn!("a connection to the resolver stays behind: it is not parked in time");
        }
        self.busy.reopen();
        let mut state = self.state();
        let waiting: Vec<_> = state
            .listener
            .iter()
            .flat_map(|listener| std::iter::from_fn(|| listener.accept().ok()))
            .collect();
        for (socket, _) in waiting {
            if socket.set_nonblocking(true).is_ok() {
                state.parked.push(Connection { socket, pending: Pending::default(), repair: Repair::Off });
            }
        }
        let images = state.parked.iter_mut().filter_map(Connection::capture);
        images.take(LOOKUP_CONNECTIONS_CARRIED).collect()
    }

    /// Builds those up that came along; must be called in the capsule's network, which is locked.
    pub(super) fn arrive(&self, images: Vec<ConnectionImage>) {
        for ConnectionImage { tcp, pending } in images.into_iter().take(LOOKUP_CONNECTIONS_CARRIED) {
            match rebuild(&tcp) {
                Ok(socket) => {
                    let repair = Repair::Arrived(Box::new(tcp));
                    self.state().parked.push(Connection { socket, pending, repair });
                }
                // A program that asked waits for its own time-out, and asks again.
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "a connection to the resolver was not built up again"
                    );
                }
            }
        }
    }

    /// The capsule goes on elsewhere.
    pub(super) fn forget(&self) {
        self.state().parked.clear();
    }

    fn going(&self) -> CancellationToken {
        self.state().going.clone()
    }

    /// Keeps a connection for as long as the capsule stands still; gives it back if it does not any more.
    fn park(&self, connection: Connection) -> Result<(), Connection> {
        let mut state = self.state();
        if !state.going.is_cancelled() {
            return Err(connection);
        }
        state.parked.push(connection);
        Ok(())
    }

    /// Waits until the capsule goes on, and gives out what was parked.
    async fn released(&self) -> Vec<Connection> {
        loop {
            {
                let mut state = self.state();
                if !state.going.is_cancelled() {
                    return std::mem::take(&mut state.parked);
                }
            }
            self.released.notified().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panics under this lock")
    }
}

impl Connection {
    /// `None` if it is over, or has more in it than lookups have: it stays behind.
    fn capture(&mut self) -> Option<ConnectionImage> {
        let tcp = repair::capture(self.socket.as_fd()).ok()?;
        self.repair = Repair::Captured;
        let Pending { asked, unsent } = &self.pending;
        let bytes = tcp.received().len() + tcp.send_queue().len() + asked.len() + unsent.len();
        (bytes <= LOOKUP_CONNECTION_BYTES).then(|| ConnectionImage { tcp, pending: self.pending.clone() })
    }
}

fn rebuild(tcp: &TcpSnapshot) -> anyhow::Result<std::net::TcpStream> {
    let socket = std::net::TcpStream::from(repair::rebuild(tcp)?);
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Takes connections and answers what is asked in them; on the data plane's runtime.
pub(super) async fn serve(
    listener: TcpListener,
    upstreams: Arc<Upstreams>,
    slots: Arc<Semaphore>,
    lookups: Arc<Lookups>,
) {
    let connections = lookups.connections();
    let begin = |stream: TcpStream, pending: Pending| {
        if let Ok(slot) = slots.clone().try_acquire_owned() {
            connections.busy.spawn(converse(stream, pending, upstreams.clone(), lookups.clone(), slot));
        }
    };
    loop {
        for Connection { socket, pending, .. } in connections.released().await {
            match TcpStream::from_std(socket) {
                Ok(stream) => begin(stream, pending),
                Err(error) => tracing::warn!(%error, "a connection to the resolver is closed"),
            }
        }
        // Whoever waits for all to be parked waits for this one too.
        let _accepting = connections.busy.token();
        match connections.going().run_until_cancelled(listener.accept()).await {
            Some(Ok((stream, _))) => begin(stream, Pending::default()),
            Some(Err(_)) => tokio::time::sleep(ACCEPT_PAUSE).await,
            None => {}
        }
    }
}

/// Answers what is asked in one connection, until it is over or parked.
async fn converse(
    mut stream: TcpStream,
    mut pending: Pending,
    upstreams: Arc<Upstreams>,
    lookups: Arc<Lookups>,
    _slot: OwnedSemaphorePermit,
) {
    let connections = lookups.connections();
    loop {
        let going = connections.going();
        if going.run_until_cancelled(pending.answer_all(&mut stream, &upstreams)).await.is_some() {
            return;
        }
        let Ok(socket) = stream.into_std() else { return };
        let Err(back) = connections.park(Connection { socket, pending, repair: Repair::Off }) else { return };
        let Ok(again) = TcpStream::from_std(back.socket) else { return };
        (stream, pending) = (again, back.pending);
    }
}

impl Pending {
    /// Returns when the connection is over. Whenever it is dropped, what it holds is all that no kernel has.
    async fn answer_all(&mut self, stream: &mut TcpStream, upstreams: &Upstreams) {
        loop {
            while !self.unsent.is_empty() {
                let Ok(count @ 1..) = stream.write(&self.unsent).await else { return };
                self.unsent.drain(..count);
            }
            if let Some(query) = self.query() {
                let Some(answer) = answer(upstreams, query, Transport::Tcp).await else { return };
                let Ok(length) = u16::try_from(answer.len()) else { return };
                self.asked.drain(..2 + query_bytes(&self.asked));
                self.unsent = [&length.to_be_bytes(), answer.as_slice()].concat();
                continue;
            }
            let Ok(Ok(1..)) = tokio::time::timeout(IDLE, stream.read_buf(&mut self.asked)).await else {
                return;
            };
        }
    }

    /// The first query that is there whole.
    fn query(&self) -> Option<&[u8]> {
        self.asked.get(2..2 + query_bytes(&self.asked))
    }
}

/// How long the first query is, as far as that was read (RFC 1035, 4.2.2).
fn query_bytes(asked: &[u8]) -> usize {
    asked.first_chunk().map_or(usize::from(u16::MAX), |length| usize::from(u16::from_be_bytes(*length)))
}
