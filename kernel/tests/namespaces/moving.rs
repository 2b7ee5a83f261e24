//! Connections captured and rebuilt, byte by byte.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::capsule::*;
use kernel::repair::{self, OwnFin, TcpSnapshot};
use kernel::tcp::{self, TcpState};
use kernel::{diag, rules};

/// What each side wrote and read so far.
struct Ledger {
    noise: Noise,
    /// Written by the program, not yet read by us; and the reverse.
    to_us: Vec<u8>,
    to_program: Vec<u8>,
}

impl Ledger {
    /// `CAPSULE_TEST_SEED` varies the noise.
    fn new(seed: u64) -> Ledger {
        let variation = std::env::var("CAPSULE_TEST_SEED").ok().and_then(|it| it.parse::<u64>().ok());
        let seed = seed ^ variation.unwrap_or(0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        println!("seed {seed:#x}");
        Ledger { noise: Noise(seed), to_us: Vec::new(), to_program: Vec::new() }
    }

    fn program_writes(&mut self, program: &mut TcpStream, length: usize) {
        program.set_nonblocking(true).expect("non-blocking");
        let bytes = self.noise.bytes(length);
        let taken = program.write(&bytes).unwrap_or(0);
        self.to_us.extend_from_slice(&bytes[..taken]);
        program.set_nonblocking(false).expect("blocking");
    }

    fn we_write(&mut self, ours: &OwnedFd, length: usize) {
        let bytes = self.noise.bytes(length);
        let taken = tcp::send(ours, &bytes).unwrap_or(0);
        self.to_program.extend_from_slice(&bytes[..taken]);
    }

    fn program_reads(&mut self, program: &mut TcpStream, length: usize) {
        let length = length.min(self.to_program.len());
        let bytes = read_exactly(program, length);
        assert!(bytes == self.to_program[..length], "the program reads something else");
        self.to_program.drain(..length);
    }

    fn we_read(&mut self, ours: &OwnedFd, length: usize) {
        let mut left = length.min(self.to_us.len());
        while left > 0 {
            let mut bytes = vec![0; left];
            tcp::set_peek_offset(ours, 0).expect("peek offset");
            let mut length = 0;
            until("bytes to peek", || {
                length = tcp::peek(ours, &mut bytes).unwrap_or(0);
                length > 0
            });
            assert!(bytes[..length] == self.to_us[..length], "we read something else");
            assert_eq!(tcp::consume(ours, length).expect("consume"), length);
            self.to_us.drain(..length);
            left -= length;
        }
    }

    fn settle_all(&mut self, program: &mut TcpStream, ours: &OwnedFd) {
        while !self.to_us.is_empty() || !self.to_program.is_empty() {
            self.we_read(ours, 1 << 20);
            self.program_reads(program, 100_000);
        }
    }
}

/// Captures a connection, and takes the socket away without a word.
fn take(socket: impl AsFd + Into<OwnedFd>) -> TcpSnapshot {
    let snapshot = repair::capture(&socket).expect("capture");
    drop(socket.into());
    snapshot
}

fn as_program(fd: OwnedFd) -> TcpStream {
    let program = TcpStream::from(fd);
    program.set_nonblocking(false).expect("blocking");
    program.set_read_timeout(Some(Duration::from_secs(10))).expect("set a timeout");
    program.set_write_timeout(Some(Duration::from_secs(10))).expect("set a timeout");
    program
}

/// Moves both ends into a fresh namespace.
fn move_both(program: TcpStream, ours: OwnedFd) -> (kernel::netns::Worker, TcpStream, OwnedFd) {
    rules::lock().expect("lock");
    let (ours, program) = (take(ours), take(program));
    rules::unlock().expect("unlock");
    let target = locked_capsule();
    let (program, ours) = target.run(move || {
        let our_end = repair::rebuild(&ours).expect("rebuild");
        let program_end = repair::rebuild(&program).expect("rebuild");
        rules::unlock().expect("unlock");
        repair::activate(&program_end, &program).expect("activate");
        repair::activate(&our_end, &ours).expect("activate");
        (as_program(program_end), our_end)
    });
    (target, program, ours)
}

/// Rebuilds our end where it is, while the program's socket stays.
fn rebuild_ours(ours: OwnedFd) -> OwnedFd {
    rules::lock().expect("lock");
    let snapshot = take(ours);
    let ours = repair::rebuild(&snapshot).expect("rebuild");
    rules::unlock().expect("unlock");
    repair::activate(&ours, &snapshot).expect("activate");
    ours
}

/// However long both ends lay captured: a timestamp that went back, or jumped, would have segments taken for old.
#[test]
fn timestamps_stand_still_while_a_connection_is_captured() {
    const LAY: Duration = Duration::from_millis(1500);
    let home = capsule();
    let (mut program, ours) = home.run(|| delivered(false));
    let mut ledger = Ledger::new(0x5eed_0009);
    ledger.program_writes(&mut program, 50_000);
    ledger.we_write(&ours, 50_000);
    let (ours, program) = home.run(move || {
        rules::lock().expect("lock");
        (take(ours), take(program))
    });
    let before = (ours.timestamp_ms(), program.timestamp_ms());
    std::thread::sleep(LAY);
    let target = locked_capsule();
    target.run(move || {
        let (our_end, program_end) =
            (repair::rebuild(&ours).expect("rebuild"), repair::rebuild(&program).expect("rebuild"));
        rules::unlock().expect("unlock");
        repair::activate(&program_end, &program).expect("activate");
        repair::activate(&our_end, &ours).expect("activate");
        let mut program = as_program(program_end);
        // Data flows at once, both ways.
        ledger.program_writes(&mut program, 50_000);
        ledger.we_write(&our_end, 50_000);
        ledger.settle_all(&mut program, &our_end);
        let (ours, program) = (take(our_end), take(program));
        for (what, before, after) in
            [("ours", before.0, ours.timestamp_ms()), ("the program's", before.1, program.timestamp_ms())]
        {
            let step = after.wrapping_sub(before);
            println!("{what}: a step of {step} ms over {} ms", LAY.as_millis());
            assert!(step < 1000, "{what} jumped by {step} ms, or went back");
        }
    });
}

#[test]
fn random_traffic_survives_many_moves() {
    for v6 in [false, true] {
        let seed = 0x5eed_0001 + u64::from(v6);
        let mut ledger = Ledger::new(seed);
        let mut home = capsule();
        let (mut program, mut ours) = home.run(move || delivered(v6));
        for round in 0..60 {
            let sizes = [0, 1, 3_000, 70_000, 400_000, 3_000_000];
            let (write, other) = (sizes[ledger.noise.below(6)], sizes[ledger.noise.below(6)]);
            ledger.program_writes(&mut program, write);
            ledger.we_write(&ours, other);
            if round % 3 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
            let (ours_first, program_first) = (ledger.noise.below(200_000), ledger.noise.below(200_000));
            ledger.we_read(&ours, ours_first);
            ledger.program_reads(&mut program, program_first);
            (home, program, ours) = home.run(move || move_both(program, ours));
        }
        ledger.settle_all(&mut program, &ours);
        ledger.program_writes(&mut program, 100_000);
        ledger.we_write(&ours, 100_000);
        ledger.settle_all(&mut program, &ours);
        drop(home);
    }
}

#[test]
fn moved_connections_send_whole_segments() {
    for v6 in [false, true] {
        let mut home = capsule();
        let (mut program, mut ours) = home.run(move || delivered(v6));
        let mut ledger = Ledger::new(0x5eed_000a);
        for _ in 0..2 {
            (home, program, ours) = home.run(move || move_both(program, ours));
            ledger.program_writes(&mut program, 200_000);
            ledger.we_write(&ours, 200_000);
            ledger.program_reads(&mut program, 200_000);
            ledger.we_read(&ours, 200_000);
            for end in [program.as_fd(), ours.as_fd()] {
                let bytes = tcp::info(end).expect("info").send_segment_bytes;
                assert!(bytes > 30_000, "segments of {bytes} bytes");
            }
        }
    }
}

#[test]
fn random_traffic_survives_rebuilding_our_end() {
    for v6 in [false, true] {
        let mut ledger = Ledger::new(0x5eed_0101 + u64::from(v6));
        let home = capsule();
        home.run(move || {
            let (mut program, mut ours) = delivered(v6);
            for _ in 0..60 {
                let sizes = [0, 1, 3_000, 70_000, 400_000, 3_000_000];
                let (write, other) = (sizes[ledger.noise.below(6)], sizes[ledger.noise.below(6)]);
                ledger.program_writes(&mut program, write);
                ledger.we_write(&ours, other);
                ours = rebuild_ours(ours);
                let (we, they) = (ledger.noise.below(300_000), ledger.noise.below(300_000));
                ledger.we_read(&ours, we);
                ledger.program_reads(&mut program, they);
            }
            ledger.settle_all(&mut program, &ours);
        });
    }
}

#[test]
fn both_queues_full_with_megabytes() {
    for v6 in [false, true] {
        let home = capsule();
        let mut ledger = Ledger::new(0x5eed_0201);
        let (mut program, ours) = home.run(move || delivered(v6));
        tcp::set_receive_buffer(&ours, 6 << 20).expect("buffer");
        let mut before = 1;
        while before != ledger.to_us.len() + ledger.to_program.len() {
            before = ledger.to_us.len() + ledger.to_program.len();
            ledger.program_writes(&mut program, 1 << 20);
            ledger.we_write(&ours, 1 << 20);
            std::thread::sleep(Duration::from_millis(10));
        }
        let (inbound, outbound) = (ledger.to_us.len(), ledger.to_program.len());
        assert!(inbound > 4 << 20 && outbound > 2 << 20, "{inbound} and {outbound} bytes under way");
        let began = Instant::now();
        let (home, mut program, ours) = home.run(move || move_both(program, ours));
        println!("moved {inbound} + {outbound} bytes in {:?}", began.elapsed());
        ledger.settle_all(&mut program, &ours);
        drop(home);
    }
}

#[test]
fn a_capture_can_be_undone() {
    let home = capsule();
    home.run(|| {
        for v6 in [false, true] {
            let mut ledger = Ledger::new(0x5eed_0301);
            let (mut program, ours) = delivered(v6);
            for _ in 0..20 {
                ledger.program_writes(&mut program, 300_000);
                ledger.we_write(&ours, 300_000);
                rules::lock().expect("lock");
                let first = repair::capture(&ours).expect("capture");
                let second = repair::capture(&ours).expect("capture");
                assert_eq!(first.receive_queue(), second.receive_queue());
                assert_eq!(first.send_queue(), second.send_queue());
                repair::resume(&ours).expect("resume");
                rules::unlock().expect("unlock");
                ledger.we_read(&ours, 100_000);
                ledger.program_reads(&mut program, 100_000);
            }
            ledger.settle_all(&mut program, &ours);
        }
    });
}

#[test]
fn a_capture_keeps_the_peek_offset() {
    let home = capsule();
    home.run(|| {
        let (mut program, ours) = delivered(false);
        write_all(&mut program, &[7; 1000]);
        until("bytes", || tcp::queued(&ours).expect("queued") == 1000);
        tcp::set_peek_offset(&ours, 0).expect("offset");
        assert_eq!(tcp::peek(&ours, &mut [0; 400]).expect("peek"), 400);
        let snapshot = repair::capture(&ours).expect("capture");
        assert_eq!(snapshot.receive_queue(), [7; 1000]);
        assert_eq!(tcp::peek_offset(&ours).expect("offset"), 400);
        repair::resume(&ours).expect("resume");
        assert_eq!(tcp::peek(&ours, &mut [0; 1000]).expect("peek"), 600);
    });
}

/// Who has closed its way when the connection is captured, and whether that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    Program,
    ProgramAndWeReadIt,
    Us,
    UsUnacknowledged,
    UsUnsent,
    BothCrossing,
    ProgramThenUsUnacknowledged,
}

