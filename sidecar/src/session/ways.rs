//! Connections from machines without a sidecar: under which addresses their sessions go, and how many each machine has.
//! Pure.
//!
//! The mesh sees a connection that comes in at a published port under a locator of the gateway, with a port that is chosen
//! here, so that no two sessions to one address are ever the same. One that is routed in it sees under the machine's own
//! address.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use thiserror::Error;

/// The first port that sessions get: those below belong to services (RFC 6335).
const FIRST_PORT: u16 = 1024;

/// How many there are.
const PORTS: u16 = u16::MAX - FIRST_PORT + 1;

/// Where the search for a port begins.
#[derive(Debug, Clone, Copy)]
pub enum Begin {
    /// Where the last one ended: what was in use lately is not used again soon.
    Anywhere,
    /// At this number: the same again for what a program must not see change.
    At(u16),
}

/// All ways of one gateway.
#[derive(Debug, Default)]
pub struct Ways {
    taken: Mutex<Taken>,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Taken {
    ends: HashSet<(SocketAddr, SocketAddr)>,
    by_machine: HashMap<IpAddr, usize>,
    /// Where the search for a port goes on.
    next: u16,
}

/// The way of one connection. What it takes is free again when it is dropped.
#[derive(Debug)]
pub struct Way {
    /// The machine's own address.
    pub outside: SocketAddr,
    /// Its address as the mesh sees it.
    pub source: SocketAddr,
    /// The program's address.
    pub destination: SocketAddr,
    ways: Arc<Ways>,
}

/// Why a connection from outside has no way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NoWay {
    /// Its machine has as many as it may.
    #[error("the machine has as many connections as it may")]
    TooMany,
    /// There are as many to its destination as can be told apart.
    #[error("all ports are in use for connections to that address")]
    NoPort,
}

impl Ways {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().expect("no panics under this lock")
    }

    /// What was refused since these were made: machines that had as many as they may, and ports that ran out.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Notes that a machine was refused something.
    pub fn refuse_one(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A way for a connection of `outside` to `destination`, under the address `locator`, if its machine has less than
    /// `machine_max`.
    ///
    /// # Errors
    /// There is none.
    pub fn open(
        self: &Arc<Self>,
        outside: SocketAddr,
        locator: IpAddr,
        destination: SocketAddr,
        machine_max: usize,
        begin: Begin,
    ) -> Result<Way, NoWay> {
        let mut taken = self.taken();
        if taken.by_machine.get(&outside.ip()).is_some_and(|count| *count >= machine_max) {
            return Err(NoWay::TooMany);
        }
        let mut next = match begin {
            Begin::Anywhere => taken.next,
            Begin::At(number) => number % PORTS,
        };
        for _ in 0..PORTS {
            let port = FIRST_PORT + next;
            next = if port == u16::MAX { 0 } else { next + 1 };
            taken.next = next;
            let source = SocketAddr::new(locator, port);
            if taken.ends.insert((source, destination)) {
                *taken.by_machine.entry(outside.ip()).or_default() += 1;
                return Ok(Way { outside, source, destination, ways: self.clone() });
            }
        }
        Err(NoWay::NoPort)
    }

    /// A way for a connection of `outside` to `destination` under its own address, if it has less than `machine_max`. It
    /// may have one of the same ends already, which it has given up then.
    ///
    /// # Errors
    /// There is none, which is counted.
    pub fn open_own(
        self: &Arc<Self>,
        outside: SocketAddr,
        destination: SocketAddr,
        machine_max: usize,
    ) -> Result<Way, NoWay> {
        let mut taken = self.taken();
        let count = taken.by_machine.entry(outside.ip()).or_default();
        if *count >= machine_max {
            self.refuse_one();
            return Err(NoWay::TooMany);
        }
        *count += 1;
        Ok(Way { outside, source: outside, destination, ways: self.clone() })
    }

    /// The way of a connection that has one already: an earlier sidecar opened it.
    pub fn found(self: &Arc<Self>, outside: SocketAddr, source: SocketAddr, destination: SocketAddr) -> Way {
        let mut taken = self.taken();
        if source != outside {
            taken.ends.insert((source, destination));
        }
        *taken.by_machine.entry(outside.ip()).or_default() += 1;
        Way { outside, source, destination, ways: self.clone() }
    }

    /// How many connections there are.
    pub fn count(&self) -> usize {
        self.taken().by_machine.values().sum()
    }

    /// How many that came in at published ports go to these addresses.
    pub fn count_to(&self, destinations: &[SocketAddr]) -> usize {
        self.taken().ends.iter().filter(|(_, to)| destinations.contains(to)).count()
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        let mut taken = self.ways.taken();
        if self.source != self.outside {
            taken.ends.remove(&(self.source, self.destination));
        }
        if let Some(count) = taken.by_machine.get_mut(&self.outside.ip()) {
            *count -= 1;
            if *count == 0 {
                taken.by_machine.remove(&self.outside.ip());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn no_two_ways_to_one_address_are_the_same_and_a_dropped_one_is_free_again() {
        let ways = Arc::new(Ways::default());
        let (locator, db) = ("10.88.0.1".parse().unwrap(), at("10.88.0.2:5432"));
        let all: Vec<Way> = (0..64_512)
            .map(|_| ways.open(at("192.0.2.1:5"), locator, db, usize::MAX, Begin::Anywhere).unwrap())
            .collect();
        let sources: HashSet<SocketAddr> = all.iter().map(|way| way.source).collect();
        assert_eq!((sources.len(), ways.count(), ways.count_to(&[db])), (64_512, 64_512, 64_512));
        assert_eq!(
            ways.open(at("192.0.2.2:5"), locator, db, usize::MAX, Begin::Anywhere).unwrap_err(),
            NoWay::NoPort
        );
        // Another address has all ports again.
        let web = ways.open(at("192.0.2.2:5"), locator, at("10.88.0.3:80"), 1, Begin::At(65_535)).unwrap();
        drop(all);
        assert_eq!((ways.count(), ways.count_to(&[db])), (1, 0));
        drop(web);
        assert!(ways.taken().by_machine.is_empty());
    }

    #[test]
    fn a_machine_has_as_many_as_it_may() {
        let ways = Arc::new(Ways::default());
        let (locator, db) = ("10.88.0.1".parse().unwrap(), at("10.88.0.2:5432"));
        let open = |from: &str| ways.open(at(from), locator, db, 2, Begin::Anywhere);
        let (one, two) = (open("192.0.2.1:1").unwrap(), ways.found(at("192.0.2.1:2"), at("10.88.0.1:9"), db));
        assert_eq!(open("192.0.2.1:3").unwrap_err(), NoWay::TooMany);
        let other = open("192.0.2.9:1").unwrap();
        drop(one);
        let three = open("192.0.2.1:3").unwrap();
        assert_eq!(ways.count(), 3);
        drop((two, other, three));
        assert_eq!(ways.count(), 0);
    }

    #[test]
    fn own_addresses_are_counted_and_take_no_ports() {
        let ways = Arc::new(Ways::default());
        let (machine, db) = (at("192.0.2.1:5000"), at("10.88.0.2:5432"));
        let one = ways.open_own(machine, db, 2).unwrap();
        let two = ways.found(machine, machine, db);
        assert_eq!((one.source, ways.count(), ways.count_to(&[db])), (machine, 2, 0));
        assert_eq!((ways.open_own(machine, db, 2).unwrap_err(), ways.refused()), (NoWay::TooMany, 1));
        drop(one);
        let three = ways.open_own(machine, db, 2).unwrap();
        drop((two, three));
        assert!(ways.taken().by_machine.is_empty());
    }
}
