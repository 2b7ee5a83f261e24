//! Which connection of one host pair is their link, when both hosts dial at once.
//!
//! One of the two hosts decides, and the other one hears what was decided before it uses the connection: were each to
//! choose by itself, the link that one of them uses already could be closed for the one that the other one saw first, with
//! the requests on it, which nobody can repeat.
//!
//! A later link takes the place of an earlier one, which its dialler must have given up. The exception is a *tie*: who
//! dialled did not know of the link that came up meanwhile. A tie is told by what the dialler knew, which it says in its
//! greeting, not by time: one who knew the other link and dialled all the same has found it dead (its own address has
//! changed, say, and a link that came to the old one is lost on one side only).

use std::time::Instant;

use overlay_proto::{Frame, HostName};

use crate::limits::DIAL_TIMEOUT;

/// How a link came about, as both ends know it.
#[derive(Debug, Clone)]
pub(super) struct Dial {
    /// Who dialled.
    pub(super) dialler: HostName,
    /// Drawn by the dialler.
    pub(super) id: u64,
    /// The id of the newest link of the two that its dialler knew when it began.
    pub(super) known: u64,
    /// The other host's sidecar, which draws this when it starts.
    pub(super) far: u64,
    /// When it came up here.
    pub(super) since: Instant,
}

impl Dial {
    /// The link that the host of the other end dialled, by its greeting.
    pub(super) fn accepted(dialler: HostName, greeting: &Frame) -> Self {
        let (far, id, known) = said(greeting);
        Self { dialler, id, known, far, since: Instant::now() }
    }

    /// The link that this host dialled; `greeting` is the other host's.
    pub(super) fn made(me: HostName, id: u64, known: u64, greeting: &Frame) -> Self {
        let (far, _, _) = said(greeting);
        Self { dialler: me, id, known, far, since: Instant::now() }
    }
}

fn said(greeting: &Frame) -> (u64, u64, u64) {
    match greeting {
        Frame::Hello { sidecar, dial, known, .. } => (*sidecar, *dial, *known),
        _ => (0, 0, 0),
    }
}

/// Whether `me` is the host that decides on the links with `other`.
pub(super) fn decides(me: &HostName, other: &HostName) -> bool {
    me < other
}

/// Whether the old link of a pair stays when a new connection is there, for the host that decides.
pub(super) fn stays(old: &Dial, new: &Dial) -> bool {
    old.far == new.far
        && new.known != old.id
        // No two dials that were under way at once come up further apart.
        && new.since.duration_since(old.since) < 2 * DIAL_TIMEOUT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::host;

    /// Between a and b, as a sees it; came up so long after the beginning.
    fn dial(dialler: &str, id: u64, known: u64, since: Instant) -> Dial {
        Dial { dialler: host(dialler), id, known, far: 7, since }
    }

    #[test]
    fn a_link_stays_when_a_dial_that_crossed_it_comes_up() {
        let began = Instant::now();
        let later = began + 2 * DIAL_TIMEOUT - DIAL_TIMEOUT / 100;
        // However late, whoever dialled it, and also when both dialled in place of one that was dead.
        for (at, known) in [(began, 0), (later, 0), (later, 9)] {
            assert!(stays(&dial("a", 1, known, began), &dial("a", 2, known, at)));
            assert!(stays(&dial("a", 1, known, began), &dial("b", 2, known, at)));
            assert!(stays(&dial("b", 2, known, began), &dial("a", 1, known, at)));
        }
        // So late it is no tie: the old one must be dead, though its dialler had not heard of the newest.
        assert!(!stays(&dial("a", 1, 0, began), &dial("b", 2, 9, began + 2 * DIAL_TIMEOUT)));
    }

    #[test]
    fn one_of_two_hosts_decides() {
        assert!(decides(&host("a"), &host("b")) && !decides(&host("b"), &host("a")));
    }

    #[test]
    fn who_dials_although_it_knows_the_link_has_found_it_dead() {
        // However young it is, and whoever dialled it.
        let began = Instant::now();
        assert!(!stays(&dial("a", 1, 0, began), &dial("b", 2, 1, began)));
        assert!(!stays(&dial("b", 2, 0, began), &dial("a", 1, 2, began)));
        assert!(!stays(&dial("a", 1, 0, began), &dial("a", 3, 1, began)));
    }

    #[test]
    fn a_sidecar_that_started_anew_knows_nothing_of_the_old_link() {
        let began = Instant::now();
        let anew = Dial { far: 8, ..dial("b", 2, 0, began) };
        assert!(!stays(&dial("a", 1, 0, began), &anew));
    }
}
