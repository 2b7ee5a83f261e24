//! Lookups that are under way; here those by datagram. While the capsule stands still they are kept, and they go along where it
//! goes: no image has what waits in a UDP socket, and who asked would ask again only after five seconds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Notify;

use super::DATAGRAM_BYTES;
use super::connections::{ConnectionImage, Connections};
use crate::limits::{LOOKUP_CARRIED_BYTES, LOOKUPS_CARRIED, LOOKUPS_UNDER_WAY};

/// A query, and who waits for its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    /// The program's end.
    pub from: SocketAddr,
    /// What it asks.
    pub query: Vec<u8>,
}

/// Lookups on their way to another host.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Travelling {
    datagrams: Vec<Lookup>,
    connections: Vec<ConnectionImage>,
}

/// The lookups of a capsule.
#[derive(Debug)]
pub struct Lookups {
    state: Mutex<State>,
    released: Notify,
    connections: Connections,
}

#[derive(Debug)]
struct State {
    held: bool,
    next: u64,
    /// With whether somebody is finding the answer.
    under_way: BTreeMap<u64, (Lookup, bool)>,
    socket: Option<Arc<UdpSocket>>,
}

impl Lookups {
    /// Held from the beginning, as those of an arriving capsule are, or not.
    pub fn new(held: bool) -> Self {
        let state = State { held, next: 0, under_way: BTreeMap::new(), socket: None };
        Self { state: Mutex::new(state), released: Notify::new(), connections: Connections::new(held) }
    }

    /// Where queries come and answers go.
    pub(super) fn serve_at(&self, socket: Arc<UdpSocket>, listener: &TcpListener) -> std::io::Result<()> {
        self.state().socket = Some(socket);
        self.connections.serve_at(listener)
    }

    /// Those by stream.
    pub(super) fn connections(&self) -> &Connections {
        &self.connections
    }

    /// From here on nobody is answered.
    pub fn hold(&self) {
        self.state().held = true;
        self.connections.hold();
    }

    /// Goes on with those that were kept; must be called in the capsule's network, whose lock is off.
    pub fn release(&self) {
        self.state().held = false;
        self.released.notify_one();
        self.connections.release();
    }

    /// Those that wait for an answer, of a capsule whose programs are frozen and whose network is locked.
    pub async fn capture(&self) -> Travelling {
        Travelling { datagrams: self.unanswered(), connections: self.connections.capture().await }
    }

    fn unanswered(&self) -> Vec<Lookup> {
        let mut state = self.state();
        let mut buffer = vec![0; DATAGRAM_BYTES];
        while let Some((count, from)) = state.socket.as_deref().and_then(|socket| unread(socket, &mut buffer))
        {
            state.keep(Lookup { from, query: buffer[..count].to_vec() }, false);
        }
        let lookups = state.under_way.values().map(|(lookup, _)| lookup);
        lookups
            .filter(|lookup| lookup.query.len() <= LOOKUP_CARRIED_BYTES)
            .take(LOOKUPS_CARRIED)
            .cloned()
            .collect()
    }

    /// Takes those that came along with the capsule, to be answered when it is released; must be called in its network,
    /// which is locked.
    pub fn arrive(&self, lookups: Travelling) {
        let mut state = self.state();
        for lookup in lookups.datagrams.into_iter().take(LOOKUPS_CARRIED) {
            state.keep(lookup, false);
        }
        drop(state);
        self.connections.arrive(lookups.connections);
    }

    /// The capsule goes on elsewhere: nothing of them stays here.
    pub fn forget(&self) {
        self.connections.forget();
    }

    /// Notes a query; gives its number if it is to be answered at once.
    pub(super) fn begin(&self, lookup: Lookup) -> Option<u64> {
        let mut state = self.state();
        let asked = !state.held;
        let number = state.keep(lookup, asked)?;
        asked.then_some(number)
    }

