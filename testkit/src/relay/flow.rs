//! The doors of the relay, one for each host that it stands for, and the flows through them.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::net::sockopt;
use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::Shared;
use super::line::Line;

/// Flows through one door: a host has one, and another one for each address that it had before.
const FLOWS_MAX: usize = 64;
/// Socket buffers in bytes: a burst of a link's send window.
const SOCKET_BYTES: usize = 8 << 20;
/// The largest UDP datagram in bytes.
const DATAGRAM_BYTES: usize = 65_535;

/// Where others reach a host.
pub(super) struct Door {
    socket: UdpSocket,
    target: SocketAddr,
    shared: Arc<Shared>,
    flows: Mutex<HashMap<SocketAddr, Arc<Flow>>>,
}

/// Packets between one address and the host behind a door.
struct Flow {
    client: SocketAddr,
    /// From where they go to the host; another one after a rebind.
    back: watch::Sender<Arc<UdpSocket>>,
    there: Line,
    here: Line,
}

impl Door {
    pub(super) fn open(
        address: SocketAddr,
        target: SocketAddr,
        shared: Arc<Shared>,
    ) -> io::Result<Arc<Door>> {
        let door = Door { socket: open(address)?, target, shared, flows: Mutex::default() };
        let door = Arc::new(door);
        tokio::spawn(door.clone().serve());
        Ok(door)
    }

    /// Gives the flows of a host other ports, and says how many there are.
    pub(super) fn rebind(&self, client: Ipv4Addr) -> usize {
        let flows = self.lock();
        let of_client = flows.values().filter(|flow| flow.client.ip() == client);
        of_client
            .filter_map(|flow| open(any_port()).ok().map(|socket| flow.back.send(Arc::new(socket))))
            .count()
    }

    async fn serve(self: Arc<Self>) {
        let mut buffer = vec![0; DATAGRAM_BYTES];
        loop {
            // Errors are those that the other side's ICMP reports: the next packet is another one.
            let Ok((length, client)) = self.socket.recv_from(&mut buffer).await else { continue };
            let Some(flow) = self.flow(client) else {
                self.shared.overflowed.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            if let Some(packet) = flow.there.take(v4(client), v4(self.target), &buffer[..length]) {
                let back = flow.back.borrow().clone();
                self.send(&back, packet, self.target).await;
            }
        }
    }

    fn flow(self: &Arc<Self>, client: SocketAddr) -> Option<Arc<Flow>> {
        let mut flows = self.lock();
        if let Some(flow) = flows.get(&client) {
            return Some(flow.clone());
        }
        if flows.len() >= FLOWS_MAX {
            return None;
        }
        let back = watch::Sender::new(Arc::new(open(any_port()).ok()?));
        let (there, here) = (Line::new(self.shared.clone()), Line::new(self.shared.clone()));
        let flow = Arc::new(Flow { client, back, there, here });
        flows.insert(client, flow.clone());
        tokio::spawn(self.clone().come_back(flow.clone()));
        tokio::spawn(self.clone().send_there(flow.clone()));
        tokio::spawn(self.clone().send_here(flow.clone()));
        Some(flow)
    }

    /// Takes what the host behind the door answers.
    async fn come_back(self: Arc<Self>, flow: Arc<Flow>) {
        let mut buffer = vec![0; DATAGRAM_BYTES];
        let mut backs = flow.back.subscribe();
        loop {
            let back = backs.borrow_and_update().clone();
            tokio::select! {
                _ = backs.changed() => {}
                received = back.recv_from(&mut buffer) => {
                    let Ok((length, from)) = received else { continue };
                    if from != self.target {
                        continue;
                    }
                    if let Some(packet) = flow.here.take(v4(self.target), v4(flow.client), &buffer[..length]) {
                        self.send(&self.socket, packet, flow.client).await;
                    }
                }
            }
        }
    }

    async fn send_there(self: Arc<Self>, flow: Arc<Flow>) {
        loop {
            let packet = flow.there.next().await;
            let back = flow.back.borrow().clone();
            self.send(&back, &packet, self.target).await;
        }
    }

    async fn send_here(self: Arc<Self>, flow: Arc<Flow>) {
        loop {
            let packet = flow.here.next().await;
            self.send(&self.socket, &packet, flow.client).await;
        }
    }

    async fn send(&self, socket: &UdpSocket, packet: &[u8], to: SocketAddr) {
        // What can't be sent is lost, as on any network.
        if socket.send_to(packet, to).await.is_ok() {
            self.shared.passed.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Flow>>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BYTES)?;
    sockopt::set_socket_send_buffer_size_force(&socket, SOCKET_BYTES)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

fn any_port() -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, 0).into()
}

fn v4(address: SocketAddr) -> Ipv4Addr {
    match address.ip() {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}
