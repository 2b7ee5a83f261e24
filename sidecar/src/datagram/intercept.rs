//! What the programs of a capsule send, and what its kernel says to others, taken out of its network.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use bytes::Bytes;
use kernel::icmp::IcmpQueue;
use kernel::limits::{DATAGRAM_BYTES_MAX, INTERCEPT_UDP_PORT};
use kernel::udp;
use overlay_proto::{Datagram, DatagramBody, DatagramTag};

use super::Forwarder;
use crate::capsule::keeper::{DATAGRAMS4, DATAGRAMS6};
use crate::capsule::network::Network;
use crate::limits::{DATAGRAMS_AT_ONCE, FLOW_LOOK};
use crate::watched::{self, Watched, watch};

/// Opens the capsule's TPROXY sockets, or takes those that an earlier sidecar left, and forwards what they get until
/// the network closes; must be called on the data plane's runtime. The shim holds them: what is sent while no sidecar
/// serves waits in them. `icmp` is the number of the queue of ICMP messages, if the kernel has queues.
///
/// # Errors
/// The kernel refuses one of them.
pub async fn intercept(
    network: Arc<Network>,
    forwarder: Forwarder,
    left: Option<[OwnedFd; 2]>,
    icmp: Option<u16>,
) -> anyhow::Result<()> {
    let [v4, v6] = match left {
        Some(sockets) => sockets,
        None => {
            let listen =
                || Ok::<_, std::io::Error>([false, true].map(|v6| udp::listen(v6, INTERCEPT_UDP_PORT)));
            let [v4, v6] = network.worker().run(listen)?;
            let (v4, v6) = (v4?, v6?);
            network.keeper().hold(DATAGRAMS4, v4.as_fd()).await?;
            network.keeper().hold(DATAGRAMS6, v6.as_fd()).await?;
            [v4, v6]
        }
    };
    let icmp = match icmp {
        Some(number) => {
            let opened = network.worker().run(move || IcmpQueue::open(number));
            let queue = opened.context("opening the ICMP queue")?;
            let ready = watch(queue.as_fd().try_clone_to_owned()?)?;
            Some((queue, ready))
        }
        None => None,
    };
    let interceptor =
        Interceptor { sockets: [watch(v4)?, watch(v6)?], dropped: [0; 2], icmp, network, forwarder };
    tokio::spawn(interceptor.run());
    Ok(())
}

struct Interceptor {
    sockets: [Watched; 2],
    /// What the sockets had no room for and is counted. Also what was sent before this sidecar served.
    dropped: [u32; 2],
    /// None where the kernel has no queues.
    icmp: Option<(IcmpQueue, Watched)>,
    network: Arc<Network>,
    forwarder: Forwarder,
}

impl Interceptor {
    async fn run(mut self) {
        let closed = self.network.closed();
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        let mut look = tokio::time::interval(FLOW_LOOK);
        loop {
            tokio::select! {
                () = closed.cancelled() => break,
                ready = self.sockets[0].readable() => {
                    if let Ok(mut ready) = ready && self.forward_some(0, &mut buffer) { ready.clear_ready(); }
                }
                ready = self.sockets[1].readable() => {
                    if let Ok(mut ready) = ready && self.forward_some(1, &mut buffer) { ready.clear_ready(); }
                }
                () = watched::readable(&self.icmp) => self.forward_messages(),
                _ = look.tick() => {
                    self.network.datagrams().sweep(Instant::now());
                    self.count_dropped();
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Forwards what waits in a socket; true when that was all.
    fn forward_some(&self, at: usize, buffer: &mut [u8]) -> bool {
        for _ in 0..DATAGRAMS_AT_ONCE {
            match udp::receive(self.sockets[at].get_ref(), buffer) {
                Ok(Some(received)) => self.forwarder.send(
                    &self.network,
                    Datagram {
                        source: received.source,
                        destination: received.destination,
                        traffic_class: received.traffic_class,
                        returned: None,
                        returns: 0,
                        tag: DatagramTag::default(),
                        body: DatagramBody::Udp(Bytes::copy_from_slice(&buffer[..received.length])),
                    },
                ),
                Ok(None) => return true,
                Err(error) => {
                    tracing::warn!(capsule = %self.network.name(), %error, "an intercepted datagram was lost");
                    return true;
                }
            }
        }
        false
    }

    /// Counts what programs sent faster than this sidecar took it.
    fn count_dropped(&mut self) {
        for (socket, counted) in self.sockets.iter().zip(&mut self.dropped) {
            let Ok(dropped) = udp::dropped(socket.get_ref()) else { continue };
            let more = dropped.wrapping_sub(std::mem::replace(counted, dropped));
            self.forwarder.overflowed(&self.network, u64::from(more));
        }
    }

    fn forward_messages(&mut self) {
        let Some((queue, _)) = &mut self.icmp else { return };
        loop {
            match queue.next() {
                Ok(Some(message)) => self.forwarder.send(
                    &self.network,
                    Datagram {
                        source: SocketAddr::new(message.source, 0),
                        destination: SocketAddr::new(message.destination, 0),
                        traffic_class: 0,
                        returned: None,
                        returns: 0,
                        tag: DatagramTag::default(),
                        body: DatagramBody::Icmp(Bytes::from(message.bytes)),
                    },
                ),
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(capsule = %self.network.name(), %error, "an ICMP message was lost");
                    return;
                }
            }
        }
    }
}