const ALL_ENDS: [Ends; 7] = [
    Ends::Program,
    Ends::ProgramAndWeReadIt,
    Ends::Us,
    Ends::UsUnacknowledged,
    Ends::UsUnsent,
    Ends::BothCrossing,
    Ends::ProgramThenUsUnacknowledged,
];

impl Ends {
    fn program_closed(self) -> bool {
        !matches!(self, Ends::Us | Ends::UsUnacknowledged | Ends::UsUnsent)
    }

    fn we_closed(self) -> bool {
        !matches!(self, Ends::Program | Ends::ProgramAndWeReadIt)
    }

    /// Brings a fresh connection there, with bytes waiting in both directions. Leaves the namespace locked.
    fn make(self, ledger: &mut Ledger, program: &mut TcpStream, ours: &OwnedFd) {
        let state = |expected| move || tcp::info(ours).expect("info").state == expected;
        ledger.program_writes(program, 20_000);
        ledger.we_write(ours, if self == Ends::UsUnsent { 8 << 20 } else { 30_000 });
        if self != Ends::UsUnsent {
            until("settling", || tcp::unacknowledged(ours).expect("unacknowledged") == 0);
        }
        until("bytes", || tcp::queued(ours).expect("queued") == 20_000);
        match self {
            Ends::Program => {
                program.shutdown(Shutdown::Write).expect("shutdown");
                until("FIN", state(TcpState::CloseWait));
            }
            Ends::ProgramAndWeReadIt => {
                program.shutdown(Shutdown::Write).expect("shutdown");
                until("FIN", state(TcpState::CloseWait));
                ledger.we_read(ours, 20_000);
                assert_eq!(tcp::consume(ours, 1).expect("the end"), 0);
            }
            Ends::Us => {
                tcp::shutdown_write(ours).expect("shutdown");
                until("FIN", state(TcpState::FinWait2));
            }
            Ends::UsUnacknowledged => {
                rules::lock().expect("lock");
                ledger.we_write(ours, 5_000);
                tcp::shutdown_write(ours).expect("shutdown");
                until("FIN", state(TcpState::FinWait1));
            }
            Ends::UsUnsent => {
                assert!(tcp::unsent(ours).expect("unsent") > 0, "there must be unsent bytes");
                tcp::shutdown_write(ours).expect("shutdown");
                until("FIN", state(TcpState::FinWait1));
            }
            Ends::BothCrossing => {
                rules::lock().expect("lock");
                tcp::shutdown_write(ours).expect("shutdown");
                program.shutdown(Shutdown::Write).expect("shutdown");
            }
            Ends::ProgramThenUsUnacknowledged => {
                program.shutdown(Shutdown::Write).expect("shutdown");
                until("FIN", state(TcpState::CloseWait));
                rules::lock().expect("lock");
                ledger.we_write(ours, 5_000);
                tcp::shutdown_write(ours).expect("shutdown");
                until("FIN", state(TcpState::LastAck));
            }
        }
        rules::lock().expect("lock");
    }

