//! Datagrams that a link brings: whether the host may say that, whether the policy allows it, and whether the capsule is
//! here.

use std::sync::Arc;
use std::time::SystemTime;

use directory_api::CapsuleRecord;
use directory_api::policy::Judgement;
use kernel::icmp::{self, Kind};
use overlay_proto::{Datagram, DatagramBody, ReturnReason};

use super::{Forwarder, Lost, Undelivered};
use crate::capsule::network::Network;
use crate::link::Link;
use crate::policy::Denial;

/// What is asked of the policy for a ping: a rule about single ports says nothing of pings.
const NO_PORT: u16 = 0;

/// What stands in the way of a datagram.
enum Obstacle {
    /// The directory may know more than this host.
    Outdated(Lost),
    /// The rules, as this host knows them, forbid it.
    Denied(Judgement),
    /// What it says may not be said.
    Forged,
}

impl Forwarder {
    /// Takes a datagram that a link brought.
    pub fn arrive(&self, link: &Arc<Link>, datagram: Datagram) {
        match datagram.returned {
            Some(reason) => self.came_back(link, datagram, reason),
            None => self.arrive_once(link, datagram, false),
        }
    }

    fn arrive_once(&self, link: &Arc<Link>, datagram: Datagram, asked: bool) {
        let (source, destination) = (datagram.source.ip(), datagram.destination.ip());
        let Some(to) = self.addressee(destination, &link.host) else {
            match asked {
                true => self.give_back(link, datagram, ReturnReason::NotHere),
                false => self.ask(link, datagram),
            }
            return;
        };
        let Some(network) = self.0.networks.of(&to.id) else {
            self.give_back(link, datagram, ReturnReason::NotHere);
            return;
        };
        if network.reach().is_some()
            && !network.locators().contains(destination)
            && !self.may_be_outside(&network, destination)
        {
            self.lost(&network, Lost::Nowhere, &datagram);
            self.give_back(link, datagram, ReturnReason::Denied);
            return;
        }
        let judged = match self.speaker(source, &link.host, to.id) {
            Some(from) if from.host == link.host => {
                self.judge(&from, &to, &datagram, &network).map(|()| from)
            }
            _ => Err(Obstacle::Outdated(Lost::Misplaced)),
        };
        if let Ok(from) = &judged
            && !from.locators.contains(source)
        {
            self.goes_by(to.id, source, from.id);
        }
        match judged {
            Ok(_) => match network.datagrams().deliver(&link.host, datagram) {
                Ok(()) => {
                    network.datagrams().counts.add_received();
                    self.0.counts.add_received();
                }
                Err(Undelivered::NoRoom(datagram)) => self.lost(&network, Lost::NoRoom, &datagram),
                Err(Undelivered::Gone(datagram)) => self.give_back(link, datagram, ReturnReason::NotHere),
            },
            Err(Obstacle::Outdated(_) | Obstacle::Denied(_)) if !asked => self.ask(link, datagram),
            Err(Obstacle::Outdated(lost)) => {
                tracing::debug!(host = %link.host, from = %datagram.source, "refused: the sender is not placed on that host");
                self.lost(&network, lost, &datagram);
            }
            Err(Obstacle::Denied(judgement)) => {
                self.lost(&network, Lost::Denied, &datagram);
                self.note_denial(link, &network, &datagram, judgement);
                self.give_back(link, datagram, ReturnReason::Denied);
            }
            Err(Obstacle::Forged) => self.lost(&network, Lost::Misplaced, &datagram),
        }
    }

    /// Whether a datagram may go from one capsule to another.
    fn judge(
        &self,
        from: &CapsuleRecord,
        to: &CapsuleRecord,
        datagram: &Datagram,
        network: &Network,
    ) -> Result<(), Obstacle> {
        let Datagram { source, destination, .. } = *datagram;
        let policy = self.0.places.policy();
        let judged = |from, to, port| policy.judge(from, to, port).ok_or(Obstacle::Outdated(Lost::Denied));
        let (asks, answers) = match &datagram.body {
            DatagramBody::Udp(_) => {
                (judged(from, to, destination.port())?, Some(judged(to, from, source.port())?))
            }
            DatagramBody::Icmp(message) => match icmp::kind(source.is_ipv6(), message) {
                Some(Kind::Echo) => (judged(from, to, NO_PORT)?, None),
                Some(Kind::EchoReply) => return allowed(judged(to, from, NO_PORT)?),
                // About something that went the other way between the two; whether it did, the kernel knows.
                Some(Kind::Unreachable { protocol, sender, target }) => {
                    let of_these = sender == destination.ip() && target == source.ip();
                    return if of_these && is_carried(protocol) { Ok(()) } else { Err(Obstacle::Forged) };
                }
                None => return Err(Obstacle::Forged),
            },
        };
        let answer = || {
            answers.is_some_and(Judgement::is_allowed)
                && network.datagrams().may_have_asked(destination, source)
        };
        if asks.is_allowed() || answer() { Ok(()) } else { Err(Obstacle::Denied(asks)) }
    }

    /// Asks the directory where sender and receiver are, and for the rules, and takes the datagram again; no more of them
    /// at once than there is room for.
    fn ask(&self, link: &Arc<Link>, datagram: Datagram) {
        let Ok(permit) = self.0.checks.clone().try_acquire_owned() else {
            self.lost_here(Lost::NoRoom, &datagram);
            return;
        };
        let (forwarder, link) = (self.clone(), link.clone());
        tokio::spawn(async move {
            let places = &forwarder.0.places;
            let from = forwarder.ask_for_speaker(datagram.source.ip(), &link.host).await;
            let to = forwarder.ask_for_speaker(datagram.destination.ip(), &forwarder.0.me).await;
            if let Some(from) = from.as_ref().filter(|from| from.host != link.host) {
                let _ = places.refresh(&from.id).await;
            }
            if let (Some(from), Some(to)) = (&from, &to) {
                let port = match datagram.body {
                    DatagramBody::Udp(_) => datagram.destination.port(),
                    DatagramBody::Icmp(_) => NO_PORT,
                };
                let _ = places.policy().judge_now(from, to, port).await;
            }
            forwarder.arrive_once(&link, datagram, true);
            drop(permit);
        });
    }

    fn note_denial(&self, link: &Link, network: &Network, datagram: &Datagram, judgement: Judgement) {
        let Datagram { source, destination, .. } = datagram;
        let (from, to) = (self.speaker(source.ip(), &link.host, network.id()), network.id());
        let Some(from) = from else { return };
        let port = destination.port();
        let denial = Denial { from: from.id, to, port, at: SystemTime::now(), judgement };
        network.policed().denied_in(denial.clone());
        self.0.places.policy().totals().denied_in(denial);
    }
}

fn allowed(judgement: Judgement) -> Result<(), Obstacle> {
    if judgement.is_allowed() { Ok(()) } else { Err(Obstacle::Denied(judgement)) }
}

/// Whether packets of this protocol go between capsules as datagrams, so that there can be errors about them.
fn is_carried(protocol: u8) -> bool {
    [icmp::PROTOCOL_UDP, icmp::PROTOCOL_V4, icmp::PROTOCOL_V6].contains(&protocol)
}
