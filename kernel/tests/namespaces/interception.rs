//! What a program in a capsule's namespace sees of the rest of the world.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::capsule::*;
use kernel::limits::SYN_HELD_MAX;
use kernel::netns::Worker;
use kernel::syn::{HeldSyn, SynQueue, Verdict, WhenFull};
use kernel::{repair, rules, tcp};

/// Lets a program connect, on a thread of its own in the capsule.
pub(crate) fn connect(
    capsule: &Worker,
    destination: SocketAddr,
) -> mpsc::Receiver<(std::io::Result<TcpStream>, Duration)> {
    let (result, outcome) = mpsc::channel();
    let netns = capsule.run(|| kernel::netns::Netns::of_this_thread().expect("netns"));
    std::thread::spawn(move || {
        let program = Worker::start(&netns).expect("enter");
        let answer = program.run(move || {
            let began = Instant::now();
            (TcpStream::connect(destination), began.elapsed())
        });
        result.send(answer)
    });
    outcome
}

pub(crate) fn next(queue: &mut SynQueue) -> HeldSyn {
    let mut held = None;
    until("a SYN", || {
        held = queue.next().expect("read the queue");
        held.is_some()
    });
    held.expect("held")
}

fn open_queue(capsule: &Worker) -> SynQueue {
    capsule.run(|| SynQueue::open(QUEUE, SYN_HELD_MAX, WhenFull::Drop).expect("open the SYN queue"))
}

#[test]
fn nothing_is_missing_here() {
    assert_eq!(rules::probe(), []);
}

#[test]
fn a_delivered_syn_arrives_with_its_addresses() {
    for v6 in [false, true] {
        let capsule = capsule();
        let mut queue = open_queue(&capsule);
        let listener = capsule.run(move || tcp::listen(v6, PORT).expect("listen"));
        let destination = SocketAddr::new(far(v6), 5432);
        let outcome = connect(&capsule, destination);
        let syn = next(&mut queue);
        assert_eq!(syn.destination, destination);
        assert_eq!(syn.source.ip(), locator(v6));
        assert!(tcp::accept(&listener).expect("accept").is_none(), "it must be held");
        let source = syn.source;
        queue.decide(syn, Verdict::Deliver).expect("decide");
        let mut program = outcome.recv().expect("outcome").0.expect("connect");
        let (ours, local, peer) = tcp::accept(&listener).expect("accept").expect("a connection");
        assert_eq!((local, peer), (destination, source));
        program.write_all(b"hello").expect("write");
        let mut bytes = [0; 16];
        until("bytes", || tcp::queued(&ours).expect("queued") == 5);
        assert_eq!(tcp::peek(&ours, &mut bytes).expect("peek"), 5);
        assert_eq!(tcp::send(&ours, b"world").expect("send"), 5);
        assert_eq!(read_exactly(&mut program, 5), b"world");
    }
}

/// What the kernel does not find although it may be there is not answered with a reset: TCP sends it again.
#[test]
fn a_packet_without_a_connection_is_answered_when_it_comes_again() {
    for v6 in [false, true] {
        let capsule = capsule();
        let mut queue = open_queue(&capsule);
        let listener = capsule.run(move || tcp::listen(v6, PORT).expect("listen"));
        let outcome = connect(&capsule, SocketAddr::new(far(v6), 5432));
        let syn = next(&mut queue);
        queue.decide(syn, Verdict::Deliver).expect("decide");
        let mut program = outcome.recv().expect("outcome").0.expect("connect");
        program.set_read_timeout(Some(Duration::from_secs(10))).expect("set a timeout");
        let (ours, ..) = tcp::accept(&listener).expect("accept").expect("a connection");
        repair::capture(&ours).expect("capture");
        // A captured connection leaves without a word.
        drop(ours);
        let began = Instant::now();
        program.write_all(b"x").expect("write");
        let error = program.read(&mut [0]).expect_err("there is no connection");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        // Linux waits 200 ms at least before it sends a packet again.
        assert!(began.elapsed() > Duration::from_millis(150), "reset after {:?}", began.elapsed());
    }
}

