//! SYNs that no queue holds: it is full, there is none, or the gate is shut.

use std::net::SocketAddr;
use std::time::Duration;

use crate::capsule::*;
use crate::interception::{connect, next};
use kernel::rules::{self, Interception};
use kernel::syn::{self, SynQueue, Verdict, WhenFull};
use kernel::tcp;

/// Time in which a SYN that is dropped would have been seen, and below that after which it is sent again.
const AT_ONCE: Duration = Duration::from_millis(400);

#[test]
fn a_full_queue_drops_or_delivers_as_it_was_told() {
    for v6 in [false, true] {
        for when_full in [WhenFull::Drop, WhenFull::Deliver] {
            let capsule = capsule();
            let mut queue = capsule.run(move || SynQueue::open(QUEUE, 1, when_full).expect("open the queue"));
            let listener = capsule.run(move || tcp::listen(v6, PORT).expect("listen"));
            let first = connect(&capsule, SocketAddr::new(far(v6), 5432));
            let held = next(&mut queue);
            let second = connect(&capsule, SocketAddr::new(far(v6), 5433));
            let dropped = || capsule.run(|| syn::dropped(QUEUE).expect("read the count"));
            match when_full {
                WhenFull::Drop => {
                    until("a SYN to be dropped", || dropped() > 0);
                    assert!(second.try_recv().is_err(), "nobody decided about it");
                    // It comes again, and finds room.
                    queue.decide(held, Verdict::Deliver).expect("decide");
                    let again = next(&mut queue);
                    queue.decide(again, Verdict::Deliver).expect("decide");
                    let (outcome, took) = second.recv().expect("outcome");
                    outcome.expect("connect");
                    assert!(took > AT_ONCE, "it was not dropped, but took {took:?}");
                }
                WhenFull::Deliver => {
                    let (outcome, took) = second.recv().expect("outcome");
                    outcome.expect("connect");
                    assert!(took < AT_ONCE, "it took {took:?}");
                    assert!(first.try_recv().is_err(), "the one that is held must not go on");
                    assert_eq!(dropped(), 0);
                    queue.decide(held, Verdict::Deliver).expect("decide");
                }
            }
            first.recv().expect("outcome").0.expect("connect");
            assert!(tcp::accept(&listener).expect("accept").is_some());
        }
    }
}

#[test]
fn without_a_queue_a_connect_is_accepted_at_once() {
    for v6 in [false, true] {
        let capsule = empty();
        let interception = Interception { hold: false, ..interception() };
        capsule.run(move || rules::set_up(&interception).expect("set up the namespace"));
        assert!(!capsule.run(|| rules::holds().expect("look")));
        let listener = capsule.run(move || tcp::listen(v6, PORT).expect("listen"));
        let destination = SocketAddr::new(far(v6), 5432);
        let (outcome, took) = connect(&capsule, destination).recv().expect("outcome");
        let program = outcome.expect("connect");
        assert!(took < AT_ONCE, "it took {took:?}");
        let (_, local, peer) = tcp::accept(&listener).expect("accept").expect("a connection");
        assert_eq!((local, peer), (destination, program.local_addr().expect("an address")));
    }
}

#[test]
fn the_gate_stops_connects_and_nothing_else() {
    for v6 in [false, true] {
        let capsule = capsule();
        assert!(capsule.run(|| rules::holds().expect("look")));
        let mut queue = capsule.run(|| SynQueue::open(QUEUE, 16, WhenFull::Drop).expect("open the queue"));
        let listener = capsule.run(move || tcp::listen(v6, PORT).expect("listen"));
        let held_before = connect(&capsule, SocketAddr::new(far(v6), 5432));
        let held = next(&mut queue);
        capsule.run(|| rules::gate(true).expect("shut the gate"));
        let stopped = connect(&capsule, SocketAddr::new(far(v6), 5433));
        // What was held is past it, and so are the segments of a connection.
        queue.decide(held, Verdict::Deliver).expect("decide");
        held_before.recv().expect("outcome").0.expect("connect");
        assert!(tcp::accept(&listener).expect("accept").is_some());
        assert!(stopped.recv_timeout(AT_ONCE).is_err() && queue.next().expect("read").is_none());
        capsule.run(|| rules::gate(false).expect("open the gate"));
        let syn = next(&mut queue);
        queue.decide(syn, Verdict::Deliver).expect("decide");
        stopped.recv().expect("outcome").0.expect("connect");
    }
}
