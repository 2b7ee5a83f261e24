use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use overlay_proto::Role;

use super::*;

fn slots() -> (OwnedFd, Arc<Slots>) {
    let file = rustix::fs::memfd_create("slots", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let (slots, found) = Slots::open(file.try_clone().unwrap()).unwrap();
    assert!(found.is_empty());
    (file, slots)
}

fn opened(number: u8) -> Record {
    let at = |port| SocketAddr::from(([10, 88, 0, number], port));
    Record::Opened(OpenedRecord {
        session: SessionId::from_bytes([number; 16]),
        peer: CapsuleId::from_bytes([7; 16]),
        generations: (Generation::new(1), Generation::new(u64::MAX)),
        source: at(40_000),
        destination: at(80),
        sequence: u32::MAX,
    })
}

#[test]
fn what_was_written_is_found_by_the_next() {
    let (file, slots) = slots();
    let taken: Vec<Slot> = (0..3).map(|_| slots.take().unwrap()).collect();
    for (slot, number) in taken.iter().zip(0_u8..) {
        slot.write(&opened(number)).unwrap();
    }
    taken.into_iter().nth(1).unwrap().clear();
    drop(slots);
    let (slots, mut found) = Slots::open(file.try_clone().unwrap()).unwrap();
    assert_eq!(found.iter().map(|(_, record)| record.clone()).collect::<Vec<_>>(), [opened(0), opened(2)]);
    // The one that was cleared is used again first, and none that says something is.
    let next = slots.take().unwrap();
    assert_eq!(next.number, 1);
    assert_eq!(slots.take().unwrap().number, 3);
    found.pop().unwrap().0.clear();
    assert_eq!(slots.take().unwrap().number, 2);
}

#[test]
fn a_record_of_a_newer_version_is_left_out() {
    use std::os::unix::fs::FileExt;
    let (file, slots) = slots();
    slots.take().unwrap().write(&opened(1)).unwrap();
    let raw = std::fs::File::from(file.try_clone().unwrap());
    raw.write_all_at(&(VERSION + 1).to_le_bytes(), 0).unwrap();
    let (_, found) = Slots::open(file).unwrap();
    assert!(found.is_empty());
}

/// The largest record there can be fits its slot with room to spare.
#[test]
fn the_largest_record_fits() {
    let (_file, slots) = slots();
    let v6: SocketAddr = "[fd88:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap();
    let largest = u64::MAX;
    let end = Some(End { kind: EndKind::Reset, offset: largest });
    let generations = overlay_proto::session::Generations {
        opener: Generation::new(largest),
        acceptor: Generation::new(largest),
    };
    let half = HalfSnapshot {
        version: u32::MAX,
        session: SessionId::from_bytes([255; 16]),
        role: Role::Acceptor,
        generations,
        key: overlay_proto::AttachKey::new(generations, largest),
        consumed: largest,
        reached: largest,
        outgoing_end: end,
        outgoing_end_delivered: true,
        delivered: largest,
        incoming_end: end,
        incoming_end_applied: Some(EndKind::Reset),
        accepted: true,
        outcome: Some(overlay_proto::Outcome::Broken(overlay_proto::Violation::BelowConsumed)),
        ended: true,
    };
    let record = HalfRecord {
        held: "f".repeat(40),
        own: CapsuleId::from_bytes([255; 16]),
        peer: CapsuleId::from_bytes([255; 16]),
        local: v6,
        remote: v6,
        began: SystemTime::now(),
        half,
        base: Base { received: i64::MIN, written: i64::MIN },
        prefix: Some((255, largest)),
        gone: Some(EndKind::Reset),
        user_timeout_ms: u32::MAX,
        // A PROXY header of IPv6.
        preamble: vec![255; 52],
    };
    let bytes = postcard::to_stdvec(&Record::Half(Box::new(record.clone()))).unwrap();
    assert!(bytes.len() < SLOT_BYTES - 80, "{} bytes", bytes.len());
    slots.take().unwrap().write(&Record::Half(Box::new(record))).unwrap();
}

/// What sidecars of version 1 wrote lacks the TCP_USER_TIMEOUT, which they never put aside; that of version 2 the preamble.
#[test]
fn records_of_older_versions_are_read() {
    use std::os::unix::fs::FileExt;
    let (file, slots) = slots();
    let (ours, _program) = connection();
    let half =
        Half::new(SessionId::from_bytes([3; 16]), Role::Opener, Generation::new(1), Generation::new(1));
    let base = base_of(ours.as_fd(), &half.snapshot(), 0).unwrap();
    let record = HalfRecord {
        held: "x".into(),
        own: facts().own,
        peer: facts().peer,
        local: facts().local,
        remote: facts().remote,
        began: facts().began,
        half: half.snapshot(),
        base,
        prefix: Some((7, 9)),
        gone: None,
        user_timeout_ms: 0,
        preamble: Vec::new(),
    };
    let new = postcard::to_stdvec(&Record::Half(Box::new(record.clone()))).unwrap();
    let raw = std::fs::File::from(file.try_clone().unwrap());
    for (at, version) in [1_u32, 2].into_iter().enumerate() {
        let old = &new[..new.len() - (VERSION - version) as usize];
        let bytes = [&version.to_le_bytes()[..], &(old.len() as u32).to_le_bytes(), old].concat();
        raw.write_all_at(&bytes, (at * SLOT_BYTES) as u64).unwrap();
    }
    drop(slots);
    let (_, found) = Slots::open(file).unwrap();
    let record = Record::Half(Box::new(record));
    assert_eq!((&found[0].1, &found[1].1), (&record, &record));
}

/// Two ends of a TCP connection on loopback: ours, and the program's.
fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let program = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours, program)
}

