//! What links do when their way may have changed: the host has other addresses, its cable is back, it slept.
//!
//! A link that this host dialled goes on from another address (RFC 9000, section 9: only a client may migrate). One
//! that the other host dialled can't: it is given up when the address it came to is gone, and dialled from here.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use directory_api::identity;
use directory_api::limits::SOCKET_BUFFER_BYTES;
use overlay_proto::HostName;
use tokio::sync::watch;

use super::{Carrier, Link, Links};
use crate::limits::{PROBE_ROUND_TRIPS, PROBE_TIME};

impl Links {
    /// Becomes different whenever the way to other hosts may have.
    pub fn roused(&self) -> watch::Receiver<u64> {
        self.0.roused.subscribe()
    }

    /// Makes every link try its way anew, and dials begin anew. `addresses` are the host's, `listen` is where links
    /// are to be taken. Gives the hosts whose links can't go on.
    pub fn rouse(&self, addresses: &BTreeSet<IpAddr>, listen: IpAddr) -> Vec<HostName> {
        let mut lost = Vec::new();
        for link in self.all() {
            if link.came_to().is_some_and(|address| !addresses.contains(&address)) {
                link.close("the address that it came to left this host");
                lost.push(link.host.clone());
            }
        }
        if let Err(error) = self.rebind(listen) {
            tracing::warn!(%listen, %error, "links go on at the old address: the new one can't be used");
        }
        let now = Instant::now();
        for link in self.all() {
            let round_trips = link.connection().map(|connection| connection.rtt() * PROBE_ROUND_TRIPS);
            let time = PROBE_TIME + round_trips.unwrap_or_default();
            link.health.lock().expect("no panics under this lock").rebound(now, time);
        }
        self.0.roused.send_modify(|count| *count += 1);
        lost
    }

    /// Takes a socket at `listen`, or the same one if that is where it is. Either makes quinn tell all connections
    /// that their local address changed, upon which each sends a packet under a fresh connection id.
    ///
    /// The same socket is also taken anew because a packet from an address that is gone makes quinn-udp give up
    /// segmentation offload for as long as it has the socket.
    fn rebind(&self, listen: IpAddr) -> io::Result<()> {
        let mut socket = self.0.socket.lock().expect("no panics under this lock");
        let bound = socket.local_addr()?;
        if bound.ip() != listen {
            let wanted = SocketAddr::new(listen, bound.port());
            *socket = identity::udp_socket(wanted, SOCKET_BUFFER_BYTES)?;
            tracing::info!(from = %bound, to = %wanted, "links are taken at another address");
        }
        let again = socket.try_clone()?;
        let _inside = self.0.runtime.enter();
        self.0.endpoint.rebind(again)
    }

    /// Looks at every link; gives those that were not heard for too long. To be called a few times a second.
    pub fn look(&self) -> Vec<Arc<Link>> {
        let now = Instant::now();
        let mut silent = Vec::new();
        for link in self.all() {
            if link.look(now, self.0.silent_after) {
                silent.push(link);
            }
        }
        silent
    }
}

impl Link {
    /// Says whether the link was not heard for too long.
    fn look(&self, now: Instant, silent_after: Duration) -> bool {
        let Carrier::Quic(connection) = &self.carrier else { return false };
        let (datagrams, remote) = (connection.stats().udp_rx.datagrams, connection.remote_address());
        let look = {
            let mut health = self.health.lock().expect("no panics under this lock");
            health.look(now, datagrams, remote, silent_after)
        };
        if let Some((from, to)) = look.moved {
            tracing::info!(host = %self.host, serial = self.serial, %from, %to, "the other host's address changed");
        }
        look.silent && !self.is_down()
    }

    /// The address of this host that the link came to, if the other host dialled it.
    fn came_to(&self) -> Option<IpAddr> {
        let Carrier::Quic(connection) = &self.carrier else { return None };
        connection.local_ip().map(|address| address.to_canonical())
    }
}