    /// Gives out an answer, unless nobody is answered; `None` is for a query that gets none.
    pub(super) fn end(&self, number: u64, answer: Option<&[u8]>) {
        let mut state = self.state();
        if state.held {
            if let Some((_, asked)) = state.under_way.get_mut(&number) {
                *asked = false;
            }
            return;
        }
        // Under the lock: who holds lookups may count on it that no answer comes any more.
        if let Some((lookup, _)) = state.under_way.remove(&number)
            && let (Some(answer), Some(socket)) = (answer, &state.socket)
        {
            // Not as the runtime sees it, which may not have noticed yet that there is room.
            let flags = rustix::net::SendFlags::DONTWAIT;
            let _ = rustix::net::sendto(socket, answer, flags, &lookup.from);
        }
    }

    /// Waits until kept ones are released, and gives them out with their numbers.
    pub(super) async fn released(&self) -> Vec<(u64, Lookup)> {
        self.released.notified().await;
        let mut state = self.state();
        if state.held {
            return Vec::new();
        }
        let kept = state.under_way.iter_mut().filter(|(_, (_, asked))| !asked);
        kept.map(|(number, (lookup, asked))| {
            *asked = true;
            (*number, lookup.clone())
        })
        .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panics under this lock")
    }
}

impl State {
    fn keep(&mut self, lookup: Lookup, asked: bool) -> Option<u64> {
        if self.under_way.len() >= LOOKUPS_UNDER_WAY {
            return None;
        }
        self.next += 1;
        self.under_way.insert(self.next, (lookup, asked));
        Some(self.next)
    }
}

/// What lies in the socket, whether or not the runtime has noticed.
fn unread(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    let flags = rustix::net::RecvFlags::DONTWAIT;
    let (count, _, from) = rustix::net::recvfrom(socket, buffer, flags).ok()?;
    Some((count, from?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket as Std;

    use super::*;

    #[tokio::test]
    async fn what_was_asked_in_a_freeze_is_answered_elsewhere() {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let client = Std::bind("127.0.0.1:0").unwrap();
        client.set_nonblocking(true).unwrap();
        let from = client.local_addr().unwrap();
        let source = Lookups::new(false);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        source.serve_at(socket.clone(), &listener).unwrap();
        let early = Lookup { from, query: b"early".to_vec() };
        let number = source.begin(early.clone()).unwrap();
        source.hold();
        source.end(number, Some(b"never sent"));
        assert_eq!(source.begin(Lookup { from, query: b"held".to_vec() }), None);
        client.send_to(b"unread", socket.local_addr().unwrap()).unwrap();
        let carried = source.capture().await;
        let queries: Vec<&[u8]> = carried.datagrams.iter().map(|lookup| lookup.query.as_slice()).collect();
        assert_eq!(queries, [&b"early"[..], b"held", b"unread"]);
        assert!(client.recv(&mut [0; 8]).is_err(), "a frozen program was answered");

        let target = Lookups::new(true);
        target.serve_at(socket, &listener).unwrap();
        target.arrive(carried);
        target.release();
        for (number, lookup) in target.released().await {
            target.end(number, Some(&lookup.query));
        }
        let mut answer = [0; 8];
        let answers: Vec<Vec<u8>> = (0..3)
            .map(|_| {
                let count = client.recv(&mut answer).unwrap();
                answer[..count].to_vec()
            })
            .collect();
        assert_eq!(answers, [&b"early"[..], b"held", b"unread"]);
    }

    #[tokio::test]
    async fn an_undone_move_answers_here() {
        let lookups = Lookups::new(false);
        lookups.hold();
        let from = "127.0.0.1:9".parse().unwrap();
        assert_eq!(lookups.begin(Lookup { from, query: vec![1] }), None);
        lookups.release();
        let released = lookups.released().await;
        assert_eq!(released.len(), 1);
        lookups.end(released[0].0, None);
        assert!(lookups.unanswered().is_empty());
    }

    #[test]
    fn there_are_never_more_than_the_limit() {
        let lookups = Lookups::new(true);
        let from = "127.0.0.1:9".parse().unwrap();
        for _ in 0..LOOKUPS_UNDER_WAY * 2 {
            lookups.begin(Lookup { from, query: vec![0; LOOKUP_CARRIED_BYTES] });
        }
        assert_eq!(lookups.state().under_way.len(), LOOKUPS_UNDER_WAY);
        assert_eq!(lookups.unanswered().len(), LOOKUPS_CARRIED);
    }
}
