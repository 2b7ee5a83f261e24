//! A UDP relay between hosts of a mesh: a network that loses, delays, reorders and duplicates packets, that parts, and
//! a NAT that forgets.
//!
//! ```text
//!  host a ──→ 192.0.2.3:4500 (stands for b) ── flow of a, from a port of its own ──→ host b
//!         ←──                              ←──                                   ←──
//! ```
//! Hosts that are carried tell the directory the relay's address for theirs, so all links to them pass it; nothing
//! inside the sidecars knows. A host sees others at ports of the relay, one for each flow, as behind a NAT. IPv4 only.

mod flow;
mod line;
mod weather;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::{mpsc, oneshot};

use crate::host::Host;
use crate::network;
use weather::Dice;

pub use weather::Weather;

/// Port of the relay that stands for the first host.
const FIRST_PORT: u16 = 4500;
/// Where sidecars of the mesh take links.
const LINK_PORT: u16 = 4433;
/// Commands that wait for the relay's thread: tests give one and wait for it.
const COMMANDS: usize = 16;

/// A relay, on a host of its own (192.0.2.3).
#[derive(Debug)]
pub struct Relay {
    host: Host,
    carried: Mutex<u16>,
    shared: Arc<Shared>,
    /// Taken when it ends, upon which the thread ends.
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

/// What the relay did so far, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sent on.
    pub passed: u64,
    /// Lost by the weather.
    pub lost: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Not let through, because that way is cut.
    pub cut: u64,
    /// Thrown away, because too many waited.
    pub overflowed: u64,
}

enum Command {
    Carry(u16, SocketAddr, oneshot::Sender<io::Result<()>>),
    Rebind(Ipv4Addr, oneshot::Sender<usize>),
}

/// What commands and packets have in common.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    passed: AtomicU64,
    lost: AtomicU64,
    duplicated: AtomicU64,
    cut: AtomicU64,
    overflowed: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    weather: Weather,
    cuts: HashSet<(Ipv4Addr, Ipv4Addr)>,
    dice: Dice,
}

impl Relay {
    pub(crate) fn start(host: Host) -> Relay {
        let shared = Arc::new(Shared::default());
        let (commands, queue) = mpsc::channel(COMMANDS);
        let (netns, inside) = (network::path(host.netns()), shared.clone());
        let address = host.address();
        let work = move || {
            let enter = || -> io::Result<()> {
                let file = File::open(&netns)?;
                Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
            };
            enter().unwrap_or_else(|error| panic!("can't enter {}: {error}", netns.display()));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(serve(address, queue, inside));
        };
        let thread = thread::Builder::new().name("relay".into()).spawn(work).expect("a thread");
        Relay { host, carried: Mutex::new(0), shared, commands: Some(commands), thread: Some(thread) }
    }

    /// The host that it is on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Makes others reach a host through the relay, from the next start of its sidecar.
    ///
    /// # Panics
    /// When the relay can't stand for it.
    #[track_caller]
    pub fn carry(&self, host: &Host) {
        let port = {
            let mut carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
            *carried += 1;
            FIRST_PORT + *carried - 1
        };
        let target = SocketAddrV4::new(host.address(), LINK_PORT).into();
        self.ask(|reply| Command::Carry(port, target, reply))
            .unwrap_or_else(|error| panic!("relay: {error}"));
        host.add_flags(&["--advertise", &format!("{}:{port}", self.host.address())]);
    }

    /// What packets meet from here on, in both directions.
    pub fn set_weather(&self, weather: Weather) {
        self.shared.lock().weather = weather;
    }

    /// Lets nothing through from one host to the other; the other way stays as it is.
    pub fn cut(&self, from: &Host, to: &Host) {
        self.shared.lock().cuts.insert((from.address(), to.address()));
    }

    /// Lets nothing through between two hosts.
    pub fn part(&self, one: &Host, other: &Host) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Lets everything through again.
    pub fn heal(&self) {
        self.shared.lock().cuts.clear();
    }

    /// Forgets from which ports the flows of a host went out: they go on from others, as behind a NAT that was started
    /// anew. Says how many there are.
    ///
    /// # Panics
    /// When the relay has ended.
    #[track_caller]
    pub fn rebind(&self, host: &Host) -> usize {
        self.ask(|reply| Command::Rebind(host.address(), reply))
    }

    /// What it did so far.
    pub fn counts(&self) -> Counts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let shared = &self.shared;
        Counts {
            passed: of(&shared.passed),
            lost: of(&shared.lost),
            duplicated: of(&shared.duplicated),
            cut: of(&shared.cut),
            overflowed: of(&shared.overflowed),
        }
    }

    #[track_caller]
    fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> T {
        let (reply, answer) = oneshot::channel();
        let sent =
            self.commands.as_ref().is_some_and(|commands| commands.blocking_send(command(reply)).is_ok());
        assert!(sent, "the relay has ended");
        answer.blocking_recv().expect("the relay answers every command")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A panic of it was printed when it happened.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(address: Ipv4Addr, mut commands: mpsc::Receiver<Command>, shared: Arc<Shared>) {
    let mut doors: Vec<Arc<flow::Door>> = Vec::new();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Carry(port, target, reply) => {
                let door = flow::Door::open(SocketAddr::from((address, port)), target, shared.clone());
                let _ = reply.send(door.map(|door| doors.push(door)));
            }
            Command::Rebind(client, reply) => {
                let count = doors.iter().map(|door| door.rebind(client)).sum();
                let _ = reply.send(count);
            }
        }
    }
}
