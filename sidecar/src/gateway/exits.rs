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
use kernel::{icmp, udp};
use overlay_proto::{Datagram, DatagramBody, DatagramTag};
use tokio::io::Interest;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::capsule::network::Network;
use crate::datagram::{FlowKey, Forwarder};
use crate::limits::{DATAGRAMS_AT_ONCE, EXITS_MAX, EXITS_OF_CAPSULE_MAX, FLOW_IDLE, FLOW_LOOK};
use crate::sidecar::Sidecar;
use crate::watched::{Watched, watch};

/// Something came, or the network said that something did not arrive.
const ARRIVED: Interest = Interest::READABLE.add(Interest::ERROR);

/// The ports of this host from which datagrams of capsules go out.
pub(super) struct Exits {
    network: Weak<Network>,
    closed: CancellationToken,
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
    /// With the sockets that an earlier sidecar left among those that the shim holds.
    pub(super) fn new(
        sidecar: &Sidecar,
        network: &Arc<Network>,
        held: &mut HashMap<String, OwnedFd>,
    ) -> Arc<Self> {
        let exits = Arc::new(Self {
            network: Arc::downgrade(network),
            closed: network.closed(),
            forwarder: sidecar.around.datagrams.clone(),
            data_plane: sidecar.data_plane.clone(),
            open: Mutex::default(),
        });
        let left = held.extract_if(|name, _| program_of(name).is_some());
        for (program, socket) in left.filter_map(|(name, socket)| Some((program_of(&name)?, socket))) {
            if let Err(error) = exits.begin(&mut exits.lock(), program, socket) {
                tracing::warn!(%program, %error, "datagrams from outside are not heard any more");
            }
        }
        exits.data_plane.spawn(exits.clone().forget_quiet());
        exits
    }

    async fn forget_quiet(self: Arc<Self>) {
        let mut look = tokio::time::interval(FLOW_LOOK);
        while self.closed.run_until_cancelled(look.tick()).await.is_some() {
            self.sweep();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, HashMap<u16, Exit>>> {
        self.open.lock().expect("no panics under this lock")
    }

    /// Sends what a program sent to a machine outside; says so to the program if there is no way to it.
    pub(super) fn send(self: &Arc<Self>, datagram: &Datagram) {
        let payload = match &datagram.body {
            DatagramBody::Udp(payload) => payload,
            // Pings don't go out.
            DatagramBody::Icmp(message) if is_echo(datagram, message) => {
                let (program, machine) = (datagram.source.ip(), datagram.destination.ip());
                return self.tell(program, machine, icmp::unreachable(program, machine, message));
            }
            DatagramBody::Icmp(_) => return,
        };
        let any = match datagram.destination {
            SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let sent = self.socket_of(datagram.source).and_then(|socket| {
            let send =
                || udp::send_from(socket.as_fd(), any, datagram.destination, datagram.traffic_class, payload);
            // The first one may be told what became of an earlier one.
            send()
                .or_else(|error| if error.kind() == io::ErrorKind::WouldBlock { Err(error) } else { send() })
        });
        let Err(error) = sent else { return };
        tracing::debug!(from = %datagram.source, to = %datagram.destination, %error, "a datagram to outside was lost");
        if matches!(error.kind(), io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) {
            let message = udp::unreachable(datagram.source, datagram.destination, None);
            self.tell(datagram.source.ip(), datagram.destination.ip(), message);
        }
    }

    /// Tells a program by an ICMP message that what it sent did not arrive.
    fn tell(&self, program: IpAddr, machine: IpAddr, message: Vec<u8>) {
        let Some(network) = self.network.upgrade() else { return };
        let said = Datagram {
            source: SocketAddr::new(machine, 0),
            destination: SocketAddr::new(program, 0),
            traffic_class: 0,
            returned: None,
            returns: 0,
            tag: DatagramTag::default(),
            body: DatagramBody::Icmp(Bytes::from(message)),
        };
        self.forwarder.send(&network, said);
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
        udp::keep_reports(&socket, program.is_ipv6())?;
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
            loop {
                let Ok(mut ready) = socket.ready(ARRIVED).await else { return };
                if self.bring_some(program, socket.get_ref()) {
                    ready.clear_ready();
                }
                drop(ready);
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = ended.cancelled() => {}
            () = self.closed.cancelled() => {}
            () = reading => {}
        }
    }

    /// True when that was all.
    fn bring_some(&self, program: SocketAddr, socket: &OwnedFd) -> bool {
        let Some(network) = self.network.upgrade() else { return true };
        // Not one for each port, most of which are quiet: together half a gigabyte.
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        for _ in 0..DATAGRAMS_AT_ONCE {
            let Ok(Some(report)) = udp::report(socket) else { break };
            let why = Some((report.kind, report.code));
            let message = udp::unreachable(program, report.destination, why);
            self.tell(program.ip(), report.destination.ip(), message);
        }
        for _ in 0..DATAGRAMS_AT_ONCE {
            let received = match udp::receive(socket, &mut buffer) {
                Ok(Some(received)) => received,
                Ok(None) => return true,
                // Of something that was sent, for which there is a report; what has come is behind it.
                Err(error) => {
                    tracing::debug!(%program, %error, "a datagram to outside did not arrive");
                    continue;
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

fn is_echo(datagram: &Datagram, message: &[u8]) -> bool {
    icmp::kind(datagram.source.is_ipv6(), message) == Some(icmp::Kind::Echo)
}

/// As what the shim holds the socket of a program's port.
fn held_as(program: SocketAddr) -> String {
    format!("exit-{program}")
}

/// The program's port for which the shim holds a socket by this name.
fn program_of(held: &str) -> Option<SocketAddr> {
    held.strip_prefix("exit-")?.parse().ok()
}
