//! Datagrams of capsules to machines outside: each address and port of a capsule has a port of this host, from which all go
//! that it sends, and to which the machines that it sent to may answer (RFC 4787: endpoint-independent mapping, filtering by
//! address and port).
//!
//! The shim holds the sockets, so that the next sidecar uses the same ports. Whom a capsule has sent to is not kept: a
//! machine is heard again when it was sent something.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Instant;

use bytes::Bytes;
use kernel::limits::DATAGRAM_BYTES_MAX;
use kernel::udp;
use overlay_proto::{Datagram, DatagramBody, DatagramTag};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::capsule::network::Network;
use crate::datagram::{FlowKey, Forwarder};
use crate::limits::{DATAGRAMS_AT_ONCE, EXITS_MAX, EXITS_OF_CAPSULE_MAX, FLOW_IDLE, FLOW_LOOK};
use crate::watched::{Watched, watch};

/// How the shim's names of such sockets begin; the capsule's address and port follow.
pub(super) const HELD: &str = "exit-";

/// The ports of this host from which datagrams of capsules go out.
pub(super) struct Exits {
    network: Weak<Network>,
    forwarder: Forwarder,
    data_plane: tokio::runtime::Handle,
    /// By capsule, and by the port of its program.
    open: Mutex<HashMap<IpAddr, HashMap<u16, Exit>>>,
}

struct Exit {
    socket: Arc<OwnedFd>,
    used: Instant,
    /// Ends the task that reads.
    _reading: DropGuard,
}

impl Exits {
    /// With the sockets that an earlier sidecar left.
    pub(super) fn new(
        network: &Arc<Network>,
        forwarder: Forwarder,
        data_plane: tokio::runtime::Handle,
        left: Vec<(SocketAddr, OwnedFd)>,
    ) -> Arc<Self> {
        let exits = Arc::new(Self {
            network: Arc::downgrade(network),
            forwarder,
            data_plane,
            open: Mutex::default(),
        });
        for (program, socket) in left {
            if let Err(error) = exits.begin(&mut exits.lock(), program, socket) {
                tracing::warn!(%program, %error, "datagrams from outside are not heard any more");
            }
        }
        exits.data_plane.spawn(exits.clone().forget_quiet(network.closed()));
        exits
    }

