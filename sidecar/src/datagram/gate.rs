//! The gate before a capsule: shut while it stands still, so that what comes meanwhile waits for it.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use overlay_proto::{Datagram, HostName};

use crate::limits::{DATAGRAM_OVERHEAD_BYTES, DATAGRAMS_WAITING_BYTES};

/// Lets datagrams through, keeps them, or gives them back.
#[derive(Debug)]
pub(super) struct Gate(Mutex<State>);

#[derive(Debug)]
enum State {
    Open,
    Held {
        datagrams: VecDeque<(Instant, HostName, Datagram)>,
        bytes: usize,
    },
    /// The capsule is not here any more.
    Closed,
}

/// What becomes of a datagram at the gate.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Passed {
    Deliver(Datagram),
    Kept,
    NoRoom(Datagram),
    Closed(Datagram),
}

impl Gate {
    pub(super) fn new(held: bool) -> Self {
        Self(Mutex::new(if held { State::held() } else { State::Open }))
    }

    /// Keeps what comes from now on.
    pub(super) fn hold(&self) {
        let mut state = self.0.lock().expect("no panics under this lock");
        if matches!(*state, State::Open) {
            *state = State::held();
        }
    }

    /// Gives out what was kept, in its order, before anything that comes; returns how many waited for longer than `wait`.
    pub(super) fn open(&self, now: Instant, wait: Duration, mut deliver: impl FnMut(Datagram)) -> u64 {
        let mut state = self.0.lock().expect("no panics under this lock");
        let State::Held { datagrams, .. } = &mut *state else { return 0 };
        let mut late = 0;
        for (since, _, datagram) in datagrams.drain(..) {
            match now.duration_since(since) <= wait {
                true => deliver(datagram),
                false => late += 1,
            }
        }
        *state = State::Open;
        late
    }

    /// The capsule goes from this host: gives out what was kept, with the host that each came from.
    pub(super) fn close(&self) -> Vec<(HostName, Datagram)> {
        let mut state = self.0.lock().expect("no panics under this lock");
        match std::mem::replace(&mut *state, State::Closed) {
            State::Open | State::Closed => Vec::new(),
            State::Held { datagrams, .. } => {
                datagrams.into_iter().map(|(_, from, datagram)| (from, datagram)).collect()
            }
        }
    }

    /// Takes a datagram that came from a host.
    pub(super) fn pass(&self, now: Instant, from: &HostName, datagram: Datagram) -> Passed {
        let mut state = self.0.lock().expect("no panics under this lock");
        match &mut *state {
            State::Open => Passed::Deliver(datagram),
            State::Closed => Passed::Closed(datagram),
            State::Held { datagrams, bytes } => {
                let cost = datagram.body.bytes().len() + DATAGRAM_OVERHEAD_BYTES;
                if *bytes + cost > DATAGRAMS_WAITING_BYTES {
                    return Passed::NoRoom(datagram);
                }
                *bytes += cost;
                datagrams.push_back((now, from.clone(), datagram));
                Passed::Kept
            }
        }
    }

    /// Bytes that are kept.
    pub(super) fn bytes(&self) -> usize {
        match &*self.0.lock().expect("no panics under this lock") {
            State::Open | State::Closed => 0,
            State::Held { bytes, .. } => *bytes,
        }
    }
}

impl State {
    fn held() -> Self {
        Self::Held { datagrams: VecDeque::new(), bytes: 0 }
    }
}

#[cfg(test)]
mod tests {
    use overlay_proto::DatagramBody;

    const WAIT: Duration = Duration::from_secs(7);

    use super::*;
    use crate::testing::host;

    fn datagram(number: usize, length: usize) -> Datagram {
        Datagram {
            source: ([10, 88, 0, 1], number as u16).into(),
            destination: ([10, 88, 0, 2], 53).into(),
            traffic_class: 0,
            returned: None,
            returns: 0,
            tag: [0; 16],
            body: DatagramBody::Udp(vec![0; length].into()),
        }
    }

    #[test]
    fn what_was_kept_comes_first_and_in_order() {
        let (gate, now, a) = (Gate::new(false), Instant::now(), host("a"));
        assert_eq!(gate.pass(now, &a, datagram(1, 1)), Passed::Deliver(datagram(1, 1)));
        gate.hold();
        for number in 2..5 {
            assert_eq!(gate.pass(now, &a, datagram(number, 1)), Passed::Kept);
        }
        gate.hold();
        let mut out = Vec::new();
        assert_eq!(gate.open(now, WAIT, |datagram| out.push(datagram)), 0);
        assert_eq!(out, (2..5).map(|number| datagram(number, 1)).collect::<Vec<_>>());
        assert_eq!(gate.pass(now, &a, datagram(5, 1)), Passed::Deliver(datagram(5, 1)));
        assert_eq!(gate.bytes(), 0);
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for_nor_for_longer_than_it_is_of_use() {
        let (gate, now, a) = (Gate::new(true), Instant::now(), host("a"));
        let kept = (0..1000).filter(|number| gate.pass(now, &a, datagram(*number, 60_000)) == Passed::Kept);
        assert_eq!(kept.count(), DATAGRAMS_WAITING_BYTES / (60_000 + DATAGRAM_OVERHEAD_BYTES));
        assert!(gate.bytes() <= DATAGRAMS_WAITING_BYTES);
        let (mut out, later) = (0, now + WAIT * 2);
        assert_eq!(gate.open(later, WAIT, |_| out += 1), 69);
        assert_eq!(out, 0);
    }

    #[test]
    fn what_waits_for_a_capsule_that_goes_is_given_back() {
        let (gate, now) = (Gate::new(true), Instant::now());
        assert_eq!(gate.pass(now, &host("a"), datagram(1, 1)), Passed::Kept);
        assert_eq!(gate.pass(now, &host("b"), datagram(2, 1)), Passed::Kept);
        assert_eq!(gate.close(), [(host("a"), datagram(1, 1)), (host("b"), datagram(2, 1))]);
        assert_eq!(gate.pass(now, &host("a"), datagram(3, 1)), Passed::Closed(datagram(3, 1)));
        // For good.
        gate.hold();
        assert_eq!(gate.open(now, WAIT, |_| panic!("nothing is kept")), 0);
        assert_eq!(gate.pass(now, &host("a"), datagram(4, 1)), Passed::Closed(datagram(4, 1)));
    }
}
