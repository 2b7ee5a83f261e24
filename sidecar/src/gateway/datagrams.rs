//! Datagrams of machines outside: to a published port of a capsule, and its answers.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use bytes::Bytes;
use kernel::limits::DATAGRAM_BYTES_MAX;
use kernel::udp;
use overlay_proto::{Datagram, DatagramBody, DatagramTag};
use tokio_util::sync::CancellationToken;

use super::flows::Flows;
use super::{Gateway, Publication};
use crate::limits::{DATAGRAMS_AT_ONCE, FLOW_LOOK};
use crate::session::Begin;
use crate::watched::{Watched, watch};

/// A published port for datagrams.
pub(super) struct Port {
    publication: Publication,
    sockets: [Option<OwnedFd>; 2],
    flows: Mutex<Flows>,
}

/// The ports of a gateway, for what goes out.
pub(super) type Ports = Mutex<Vec<Arc<Port>>>;

impl Port {
    fn flows(&self) -> MutexGuard<'_, Flows> {
        self.flows.lock().expect("no panics under this lock")
    }
}

/// Carries the datagrams of a publication until it is withdrawn.
pub(super) async fn carry(
    gateway: Arc<Gateway>,
    publication: Publication,
    sockets: [Option<OwnedFd>; 2],
    withdrawn: CancellationToken,
) {
    let watched = sockets.iter().flatten().map(|socket| watch(socket.try_clone()?)).collect();
    let watched: Vec<Watched> = match watched {
        Ok(watched) => watched,
        Err(error) => {
            let error: std::io::Error = error;
            return tracing::error!(%error, "the sockets of a published port can't be watched");
        }
    };
    let port = Arc::new(Port { publication, sockets, flows: Mutex::default() });
    gateway.ports().push(port.clone());
    let carrying = async {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        let mut look = tokio::time::interval(FLOW_LOOK);
        loop {
            let ready = ready_one(&watched);
            tokio::select! {
                at = ready => while bring_some(&gateway, &port, &watched[at], &mut buffer) {
                    tokio::task::yield_now().await;
                },
                _ = look.tick() => port.flows().sweep(Instant::now()),
            }
        }
    };
    let closed = gateway.network.closed();
    tokio::select! {
        () = withdrawn.cancelled() => {}
        () = closed.cancelled() => {}
        () = carrying => {}
    }
    gateway.ports().retain(|other| !Arc::ptr_eq(other, &port));
}

/// Which socket has something.
async fn ready_one(watched: &[Watched]) -> usize {
    let one = |at: usize| async move {
        match watched.get(at) {
            Some(socket) => {
                if let Ok(mut ready) = socket.readable().await {
                    ready.clear_ready();
                }
                at
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        at = one(0) => at,
        at = one(1) => at,
    }
}

/// Brings what waits in a socket to the capsule; true when there may be more.
fn bring_some(gateway: &Gateway, port: &Port, socket: &Watched, buffer: &mut [u8]) -> bool {
    for _ in 0..DATAGRAMS_AT_ONCE {
        match udp::receive(socket.get_ref(), buffer) {
            Ok(Some(received)) => bring(gateway, port, &received, &buffer[..received.length]),
            Ok(None) => return false,
            Err(error) => {
                tracing::debug!(port = port.publication.host_port, %error, "a datagram from outside was lost");
                return false;
            }
        }
    }
    true
}

fn bring(gateway: &Gateway, port: &Port, received: &udp::Received, payload: &[u8]) {
    let publication = &port.publication;
    let Some(record) = gateway.around.places.capsule(&publication.capsule) else { return };
    let v6 = received.source.is_ipv6();
    let destination = publication.destinations(&record)[usize::from(v6)];
    let ends = (received.source, received.destination.ip());
    let own = gateway.network.locators();
    let locator = if v6 { own.v6.into() } else { own.v4.into() };
    let open = || {
        // The next sidecar finds the same port: to the program it is the same flow.
        let begin = Begin::At(number_of(&(ends, destination)));
        gateway.ways.open(received.source, locator, destination, gateway.machine_max, begin).ok()
    };
    let Some(source) = port.flows().sent(Instant::now(), ends, destination, open) else {
        return gateway.refuse_one();
    };
    let datagram = Datagram {
        source,
        destination,
        traffic_class: received.traffic_class,
        returned: None,
        returns: 0,
        tag: DatagramTag::default(),
        body: DatagramBody::Udp(Bytes::copy_from_slice(payload)),
    };
    gateway.around.datagrams.send(&gateway.network, datagram);
}

fn number_of(flow: &impl Hash) -> u16 {
    let mut hasher = DefaultHasher::new();
    flow.hash(&mut hasher);
    (hasher.finish() & 0xffff) as u16
}

/// Sends what a program answered to the machine that asked; nothing else goes out.
pub(super) fn let_out(ports: &Ports, datagram: &Datagram) {
    let DatagramBody::Udp(payload) = &datagram.body else { return };
    let (source, program): (SocketAddr, SocketAddr) = (datagram.destination, datagram.source);
    for port in ports.lock().expect("no panics under this lock").iter() {
        let Some((machine, from)) = port.flows().answered(Instant::now(), source, program) else {
            continue;
        };
        let Some(socket) = &port.sockets[usize::from(machine.is_ipv6())] else { return };
        if let Err(error) = udp::send_from(socket.as_fd(), from, machine, datagram.traffic_class, payload) {
            tracing::debug!(to = %machine, %error, "a datagram to outside was lost");
        }
        return;
    }
}