    /// Finishes the connection, byte by byte, to its proper end on both sides.
    fn finish(self, mut ledger: Ledger, mut program: TcpStream, ours: OwnedFd) {
        if !self.program_closed() {
            ledger.program_writes(&mut program, 10_000);
        }
        if !self.we_closed() {
            ledger.we_write(&ours, 10_000);
        }
        ledger.settle_all(&mut program, &ours);
        if !self.program_closed() {
            program.shutdown(Shutdown::Write).expect("shutdown");
        }
        if !self.we_closed() {
            tcp::shutdown_write(&ours).expect("shutdown");
        }
        let mut rest = Vec::new();
        assert_eq!(program.read_to_end(&mut rest).expect("the end"), 0, "{self:?}");
        tcp::set_peek_offset(&ours, 0).expect("offset");
        until("our end of the stream", || matches!(tcp::peek(&ours, &mut [0]), Ok(0)));
        until("the connection's end", || tcp::info(&ours).expect("info").state == TcpState::Closed);
        until("the program's end", || tcp::info(&program).expect("info").state == TcpState::Closed);
    }
}

#[test]
fn half_closed_connections_move_with_both_ends() {
    for v6 in [false, true] {
        for ends in ALL_ENDS {
            let home = capsule();
            let mut ledger = Ledger::new(0x5eed_0401);
            let (home, program, ours, ledger) = home.run(move || {
                let (mut program, ours) = delivered(v6);
                ends.make(&mut ledger, &mut program, &ours);
                let (home, program, ours) = move_both(program, ours);
                (home, program, ours, ledger)
            });
            home.run(move || ends.finish(ledger, program, ours));
        }
    }
}