    async fn forget_quiet(self: Arc<Self>, closed: CancellationToken) {
        let mut look = tokio::time::interval(FLOW_LOOK);
        while closed.run_until_cancelled(look.tick()).await.is_some() {
            self.sweep();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, HashMap<u16, Exit>>> {
        self.open.lock().expect("no panics under this lock")
    }

    /// Sends what a program sent to a machine outside.
    pub(super) fn send(self: &Arc<Self>, datagram: &Datagram) {
        let DatagramBody::Udp(payload) = &datagram.body else { return };
        let sent = self.socket_of(datagram.source).and_then(|socket| {
            let any = match datagram.destination {
                SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            udp::send_from(socket.as_fd(), any, datagram.destination, datagram.traffic_class, payload)
        });
        if let Err(error) = sent {
            tracing::debug!(from = %datagram.source, to = %datagram.destination, %error, "a datagram to outside was lost");
        }
    }

    /// The socket of a program's port, made if there is none.
    fn socket_of(self: &Arc<Self>, program: SocketAddr) -> io::Result<Arc<OwnedFd>> {
        let mut open = self.lock();
        if let Some(exit) = open.get_mut(&program.ip()).and_then(|own| own.get_mut(&program.port())) {
            exit.used = Instant::now();
            return Ok(exit.socket.clone());
        }
        self.make_room(&mut open, program.ip())?;
        let socket = udp::listen_outside(program.is_ipv6(), 0)?;
        let socket = self.begin(&mut open, program, socket)?;
        if let Some(network) = self.network.upgrade() {
            let held = network.keeper().begin_hold(&held_as(program), socket.as_fd())?;
            // What is sent does not wait for it: without it the next sidecar takes another port.
            self.data_plane.spawn(async move {
                if let Err(error) = held.await {
                    tracing::warn!(error = format!("{error:#}"), "the shim does not hold a port");
                }
            });
        }
        Ok(socket)
    }

    /// Of a capsule that has as many as it may, or where all are in use, its own that is quiet for longest goes.
    fn make_room(&self, open: &mut HashMap<IpAddr, HashMap<u16, Exit>>, capsule: IpAddr) -> io::Result<()> {
        let all: usize = open.values().map(HashMap::len).sum();
        let own = open.entry(capsule).or_default();
        if all < EXITS_MAX && own.len() < EXITS_OF_CAPSULE_MAX {
            return Ok(());
        }
        let quiet = own.iter().min_by_key(|(_, exit)| exit.used).map(|(port, _)| *port);
        let quiet = quiet.ok_or_else(|| io::Error::other("all ports for datagrams are in use"))?;
        own.remove(&quiet);
        self.release(SocketAddr::new(capsule, quiet));
        Ok(())
    }

    fn begin(
        self: &Arc<Self>,
        open: &mut HashMap<IpAddr, HashMap<u16, Exit>>,
        program: SocketAddr,
        socket: OwnedFd,
    ) -> io::Result<Arc<OwnedFd>> {
        let _entered = self.data_plane.enter();
        let watched = watch(socket.try_clone()?)?;
        let (socket, ended) = (Arc::new(socket), CancellationToken::new());
        let reading = ended.clone();
        tokio::spawn(self.clone().bring_back(program, watched, reading));
        let exit = Exit { socket: socket.clone(), used: Instant::now(), _reading: ended.drop_guard() };
        open.entry(program.ip()).or_default().insert(program.port(), exit);
        Ok(socket)
    }

    /// Forgets what has been quiet for too long.
    fn sweep(&self) {
        let now = Instant::now();
        self.lock().retain(|capsule, own| {
            own.retain(|port, exit| {
                let is_used = now.duration_since(exit.used) < FLOW_IDLE;
                if !is_used {
                    self.release(SocketAddr::new(*capsule, *port));
                }
                is_used
            });
            !own.is_empty()
        });
    }

    fn release(&self, program: SocketAddr) {
        if let Some(network) = self.network.upgrade() {
            network.keeper().release(held_as(program));
        }
    }

    /// Brings what machines answer to the program.
    async fn bring_back(self: Arc<Self>, program: SocketAddr, socket: Watched, ended: CancellationToken) {
        let reading = async {
            let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
            loop {
                let Ok(mut ready) = socket.readable().await else { return };
                if self.bring_some(program, &socket, &mut buffer) {
                    ready.clear_ready();
                }
                drop(ready);
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = ended.cancelled() => {}
            () = reading => {}
        }
    }

    /// True when that was all.
    fn bring_some(&self, program: SocketAddr, socket: &Watched, buffer: &mut [u8]) -> bool {
        let Some(network) = self.network.upgrade() else { return true };
        for _ in 0..DATAGRAMS_AT_ONCE {
            let received = match udp::receive(socket.get_ref(), buffer) {
                Ok(Some(received)) => received,
                Ok(None) => return true,
                Err(error) => {
                    tracing::debug!(%program, %error, "a datagram from outside was lost");
                    return true;
                }
            };
            let flow = FlowKey { local: received.source, remote: program };
            if !network.datagrams().has_received(flow) {
                continue;
            }
            if let Some(exit) =
                self.lock().get_mut(&program.ip()).and_then(|own| own.get_mut(&program.port()))
            {
                exit.used = Instant::now();
            }
            let datagram = Datagram {
                source: received.source,
                destination: program,
                traffic_class: received.traffic_class,
                returned: None,
                returns: 0,
                tag: DatagramTag::default(),
                body: DatagramBody::Udp(Bytes::copy_from_slice(&buffer[..received.length])),
            };
            self.forwarder.send(&network, datagram);
        }
        false
    }
}

fn held_as(program: SocketAddr) -> String {
    format!("{HELD}{program}")
}

/// The program's port for which the shim holds a socket by this name.
pub(super) fn program_of(held: &str) -> Option<SocketAddr> {
    held.strip_prefix(HELD)?.parse().ok()
}