#[test]
fn refusals_are_told_in_the_real_time() {
    for v6 in [false, true] {
        let capsule = capsule();
        let mut queue = open_queue(&capsule);
        for (verdict, kind) in [
            (Verdict::Refuse, ErrorKind::ConnectionRefused),
            (Verdict::Unreachable, ErrorKind::HostUnreachable),
        ] {
            let outcome = connect(&capsule, SocketAddr::new(far(v6), 81));
            let syn = next(&mut queue);
            std::thread::sleep(Duration::from_millis(20));
            queue.decide(syn, verdict).expect("decide");
            let (stream, took) = outcome.recv().expect("outcome");
            assert_eq!(stream.expect_err("must fail").kind(), kind, "v6 {v6}");
            assert!(took > Duration::from_millis(15) && took < Duration::from_millis(900), "took {took:?}");
        }
    }
}

#[test]
fn every_verdict_arrives_at_once_many_times() {
    for v6 in [false, true] {
        let capsule = capsule();
        let mut queue = open_queue(&capsule);
        let rounds = 500;
        let destination = SocketAddr::new(far(v6), 81);
        for (verdict, kind) in [
            (Verdict::Refuse, ErrorKind::ConnectionRefused),
            (Verdict::Unreachable, ErrorKind::HostUnreachable),
        ] {
            let program = {
                let netns = capsule.run(|| kernel::netns::Netns::of_this_thread().expect("netns"));
                std::thread::spawn(move || {
                    Worker::start(&netns).expect("enter").run(move || {
                        let times = (0..rounds).map(|_| {
                            let began = Instant::now();
                            assert_eq!(TcpStream::connect(destination).expect_err("must fail").kind(), kind);
                            began.elapsed()
                        });
                        times.collect::<Vec<_>>()
                    })
                })
            };
            for _ in 0..rounds {
                let syn = next(&mut queue);
                queue.decide(syn, verdict).expect("decide");
            }
            let mut times = program.join().expect("program");
            times.sort();
            let (median, worst) = (times[rounds / 2], times[rounds - 1]);
            println!("{verdict:?} v6 {v6}: median {median:?}, worst {worst:?}");
            assert!(worst < Duration::from_millis(900), "{verdict:?}: worst {worst:?}");
        }
    }
}

#[test]
fn a_dropped_syn_comes_again() {
    let capsule = capsule();
    let mut queue = open_queue(&capsule);
    let listener = capsule.run(|| tcp::listen(false, PORT).expect("listen"));
    let outcome = connect(&capsule, SocketAddr::new(far(false), 80));
    let first = next(&mut queue);
    let (source, sequence) = (first.source, first.sequence);
    queue.decide(first, Verdict::Drop).expect("decide");
    let again = next(&mut queue);
    assert_eq!((again.source, again.sequence), (source, sequence));
    queue.decide(again, Verdict::Deliver).expect("decide");
    let (stream, took) = outcome.recv().expect("outcome");
    stream.expect("connect");
    assert!(took > Duration::from_millis(900));
    assert!(tcp::accept(&listener).expect("accept").is_some());
}

#[test]
fn the_inside_is_left_alone_and_the_rest_is_unreachable() {
    capsule().run(|| {
        for address in ["127.0.0.1:0", "[::1]:0", "10.88.0.5:0", "[fd88::5]:0", "127.0.0.53:0"] {
            let listener = TcpListener::bind(address).expect("bind");
            let mut stream = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
            stream.write_all(b"x").expect("write");
            let mut byte = [0];
            listener.accept().expect("accept").0.read_exact(&mut byte).expect("read");
            let socket = UdpSocket::bind(address).expect("bind");
            socket.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
            socket.send_to(b"x", socket.local_addr().expect("address")).expect("send");
            assert_eq!(socket.recv(&mut byte).expect("receive"), 1);
        }
        // The listener can't be dialled from inside.
        let _listener = tcp::listen(false, PORT).expect("listen");
        let refused = TcpStream::connect(("127.0.0.1", PORT)).expect_err("nobody listens there");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        for (domain, foreign) in
            [(socket2::Domain::IPV4, "10.88.0.9:0"), (socket2::Domain::IPV6, "[fd88::9]:0")]
        {
            let sctp = Some(socket2::Protocol::from(132));
            let raw = socket2::Socket::new(domain, socket2::Type::RAW, sctp).expect("raw socket");
            let foreign: SocketAddr = foreign.parse().expect("address");
            let error = raw.send_to(&[0; 12], &foreign.into()).expect_err("SCTP has nowhere to go");
            assert_eq!(error.kind(), ErrorKind::HostUnreachable);
        }
        let error = TcpListener::bind("10.88.0.9:80").expect_err("a foreign address is not ours");
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    });
}