#[test]
fn half_closed_connections_go_on_with_our_end_rebuilt() {
    for v6 in [false, true] {
        for ends in ALL_ENDS {
            capsule().run(move || {
                let mut ledger = Ledger::new(0x5eed_0501);
                let (mut program, mut ours) = delivered(v6);
                ends.make(&mut ledger, &mut program, &ours);
                let before = tcp::info(&ours).expect("info").state;
                for _ in 0..3 {
                    // The program's kernel may have answered the last FIN meanwhile.
                    if tcp::info(&ours).expect("info").state != TcpState::Closed {
                        ours = rebuild_ours(ours);
                    }
                }
                println!("{ends:?}: {before:?} became {:?}", tcp::info(&ours).expect("info").state);
                ends.finish(ledger, program, ours);
            });
        }
    }
}

#[test]
fn a_snapshot_tells_its_ends_and_survives_serde() {
    capsule().run(|| {
        let (mut program, ours) = delivered(true);
        let mut ledger = Ledger::new(1);
        Ends::ProgramThenUsUnacknowledged.make(&mut ledger, &mut program, &ours);
        let snapshot = repair::capture(&ours).expect("capture");
        assert!(snapshot.peer_fin());
        assert_eq!(snapshot.own_fin(), OwnFin::Pending);
        assert_eq!((snapshot.local().ip(), snapshot.peer().ip()), (far(true), locator(true)));
        let json = serde_json::to_string(&snapshot).expect("serialize");
        let back: TcpSnapshot = serde_json::from_str(&json).expect("deserialize");
        assert!(back == snapshot);
    });
}

