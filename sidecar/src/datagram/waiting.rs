//! Datagrams of one capsule to which nobody knows the way yet, by destination.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use overlay_proto::Datagram;

use crate::limits::{DATAGRAM_DESTINATIONS, DATAGRAM_OVERHEAD_BYTES, DATAGRAMS_WAITING_BYTES};

/// A queue for each destination; one budget for all.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queues: HashMap<IpAddr, VecDeque<(Instant, Datagram)>>,
    bytes: usize,
}

/// What [`Waiting::push`] did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It is the first for its destination: somebody is to look for the way.
    First,
    /// Somebody looks for the way already.
    Waits,
    NoRoom(Datagram),
}

impl Waiting {
    /// Whether somebody looks for the way to a destination.
    pub(super) fn is_sought(&self, destination: &IpAddr) -> bool {
        self.queues.contains_key(destination)
    }

    pub(super) fn push(&mut self, now: Instant, datagram: Datagram) -> Pushed {
        let destination = datagram.destination.ip();
        let first = !self.is_sought(&destination);
        let cost = cost(&datagram);
        if self.bytes + cost > DATAGRAMS_WAITING_BYTES || first && self.queues.len() >= DATAGRAM_DESTINATIONS
        {
            return Pushed::NoRoom(datagram);
        }
        self.bytes += cost;
        self.queues.entry(destination).or_default().push_back((now, datagram));
        if first { Pushed::First } else { Pushed::Waits }
    }

    /// Takes the next datagram for a destination. When there is none, nobody looks for the way any more.
    pub(super) fn pop(&mut self, destination: &IpAddr) -> Option<Datagram> {
        let next = self.queues.get_mut(destination).and_then(VecDeque::pop_front);
        match next {
            Some((_, datagram)) => {
                self.bytes -= cost(&datagram);
                Some(datagram)
            }
            None => {
                self.queues.remove(destination);
                None
            }
        }
    }

    /// Takes the next datagram for a destination that waited for longer than `wait`.
    pub(super) fn pop_late(
        &mut self,
        now: Instant,
        wait: Duration,
        destination: &IpAddr,
    ) -> Option<Datagram> {
        let (since, _) = self.queues.get(destination)?.front()?;
        if now.duration_since(*since) <= wait {
            return None;
        }
        self.pop(destination)
    }

    /// Whether nothing waits for a destination.
    pub(super) fn is_empty(&self, destination: &IpAddr) -> bool {
        self.queues.get(destination).is_none_or(VecDeque::is_empty)
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn cost(datagram: &Datagram) -> usize {
    datagram.body.bytes().len() + DATAGRAM_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use overlay_proto::DatagramBody;

    use super::*;

    fn datagram(destination: u32, number: u16, length: usize) -> Datagram {
        Datagram {
            source: ([10, 88, 0, 1], number).into(),
            destination: (IpAddr::V4((0x0a58_0000 + destination).into()), 53).into(),
            traffic_class: 0,
            returned: None,
            returns: 0,
            tag: [0; 16],
            body: DatagramBody::Udp(vec![0; length].into()),
        }
    }

    #[test]
    fn each_destination_has_one_seeker_and_its_own_order() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        let [one, two] = [1, 2].map(|to| datagram(to, 0, 0).destination.ip());
        assert_eq!(waiting.push(now, datagram(1, 1, 5)), Pushed::First);
        assert_eq!(waiting.push(now, datagram(1, 2, 5)), Pushed::Waits);
        assert_eq!(waiting.push(now, datagram(2, 3, 5)), Pushed::First);
        assert_eq!(waiting.pop(&one), Some(datagram(1, 1, 5)));
        assert_eq!(waiting.pop(&one), Some(datagram(1, 2, 5)));
        // Whoever is about to send may still get more.
        assert!(waiting.is_empty(&one) && waiting.is_sought(&one));
        assert_eq!(waiting.push(now, datagram(1, 4, 5)), Pushed::Waits);
        assert_eq!(waiting.pop(&one), Some(datagram(1, 4, 5)));
        assert_eq!(waiting.pop(&one), None);
        assert!(!waiting.is_sought(&one) && waiting.is_sought(&two));
        assert_eq!(waiting.push(now, datagram(1, 5, 5)), Pushed::First);
    }

    #[test]
    fn bytes_destinations_and_time_are_bounded() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        let mut kept = 0;
        while !matches!(waiting.push(now, datagram(1, 0, 60_000)), Pushed::NoRoom(_)) {
            kept += 1;
        }
        assert_eq!(kept, DATAGRAMS_WAITING_BYTES / (60_000 + DATAGRAM_OVERHEAD_BYTES));
        let to = datagram(1, 0, 0).destination.ip();
        let wait = Duration::from_secs(7);
        assert_eq!(waiting.pop_late(now + wait, wait, &to), None);
        while waiting.pop_late(now + wait * 2, wait, &to).is_some() {
            kept -= 1;
        }
        assert_eq!((kept, waiting.bytes()), (0, 0));
        let pushed = (2..5000).filter(|to| waiting.push(now, datagram(*to, 0, 0)) == Pushed::First);
        assert_eq!(pushed.count(), DATAGRAM_DESTINATIONS - 1);
    }
}