fn facts() -> Facts {
    let at = SocketAddr::from(([10, 88, 0, 1], 1));
    let id = CapsuleId::from_bytes([1; 16]);
    Facts { own: id, peer: id, local: at, remote: at, began: SystemTime::UNIX_EPOCH, way: None }
}

/// From the counters of the kernel alone the next sidecar knows where both directions stand, whatever has been queued,
/// consumed and written since the record was made, and after FINs both ways.
#[tokio::test]
async fn offsets_follow_from_the_kernel() {
    let (_file, slots) = slots();
    let (ours, mut program) = connection();
    let fd: OwnedFd = ours.into();
    let half =
        Half::new(SessionId::from_bytes([3; 16]), Role::Opener, Generation::new(1), Generation::new(1));
    let socket = Program::Socket(Socket::new(fd.try_clone().unwrap(), None).unwrap());
    let keeping = Keeping::begin(slots.take().unwrap(), "it".into(), &facts(), &half, &socket);
    let stands = |expected: (u64, u64, u64, Option<u64>)| {
        for _ in 0..200 {
            let (half, prefix) = keeping.record.half_of(fd.as_fd()).unwrap();
            let end = half.outgoing_end.map(|end| end.offset);
            if (half.consumed, half.reached, half.delivered, end) == expected {
                assert_eq!(prefix, None);
                Half::restore(&half).unwrap();
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("{:?} and not {expected:?}", keeping.record.half_of(fd.as_fd()).unwrap());
    };
    stands((0, 0, 0, None));
    program.write_all(&[1; 1000]).unwrap();
    stands((0, 1000, 0, None));
    tcp::consume(&fd, 400).unwrap();
    stands((400, 1000, 0, None));
    assert_eq!(tcp::send(&fd, &[2; 77]).unwrap(), 77);
    stands((400, 1000, 77, None));
    program.read_exact(&mut [0; 77]).unwrap();
    program.shutdown(std::net::Shutdown::Write).unwrap();
    stands((400, 1000, 77, Some(1000)));
    tcp::consume(&fd, 600).unwrap();
    stands((1000, 1000, 77, Some(1000)));
    tcp::shutdown_write(&fd).unwrap();
    stands((1000, 1000, 77, Some(1000)));
}

/// What comes before all that the program sends is there again until something behind it was consumed: how much of it the
/// other half has, that tells when it attaches.
#[tokio::test]
async fn a_preamble_comes_before_what_the_kernel_counts() {
    let (_file, slots) = slots();
    let (ours, mut program) = connection();
    let fd: OwnedFd = ours.into();
    // It may have said something already.
    program.write_all(b"abc").unwrap();
    while tcp::queued(&fd).unwrap() < 3 {
        std::thread::yield_now();
    }
    let half =
        Half::new(SessionId::from_bytes([3; 16]), Role::Opener, Generation::new(1), Generation::new(1));
    let socket =
        Socket::new(fd.try_clone().unwrap(), None).unwrap().after(bytes::Bytes::from_static(b"12345"));
    let mut socket = Program::Socket(socket);
    let keeping = Keeping::begin(slots.take().unwrap(), "it".into(), &facts(), &half, &socket);
    let stands = |consumed: u64, preamble: &[u8]| {
        let (half, program) = keeping.record.revive(fd.try_clone().unwrap()).unwrap();
        let Program::Socket(found) = program else { panic!("it is open") };
        assert_eq!((half.consumed(), half.bytes_out(), found.preamble()), (consumed, 8, preamble));
    };
    stands(0, b"12345");
    socket.consume(3).unwrap();
    assert_eq!(socket.queued(), 5);
    stands(0, b"12345");
    socket.consume(2).unwrap();
    stands(0, b"12345");
    socket.consume(1).unwrap();
    stands(6, b"");
    socket.consume(2).unwrap();
    stands(8, b"");
    program.shutdown(std::net::Shutdown::Write).unwrap();
    while !tcp::info(&fd).unwrap().state.fin_received() {
        std::thread::yield_now();
    }
    stands(8, b"");
}

/// A byte that was consumed ahead is before the receive queue from the moment of its consumption, and no earlier.
#[tokio::test]
async fn a_byte_taken_ahead_is_known_by_the_counters() {
    let (_file, slots) = slots();
    let (ours, mut program) = connection();
    let fd: OwnedFd = ours.into();
    let half =
        Half::new(SessionId::from_bytes([3; 16]), Role::Acceptor, Generation::new(1), Generation::new(1));
    let socket = Program::Socket(Socket::new(fd.try_clone().unwrap(), None).unwrap());
    let mut keeping = Keeping::begin(slots.take().unwrap(), "it".into(), &facts(), &half, &socket);
    program.write_all(b"abc").unwrap();
    while tcp::queued(&fd).unwrap() < 3 {
        std::thread::yield_now();
    }
    keeping.note_prefix(Some(b'a'), fd.as_fd()).unwrap();
    let (before, prefix) = keeping.record.half_of(fd.as_fd()).unwrap();
    assert_eq!((before.consumed, before.reached, prefix), (0, 3, None));
    tcp::consume(&fd, 1).unwrap();
    let (after, prefix) = keeping.record.half_of(fd.as_fd()).unwrap();
    assert_eq!((after.consumed, after.reached, prefix), (0, 3, Some(b'a')));
    keeping.note_prefix(None, fd.as_fd()).unwrap();
    let (taken, prefix) = keeping.record.half_of(fd.as_fd()).unwrap();
    assert_eq!((taken.consumed, taken.reached, prefix), (1, 3, None));
}

/// What a gone program left is in a file; what the other half has of it is passed over.
#[tokio::test]
async fn remains_go_on_where_the_other_half_is() {
    let (_file, slots) = slots();
    let snapshot = HalfSnapshot {
        consumed: 10,
        reached: 16,
        outgoing_end: Some(End { kind: EndKind::Fin, offset: 16 }),
        ..Half::new(SessionId::from_bytes([3; 16]), Role::Opener, Generation::new(1), Generation::new(1))
            .snapshot()
    };
    let program = Program::Gone(Remains::new(bytes::Bytes::from_static(b"klmnop"), EndKind::Fin));
    let half = Half::restore(&snapshot).unwrap();
    let mut keeping = Keeping::begin(slots.take().unwrap(), "it".into(), &facts(), &half, &program);
    let later = Half::restore(&HalfSnapshot { consumed: 12, ..snapshot }).unwrap();
    keeping.note(&later, &program);
    let (half, program) = keeping.record.revive(file_of(b"klmnop").unwrap()).unwrap();
    assert_eq!(half.consumed(), 12);
    let Program::Gone(remains) = program else { panic!("a socket") };
    assert_eq!((&remains.bytes[..], remains.ending), (&b"mnop"[..], EndKind::Fin));
}
