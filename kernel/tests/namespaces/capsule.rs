//! A capsule's namespace for each test, and programs in it.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use kernel::netns::{Netns, Worker};
use kernel::rules::Interception;
use kernel::{rules, tcp};

pub(crate) const LOCATOR_V4: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 5);
pub(crate) const LOCATOR_V6: Ipv6Addr = Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 5);
pub(crate) const FAR_V4: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 9);
pub(crate) const FAR_V6: Ipv6Addr = Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 9);
pub(crate) const PORT: u16 = kernel::limits::INTERCEPT_TCP_PORT;
pub(crate) const UDP_PORT: u16 = kernel::limits::INTERCEPT_UDP_PORT;
pub(crate) const QUEUE: u16 = 7;
pub(crate) const ICMP_QUEUE: u16 = 8;

pub(crate) fn interception() -> Interception {
    Interception {
        v4: LOCATOR_V4,
        v6: LOCATOR_V6,
        tcp_port: PORT,
        udp_port: UDP_PORT,
        hold: true,
        queue: QUEUE,
        icmp_queue: ICMP_QUEUE,
    }
}

pub(crate) fn locator(v6: bool) -> IpAddr {
    if v6 { LOCATOR_V6.into() } else { LOCATOR_V4.into() }
}

pub(crate) fn far(v6: bool) -> IpAddr {
    if v6 { FAR_V6.into() } else { FAR_V4.into() }
}

/// A fresh namespace, set up; gone when its worker and all sockets inside are.
pub(crate) fn capsule() -> Worker {
    let worker = empty();
    worker.run(|| rules::set_up(&interception()).expect("set up the namespace"));
    worker
}

pub(crate) fn locked_capsule() -> Worker {
    let worker = empty();
    worker.run(|| rules::set_up_locked(&interception()).expect("set up the namespace"));
    worker
}

pub(crate) fn empty() -> Worker {
    let netns = Netns::create().expect("these tests need root");
    Worker::start(&netns).expect("enter the namespace")
}

pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(10), "{what} did not happen");
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// A program's connection that we delivered: (program's end, our end). Made without the SYN queue.
pub(crate) fn delivered(v6: bool) -> (TcpStream, OwnedFd) {
    delivered_from(SocketAddr::new(far(v6), 40_000))
}

pub(crate) fn delivered_from(source: SocketAddr) -> (TcpStream, OwnedFd) {
    let listener = TcpListener::bind(SocketAddr::new(locator(source.is_ipv6()), 0)).expect("listen");
    let ours = tcp::dial(source, listener.local_addr().expect("address")).expect("dial");
    let (program, peer) = listener.accept().expect("accept");
    assert_eq!(peer, source);
    until("the connection", || tcp::dial_result(&ours).expect("dial").is_some());
    program.set_read_timeout(Some(Duration::from_secs(10))).expect("set a timeout");
    program.set_write_timeout(Some(Duration::from_secs(10))).expect("set a timeout");
    (program, ours)
}

pub(crate) fn read_exactly(program: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    program.read_exact(&mut bytes).expect("read");
    bytes
}

pub(crate) fn write_all(program: &mut TcpStream, bytes: &[u8]) {
    program.write_all(bytes).expect("write");
}

/// Reproducible noise (xorshift64*).
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_ne_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}
