//! Datagrams on their way out: to the host where the directory places the capsule, or into a queue until that is known
//! and can be reached.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use overlay_proto::{Datagram, DatagramBody, HostName, ReturnReason};

use super::waiting::Pushed;
use super::{FlowKey, Forwarder, Lost};
use crate::capsule::network::Network;
use crate::limits::{DATAGRAM_RETURNS, RETRY_FIRST, RETRY_LONGEST, START_GRACE};
use crate::link::{Link, NotSent};
use crate::places::can_never_answer;

/// What is known of the way to a destination.
enum Way {
    Link(Arc<Link>),
    /// Nobody has the address.
    None,
    /// Who has it does not run, or has just begun to and nobody was told yet.
    Stopped,
    /// It may be known later.
    NotYet,
}

impl Forwarder {
    /// Sends what came out of a capsule's network.
    pub(crate) fn send(&self, network: &Arc<Network>, mut datagram: Datagram) {
        let Datagram { source, destination, .. } = datagram;
        // A program may have bound loopback; nobody else could answer that, nor groups, which do not reach beyond a host.
        let may_say = network.locators().contains(source.ip()) || self.may_be_outside(network, source.ip());
        if !may_say || !is_one_host(destination.ip()) {
            self.lost(network, Lost::Nowhere, &datagram);
            return;
        }
        if let DatagramBody::Udp(payload) = &datagram.body {
            let key = FlowKey { local: source, remote: destination };
            network.datagrams().note_sent(Instant::now(), key, payload.len());
        }
        datagram.tag = self.tag(&datagram);
        self.forward(network, datagram);
    }

    fn forward(&self, network: &Arc<Network>, datagram: Datagram) {
        let to = datagram.destination.ip();
        // What came before it goes before it.
        if network.datagrams().waiting().is_sought(&to) {
            self.wait(network, datagram, false);
            return;
        }
        match self.way_now(network, &to) {
            Some(link) => self.send_over(network, &link, datagram),
            None => self.wait(network, datagram, false),
        }
    }

    fn send_over(&self, network: &Arc<Network>, link: &Arc<Link>, datagram: Datagram) {
        self.sent_over(network, link.send_datagram(datagram));
    }

    fn sent_over(&self, network: &Arc<Network>, sent: Result<(), (NotSent, Datagram)>) {
        match sent {
            Ok(()) => {
                network.datagrams().counts.add_sent();
                self.0.counts.add_sent();
            }
            Err((NotSent::Down, datagram)) => self.wait(network, datagram, false),
            Err((NotSent::NoRoom, datagram)) => self.lost(network, Lost::NoRoom, &datagram),
        }
    }

    /// A datagram of a capsule here came back.
    pub(super) fn came_back(&self, link: &Link, mut datagram: Datagram, reason: ReturnReason) {
        let Some(network) = self.sender(&datagram) else {
            self.lost_here(Lost::TooLate, &datagram);
            return;
        };
        match reason {
            ReturnReason::NotHere => {
                // Else a host could have this one send what it likes, in the name of capsules here.
                if self.tag(&datagram) != datagram.tag {
                    self.lost(&network, Lost::Misplaced, &datagram);
                } else if datagram.returns >= DATAGRAM_RETURNS {
                    self.lost(&network, Lost::TooLate, &datagram);
                } else {
                    datagram.returned = None;
                    self.wait(&network, datagram, true);
                }
            }
            ReturnReason::Denied => {
                let peer = self.speaker(datagram.destination.ip(), &link.host, network.id());
                let may_say = peer.is_some_and(|record| record.host == link.host);
                let (local, remote) = (datagram.source, datagram.destination);
                if may_say && network.datagrams().may_have_asked(local, remote) {
                    self.lost(&network, Lost::Denied, &datagram);
                    network.datagrams().tell_unreachable(&datagram);
                } else {
                    self.lost(&network, Lost::Misplaced, &datagram);
                }
            }
        }
    }

    /// Puts a datagram into the queue of its destination, and looks for the way if nobody does. With `ask`, what this
    /// host knows of the place is not relied on.
    fn wait(&self, network: &Arc<Network>, datagram: Datagram, ask: bool) {
        let to = datagram.destination.ip();
        let pushed = network.datagrams().waiting().push(Instant::now(), datagram);
        match pushed {
            Pushed::Waits => {}
            Pushed::First => drop(tokio::spawn(self.clone().seek(network.clone(), to, ask))),
            Pushed::NoRoom(datagram) => self.lost(network, Lost::NoRoom, &datagram),
        }
    }