#[test]
fn the_lock_drops_and_keeps_held_syns() {
    for v6 in [false, true] {
        let capsule = capsule();
        let mut queue = open_queue(&capsule);
        let outcome = connect(&capsule, SocketAddr::new(far(v6), 82));
        let syn = next(&mut queue);
        capsule.run(move || {
            let (mut program, ours) = delivered(v6);
            let mut times = Vec::new();
            for round in 0..5u32 {
                let began = Instant::now();
                rules::lock().expect("lock");
                times.push(began.elapsed());
                rules::lock().expect("lock twice");
                assert_eq!(tcp::send(&ours, b"one").expect("send"), 3);
                std::thread::sleep(Duration::from_millis(5));
                assert_eq!(tcp::unacknowledged(&ours).expect("unacknowledged"), 3, "round {round}");
                rules::unlock().expect("unlock");
                rules::unlock().expect("unlock twice");
                assert_eq!(read_exactly(&mut program, 3), b"one");
                until("the acknowledgement", || tcp::unacknowledged(&ours).expect("unacknowledged") == 0);
            }
            times.sort();
            println!("lock: median {:?}, worst {:?}", times[2], times[4]);
        });
        queue.decide(syn, Verdict::Refuse).expect("decide");
        let error = outcome.recv().expect("outcome").0.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn set_up_is_fast() {
    let mut times = Vec::new();
    for _ in 0..20 {
        let began = Instant::now();
        let netns = kernel::netns::Netns::create().expect("create");
        let made = began.elapsed();
        let worker = Worker::start(&netns).expect("start");
        worker.run(|| rules::set_up_locked(&interception()).expect("set up"));
        times.push((began.elapsed(), made));
    }
    times.sort();
    println!("namespace and rules: median {:?}, worst {:?}", times[10], times[19]);
}

#[test]
fn a_held_syn_outlives_its_queue() {
    let capsule = capsule();
    let mut queue = open_queue(&capsule);
    let outcome = connect(&capsule, SocketAddr::new(far(true), 83));
    let first = next(&mut queue);
    let sequence = first.sequence;
    drop(queue);
    let mut queue = open_queue(&capsule);
    let again = next(&mut queue);
    assert_eq!(again.sequence, sequence);
    queue.decide(again, Verdict::Refuse).expect("decide");
    queue.decide(first, Verdict::Refuse).expect("a verdict that comes too late does no harm");
    let error = outcome.recv().expect("outcome").0.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn thousands_of_connects_wait_together() {
    const CONNECTS: u16 = 4000;
    for v6 in [false, true] {
        let capsule = capsule();
        let mut queue = open_queue(&capsule);
        let listener = capsule.run(move || tcp::listen(v6, PORT).expect("listen"));
        let began = Instant::now();
        let programs: Vec<_> = capsule.run(move || {
            let dial = |_| {
                let kind = socket2::Type::STREAM.nonblocking().cloexec();
                let domain = socket2::Domain::for_address(SocketAddr::new(far(v6), 80));
                let socket = socket2::Socket::new(domain, kind, None).expect("socket");
                let _ = socket.connect(&SocketAddr::new(far(v6), 80).into());
                socket
            };
            (0..CONNECTS).map(dial).collect()
        });
        let dialled = began.elapsed();
        let held: Vec<_> = (0..CONNECTS).map(|_| next(&mut queue)).collect();
        assert!(tcp::accept(&listener).expect("accept").is_none());
        let began = Instant::now();
        let mut ours = Vec::new();
        for syn in held {
            queue.decide(syn, Verdict::Deliver).expect("decide");
            ours.extend(tcp::accept(&listener).expect("accept"));
        }
        until("all connections", || {
            ours.extend(tcp::accept(&listener).expect("accept"));
            ours.len() == usize::from(CONNECTS)
        });
        println!("{CONNECTS} connects: {dialled:?} to dial, {:?} to decide and accept", began.elapsed());
        drop(programs);
    }
}

#[test]
fn a_worker_carries_panics_back_and_goes_on() {
    let worker = capsule();
    let panicking = worker.clone();
    let outcome = std::panic::catch_unwind(move || panicking.run(|| panic!("for the test")));
    assert!(outcome.is_err());
    assert_eq!(worker.run(|| 7), 7);
}
