//! Which flows of datagrams machines outside have at one published port. Reads no clock.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::limits::{FLOW_IDLE, OUTSIDE_FLOW_UNANSWERED, OUTSIDE_FLOWS_MAX};
use crate::session::Way;

/// Both ends of a flow as the machine sees it: its own address, and that of the gateway.
pub(super) type Ends = (SocketAddr, IpAddr);

/// The flows at one port.
#[derive(Debug, Default)]
pub(super) struct Flows {
    by_ends: HashMap<Ends, Flow>,
    /// By source and destination in the mesh.
    by_way: HashMap<(SocketAddr, SocketAddr), Ends>,
    /// In the order in which one makes room for the next: a flow that was used since it was put here gets a second turn.
    by_machine: HashMap<IpAddr, VecDeque<Ends>>,
}

#[derive(Debug)]
struct Flow {
    way: Way,
    used: Instant,
    answered: bool,
    /// Used since its machine's flows were last looked at for room.
    in_use: bool,
}

impl Flow {
    fn is_over(&self, now: Instant) -> bool {
        let limit = if self.answered { FLOW_IDLE } else { OUTSIDE_FLOW_UNANSWERED };
        now.duration_since(self.used) >= limit
    }
}

impl Flows {
    /// Source and destination in the mesh of what a machine sent; a new flow gets the way that `open` finds. Where there is
    /// none, the machine's flow that is quiet for longest, or nearly so, makes room: it may ask as often as it likes.
    pub(super) fn sent(
        &mut self,
        now: Instant,
        ends: Ends,
        destination: SocketAddr,
        open: impl Fn() -> Option<Way>,
    ) -> Option<SocketAddr> {
        if let Some(flow) = self.by_ends.get_mut(&ends)
            && flow.way.destination == destination
        {
            (flow.used, flow.in_use) = (now, true);
            return Some(flow.way.source);
        }
        self.forget(&ends);
        if self.by_ends.len() >= OUTSIDE_FLOWS_MAX && !self.make_room(ends.0.ip()) {
            return None;
        }
        let way = match open() {
            Some(way) => way,
            None if self.make_room(ends.0.ip()) => open()?,
            None => return None,
        };
        let source = way.source;
        self.by_way.insert((source, destination), ends);
        self.by_ends.insert(ends, Flow { way, used: now, answered: false, in_use: false });
        self.by_machine.entry(ends.0.ip()).or_default().push_back(ends);
        Some(source)
    }

    /// Forgets one flow of a machine; false when it has none.
    fn make_room(&mut self, machine: IpAddr) -> bool {
        let Some(queue) = self.by_machine.get_mut(&machine) else { return false };
        while let Some(ends) = queue.pop_front() {
            match self.by_ends.get_mut(&ends) {
                Some(flow) if flow.in_use => {
                    flow.in_use = false;
                    queue.push_back(ends);
                }
                Some(_) => {
                    self.forget(&ends);
                    return true;
                }
                None => {}
            }
        }
        false
    }

    /// The machine for which a datagram from `program` is, that was sent to `source`.
    pub(super) fn answered(&mut self, now: Instant, source: SocketAddr, program: SocketAddr) -> Option<Ends> {
        let ends = *self.by_way.get(&(source, program))?;
        let flow = self.by_ends.get_mut(&ends)?;
        (flow.used, flow.answered, flow.in_use) = (now, true, flow.answered);
        Some(ends)
    }

    /// Forgets what has been quiet for too long.
    pub(super) fn sweep(&mut self, now: Instant) {
        let over: Vec<_> =
            self.by_ends.iter().filter(|(_, flow)| flow.is_over(now)).map(|(ends, _)| *ends).collect();
        over.iter().for_each(|ends| self.forget(ends));
        self.by_machine.retain(|_, queue| {
            queue.retain(|ends| self.by_ends.contains_key(ends));
            !queue.is_empty()
        });
    }

