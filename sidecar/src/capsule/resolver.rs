//! The resolver inside a capsule, at one fixed loopback address everywhere: names of the zone are asked at the
//! directory, others at the host's own resolver, whose answers are kept for as long as they hold (`cache`). Queries are
//! passed on as they are. While the directory does not answer, addresses of capsules that this host knows are answered
//! from what it last said.
//!
//! What is asked while the capsule moves is answered where it goes on: datagrams go along as `lookups`, and the kernel's
//! ends of `connections` as those of sessions do.

mod answering;
mod asking;
mod cache;
mod connections;
mod exchange;
mod host;
mod lookups;

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;

use runtime::root::RESOLVER;

pub use answering::Upstreams;
pub use host::{HostResolver, NameServer};
pub use lookups::{Lookup, Lookups, Travelling};

use super::keeper::{RESOLVER_TCP, RESOLVER_UDP};
use super::network::Network;
use answering::answer;
use exchange::Transport;

/// Port of DNS.
const PORT: u16 = 53;

/// Connections that wait to be taken: what the standard library asks for.
const BACKLOG: i32 = 128;

/// Queries of one capsule that may be under way.
const QUERIES: usize = 256;

/// Largest DNS message over UDP with EDNS that is passed on.
const DATAGRAM_BYTES: usize = 4096;

/// Binds the resolver's sockets in the capsule's network, or takes those that an earlier sidecar left, and serves them
/// until the network closes; must be called on the data plane's runtime. The shim holds them: what is asked while no
/// sidecar serves waits in them.
///
/// # Errors
/// A socket can't be bound.
pub async fn start(
    network: &Arc<Network>,
    upstreams: Upstreams,
    left: Option<[OwnedFd; 2]>,
) -> anyhow::Result<()> {
    let (udp, tcp) = match left {
        Some([udp, tcp]) => (std::net::UdpSocket::from(udp), std::net::TcpListener::from(tcp)),
        None => {
            let (udp, tcp) = network.worker().run(bind).context("binding the capsule's resolver")?;
            network.keeper().hold(RESOLVER_UDP, udp.as_fd()).await?;
            network.keeper().hold(RESOLVER_TCP, tcp.as_fd()).await?;
            (udp, tcp)
        }
    };
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    let (udp, tcp) = (Arc::new(UdpSocket::from_std(udp)?), TcpListener::from_std(tcp)?);
    let upstreams = Arc::new(upstreams);
    network.lookups().serve_at(udp.clone(), &tcp)?;
    // Each has its own: idle connections take nothing from those who ask by datagram.
    let (datagrams, connections) = (Arc::new(Semaphore::new(QUERIES)), Arc::new(Semaphore::new(QUERIES)));
    let closed = network.closed();
    tokio::spawn(closed.clone().run_until_cancelled_owned(serve_udp(
        udp,
        upstreams.clone(),
        datagrams,
        network.lookups().clone(),
    )));
    let lookups = network.lookups().clone();
    tokio::spawn(closed.run_until_cancelled_owned(connections::serve(tcp, upstreams, connections, lookups)));
    Ok(())
}

/// Binds the resolver's sockets so that a DNS server of the capsule can have the same port on all addresses. The kernel
/// allows that where both say that they share it, which such servers do (SO_REUSEPORT, or for datagrams SO_REUSEADDR).
fn bind() -> std::io::Result<(std::net::UdpSocket, std::net::TcpListener)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    let open = |kind| -> std::io::Result<OwnedFd> {
        let socket = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        bind(&socket, &SocketAddr::new(RESOLVER.into(), PORT))?;
        Ok(socket)
    };
    let (udp, tcp) = (open(SocketType::DGRAM)?, open(SocketType::STREAM)?);
    listen(&tcp, BACKLOG)?;
    Ok((udp.into(), tcp.into()))
}

async fn serve_udp(
    socket: Arc<UdpSocket>,
    upstreams: Arc<Upstreams>,
    slots: Arc<Semaphore>,
    lookups: Arc<Lookups>,
) {
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        let asked = tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok((count, from)) => {
                    let lookup = Lookup { from, query: buffer[..count].to_vec() };
                    lookups.begin(lookup.clone()).map(|number| (number, lookup)).into_iter().collect()
                }
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            },
            kept = lookups.released() => kept,
        };
        for (number, lookup) in asked {
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                lookups.end(number, None);
                continue;
            };
            let (upstreams, lookups) = (upstreams.clone(), lookups.clone());
            tokio::spawn(async move {
                lookups.end(number, answer(&upstreams, &lookup.query, Transport::Udp).await.as_deref());
                drop(slot);
            });
        }
    }
}

#[cfg(test)]
mod tests;
