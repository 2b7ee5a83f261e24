//! Which flows of datagrams machines outside have at one published port. Reads no clock.

use std::collections::HashMap;
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
}

#[derive(Debug)]
struct Flow {
    way: Way,
    used: Instant,
    answered: bool,
}

impl Flow {
    fn is_over(&self, now: Instant) -> bool {
        let limit = if self.answered { FLOW_IDLE } else { OUTSIDE_FLOW_UNANSWERED };
        now.duration_since(self.used) >= limit
    }
}

impl Flows {
    /// Source and destination in the mesh of what a machine sent; a new flow gets the way that `open` finds.
    pub(super) fn sent(
        &mut self,
        now: Instant,
        ends: Ends,
        destination: SocketAddr,
        open: impl FnOnce() -> Option<Way>,
    ) -> Option<SocketAddr> {
        if let Some(flow) = self.by_ends.get_mut(&ends)
            && flow.way.destination == destination
        {
            flow.used = now;
            return Some(flow.way.source);
        }
        self.forget(&ends);
        if self.by_ends.len() >= OUTSIDE_FLOWS_MAX {
            return None;
        }
        let way = open()?;
        let source = way.source;
        self.by_way.insert((source, destination), ends);
        self.by_ends.insert(ends, Flow { way, used: now, answered: false });
        Some(source)
    }

    /// The machine for which a datagram from `program` is, that was sent to `source`.
    pub(super) fn answered(&mut self, now: Instant, source: SocketAddr, program: SocketAddr) -> Option<Ends> {
        let ends = *self.by_way.get(&(source, program))?;
        let flow = self.by_ends.get_mut(&ends)?;
        (flow.used, flow.answered) = (now, true);
        Some(ends)
    }

    /// Forgets what has been quiet for too long.
    pub(super) fn sweep(&mut self, now: Instant) {
        let over: Vec<_> =
            self.by_ends.iter().filter(|(_, flow)| flow.is_over(now)).map(|(ends, _)| *ends).collect();
        over.iter().for_each(|ends| self.forget(ends));
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
        assert_eq!((ways.count(), flows.by_way.len()), (0, 0));
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
}
