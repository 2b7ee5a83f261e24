//! Where the directories of the mesh are, in the order in which they are tried.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::limits::DIRECTORIES_MAX;

/// Addresses that change.
#[derive(Debug)]
pub(super) struct Addresses(Mutex<Vec<SocketAddr>>);

impl Addresses {
    pub(super) fn new(mut addresses: Vec<SocketAddr>) -> Self {
        addresses.truncate(DIRECTORIES_MAX);
        Self(Mutex::new(addresses))
    }

    /// All of them, the one to be tried first in front.
    pub(super) fn in_turn(&self) -> Vec<SocketAddr> {
        self.lock().clone()
    }

    pub(super) fn are_several(&self) -> bool {
        self.lock().len() > 1
    }

    /// One was of no use: it is tried when all others have been.
    pub(super) fn put_last(&self, address: SocketAddr) {
        let mut addresses = self.lock();
        // A socket for both families shows IPv4 addresses in their IPv6 form.
        let canonical = SocketAddr::new(address.ip().to_canonical(), address.port());
        if let Some(place) = addresses.iter().position(|known| *known == address || *known == canonical) {
            addresses[place..].rotate_left(1);
        }
    }

    /// These are all there are. Those that were known stay in their order, so that not all hosts go to the same one.
    pub(super) fn learn(&self, all: &[SocketAddr]) {
        if all.is_empty() {
            return;
        }
        let mut addresses = self.lock();
        addresses.retain(|known| all.contains(known));
        for address in all {
            if !addresses.contains(address) && addresses.len() < DIRECTORIES_MAX {
                addresses.push(*address);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    #[test]
    fn whoever_failed_comes_last_and_the_rest_keeps_its_order() {
        let addresses = Addresses::new(vec![at(1), at(2), at(3)]);
        addresses.put_last(at(1));
        assert_eq!(addresses.in_turn(), [at(2), at(3), at(1)]);
        addresses.put_last(at(9));
        addresses.put_last("[::ffff:192.0.2.1]:3".parse().unwrap());
        assert_eq!(addresses.in_turn(), [at(2), at(1), at(3)]);
        addresses.learn(&[at(3), at(4), at(1)]);
        assert_eq!(addresses.in_turn(), [at(1), at(3), at(4)]);
        addresses.learn(&[]);
        assert_eq!(addresses.in_turn().len(), 3, "whoever says nothing means nothing");
        assert!(addresses.are_several());
    }
}