    /// Looks for the way to a destination until it is found, or nothing waits for it any more.
    async fn seek(self, network: Arc<Network>, to: IpAddr, ask: bool) {
        let closed = network.closed();
        let (began, mut pause) = (Instant::now(), RETRY_FIRST);
        if ask && let Some(record) = self.known_to(&network, &to) {
            let (host, generation) = (record.host, record.generation);
            if let Err(error) = self.0.places.refresh(&record.id).await {
                tracing::debug!(%to, error = format!("{error:#}"), "the directory was asked in vain");
            }
            let now = self.known_to(&network, &to);
            if now.is_some_and(|now| now.host == host && now.generation == generation) {
                // The host where it is placed does not have it yet, or any more.
                self.0.places.changed_or(RETRY_FIRST).await;
            }
        }
        // To look once takes no longer than a link takes to come up, which everything waits for.
        let mut looked = false;
        while !closed.is_cancelled() {
            while looked && let Some(late) = self.pop_late(&network, &to) {
                self.lost(&network, Lost::TooLate, &late);
            }
            looked = true;
            if network.datagrams().waiting().is_empty(&to) {
                break;
            }
            match self.way(&network, &to).await {
                Way::Link(link) => {
                    // More may come until the queue is gone.
                    while let Some(datagram) = pop(&network, &to) {
                        self.sent_over(&network, link.send_datagram_waiting(datagram).await);
                    }
                    return;
                }
                Way::Stopped if began.elapsed() < START_GRACE => {}
                Way::None | Way::Stopped => {
                    while let Some(datagram) = pop(&network, &to) {
                        self.lost(&network, Lost::Nowhere, &datagram);
                        network.datagrams().tell_unreachable(&datagram);
                    }
                    return;
                }
                Way::NotYet => {}
            }
            tokio::select! {
                () = closed.cancelled() => {}
                () = self.0.places.changed_or(pause) => {}
            }
            pause = (pause * 2).min(RETRY_LONGEST);
        }
        // Also so that whoever sends next looks again.
        while let Some(datagram) = pop(&network, &to) {
            self.lost(&network, Lost::TooLate, &datagram);
        }
    }

    fn pop_late(&self, network: &Network, to: &IpAddr) -> Option<Datagram> {
        network.datagrams().waiting().pop_late(Instant::now(), self.0.wait, to)
    }

    /// The way, if it takes no waiting.
    fn way_now(&self, network: &Network, to: &IpAddr) -> Option<Arc<Link>> {
        let record = self.known_to(network, to)?;
        if record.suspension.is_some() || can_never_answer(&record) {
            return None;
        }
        self.0.routes.existing_link(&record.host)
    }

    async fn way(&self, network: &Network, to: &IpAddr) -> Way {
        // Without a word of the directory nobody is there.
        let Ok(Some(record)) = self.found_for(network, *to).await else { return Way::None };
        if can_never_answer(&record) {
            return Way::Stopped;
        }
        if record.suspension.is_some() {
            return Way::NotYet;
        }
        match self.0.routes.link(record.id, &record.host).await {
            // It may have left while the link came up.
            Ok(link) => match self.known_to(network, to) {
                Some(now) if now.host == record.host => Way::Link(link),
                _ => Way::NotYet,
            },
            Err(error) => {
                tracing::debug!(%to, error = format!("{error:#}"), "datagrams wait");
                Way::NotYet
            }
        }
    }

    /// Sends a datagram back to the host that it came from.
    pub(super) fn give_back(&self, link: &Arc<Link>, mut datagram: Datagram, reason: ReturnReason) {
        datagram.returned = Some(reason);
        datagram.returns = datagram.returns.saturating_add(1);
        if reason == ReturnReason::Denied {
            shorten(&mut datagram.body);
        }
        if let Err((_, datagram)) = link.send_datagram(datagram) {
            self.lost_here(Lost::NoRoom, &datagram);
        }
    }

    /// A capsule goes from this host for good: what waits for it goes back to where it came from.
    pub fn close(&self, network: &Network) {
        for (host, datagram) in network.datagrams().close() {
            self.give_back_to(&host, datagram);
        }
    }

    fn give_back_to(&self, host: &HostName, datagram: Datagram) {
        match self.0.routes.existing_link(host) {
            Some(link) => self.give_back(&link, datagram, ReturnReason::NotHere),
            None => self.lost_here(Lost::TooLate, &datagram),
        }
    }
}

fn pop(network: &Network, to: &IpAddr) -> Option<Datagram> {
    network.datagrams().waiting().pop(to)
}

/// Bytes of what was denied that go back: as much as an ICMP error quotes.
const DENIED_BYTES: usize = 8;

fn shorten(body: &mut DatagramBody) {
    match body {
        DatagramBody::Udp(bytes) | DatagramBody::Icmp(bytes) => bytes.truncate(DENIED_BYTES),
    }
}

/// Whether an address can be that of one capsule.
fn is_one_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !address.is_multicast() && !address.is_unspecified() && !broadcast
}