#[test]
fn nothing_to_capture_is_said() {
    capsule().run(|| {
        let (program, ours) = delivered(false);
        tcp::reset(&ours).expect("reset");
        assert!(matches!(repair::capture(&ours), Err(repair::RepairError::NoConnection(TcpState::Closed))));
        drop(program);

        // What the program said before it broke off is still there to be carried along.
        let (mut program, ours) = delivered_from(SocketAddr::new(far(false), 40_001));
        write_all(&mut program, &[9; 70_000]);
        tcp::send(&ours, b"unread").expect("send");
        until("bytes", || tcp::queued(&ours).expect("queued") == 70_000);
        drop(program);
        until("the reset", || tcp::info(&ours).expect("info").state == TcpState::Closed);
        assert!(matches!(repair::capture(&ours), Err(repair::RepairError::NoConnection(TcpState::Closed))));
        assert!(tcp::read_queue(&ours).expect("read") == [9; 70_000]);
    });
}

#[test]
fn a_thousand_sockets_are_captured_in_a_few_milliseconds() {
    let home = capsule();
    home.run(|| {
        let pairs: Vec<_> = (0..1000u16)
            .map(|number| {
                let (mut program, ours) = delivered_from(SocketAddr::new(far(number % 2 == 1), 20_000 + number));
                write_all(&mut program, b"a line of a chat\n");
                assert_eq!(tcp::send(&ours, b"another").expect("send"), 7);
                (program, ours)
            })
            .collect();
        std::thread::sleep(Duration::from_millis(50));
        rules::lock().expect("lock");
        let began = Instant::now();
        let snapshots: Vec<_> = pairs.iter().map(|(_, ours)| repair::capture(ours).expect("capture")).collect();
        let captured = began.elapsed();
        let (programs, ours): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let began = Instant::now();
        drop(ours);
        let closed = began.elapsed();
        let began = Instant::now();
        let rebuilt: Vec<_> = snapshots.iter().map(|it| repair::rebuild(it).expect("rebuild")).collect();
        let rebuilt_in = began.elapsed();
        rules::unlock().expect("unlock");
        let began = Instant::now();
        for (fd, snapshot) in rebuilt.iter().zip(&snapshots) {
            repair::activate(fd, snapshot).expect("activate");
        }
        let activated = began.elapsed();
        println!("1,000 sockets: capture {captured:?}, close {closed:?}, rebuild {rebuilt_in:?}, activate {activated:?}");
        let began = Instant::now();
        let all = diag::Diag::open().and_then(|mut diag| diag.all()).expect("list");
        println!("a list of {} sockets took {:?}", all.len(), began.elapsed());
        for (mut program, ours) in programs.into_iter().zip(rebuilt) {
            assert_eq!(tcp::queued(&ours).expect("queued"), 17);
            assert_eq!(tcp::send(&ours, b"!").expect("send"), 1);
            assert_eq!(read_exactly(&mut program, 8), b"another!");
        }
        assert!(captured < Duration::from_millis(500), "captured in {captured:?}");
    });
}

#[test]
fn what_is_lost_to_the_lock_comes_again() {
    let home = capsule();
    let (mut program, ours) = home.run(|| delivered(false));
    // A few round trips: the kernel knows the time that one takes.
    for _ in 0..5 {
        tcp::send(&ours, b"x").expect("send");
        read_exactly(&mut program, 1);
    }
    let (mut program, _ours, _target, took) = home.run(move || {
        rules::lock().expect("lock");
        tcp::send(&ours, b"lost to the lock").expect("send");
        let began = Instant::now();
        let (target, program, ours) = move_both(program, ours);
        (program, ours, target, began)
    });
    assert_eq!(read_exactly(&mut program, 16), b"lost to the lock");
    println!("a segment lost to the lock came {:?} later", took.elapsed());
}