    fn forget(&mut self, ends: &Ends) {
        if let Some(flow) = self.by_ends.remove(ends) {
            self.by_way.remove(&(flow.way.source, flow.way.destination));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::session::{Begin, Ways};

    #[test]
    fn flows_go_both_ways_until_they_are_quiet() {
        let (ways, mut flows, start) = (Arc::new(Ways::default()), Flows::default(), Instant::now());
        let (locator, dns) = ("10.88.0.1".parse().unwrap(), "10.88.0.2:53".parse().unwrap());
        let ends = |port: u16| (SocketAddr::from(([192, 0, 2, 1], port)), IpAddr::from([192, 0, 2, 9]));
        let open = |port| ways.open(ends(port).0, locator, dns, 9, Begin::At(port)).ok();
        let send = |flows: &mut Flows, at: u64, port| {
            flows.sent(start + Duration::from_secs(at), ends(port), dns, || open(port))
        };
        let one = send(&mut flows, 0, 1).unwrap();
        let two = send(&mut flows, 0, 2).unwrap();
        assert_eq!((one.port(), two.port(), ways.count()), (1025, 1026, 2));
        assert_eq!(send(&mut flows, 1, 1), Some(one));
        assert_eq!(flows.answered(start, one, dns), Some(ends(1)));
        assert_eq!(flows.answered(start, one, "10.88.0.3:53".parse().unwrap()), None);
        // The second one was never answered.
        flows.sweep(start + OUTSIDE_FLOW_UNANSWERED);
        assert_eq!((flows.answered(start, two, dns), ways.count()), (None, 1));
        flows.sweep(start + FLOW_IDLE);
        assert_eq!((ways.count(), flows.by_way.len(), flows.by_machine.len()), (0, 0, 0));
    }

    #[test]
    fn there_are_no_more_than_may_be() {
        let (ways, mut flows, now) = (Arc::new(Ways::default()), Flows::default(), Instant::now());
        let (locator, dns) = ("10.88.0.1".parse().unwrap(), "10.88.0.2:53".parse().unwrap());
        let mut send = |number: usize| {
            let machine = SocketAddr::from(([10, 1, (number / 256) as u8, (number % 256) as u8], 7));
            let ends = (machine, IpAddr::from([192, 0, 2, 9]));
            flows.sent(now, ends, dns, || ways.open(machine, locator, dns, 1, Begin::Anywhere).ok())
        };
        assert!((0..OUTSIDE_FLOWS_MAX).all(|number| send(number).is_some()));
        assert_eq!((send(OUTSIDE_FLOWS_MAX), send(3).is_some()), (None, true));
    }

    #[test]
    fn a_machine_that_has_all_it_may_forgets_what_is_quiet() {
        let (ways, mut flows, now) = (Arc::new(Ways::default()), Flows::default(), Instant::now());
        let (locator, dns) = ("10.88.0.1".parse().unwrap(), "10.88.0.2:53".parse().unwrap());
        let ends = |machine: u8, port: u16| {
            (SocketAddr::from(([192, 0, 2, machine], port)), IpAddr::from([192, 0, 2, 9]))
        };
        let mut send = |machine, port| {
            let ends = ends(machine, port);
            flows.sent(now, ends, dns, || ways.open(ends.0, locator, dns, 3, Begin::Anywhere).ok())
        };
        let game = send(1, 1).unwrap();
        let other = send(2, 1).unwrap();
        // The game goes on; of the others each is asked once and answered never.
        for port in 2..100 {
            assert!(send(1, port).is_some(), "port {port}");
            assert_eq!(send(1, 1), Some(game));
        }
        assert_eq!((send(2, 1), ways.count()), (Some(other), 4));
        // What has all its connections elsewhere has no flow that could make room.
        let taken: Vec<Way> = (0..3).map(|port| ways.found(ends(3, port).0, game, dns)).collect();
        assert_eq!(send(3, 9), None);
        drop(taken);
        assert!(send(3, 9).is_some());
    }
}
