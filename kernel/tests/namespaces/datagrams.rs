//! Datagrams and pings between a program and foreign addresses.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use kernel::diag::Diag;
use kernel::icmp::{IcmpQueue, Kind, Message, kind};
use kernel::limits::DATAGRAM_BYTES_MAX;
use kernel::rules;
use kernel::udp::{self, Deliverer, Received};

use crate::capsule::*;

fn any(v6: bool) -> &'static str {
    if v6 { "[::]:0" } else { "0.0.0.0:0" }
}

fn program(v6: bool) -> UdpSocket {
    let socket = UdpSocket::bind(any(v6)).expect("bind");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    socket
}

fn next_icmp(queue: &mut IcmpQueue) -> Message {
    let mut message = None;
    until("an ICMP message", || {
        message = queue.next().expect("read the queue");
        message.is_some()
    });
    message.expect("there")
}

#[test]
fn datagrams_of_any_size_go_both_ways_with_their_addresses() {
    for v6 in [false, true] {
        capsule().run(move || {
            let ours = udp::listen(v6, UDP_PORT).expect("listen");
            let deliverer = Deliverer::open().expect("open");
            let mut noise = Noise(7);
            let mut buffer = vec![0; DATAGRAM_BYTES_MAX + 100];
            // With the MTU of a fresh namespace, and with that after a restore.
            for restored in [false, true] {
                if restored {
                    rules::unlock().expect("unlock");
                }
                for length in
                    [0, 1, 33, 1_200, 1_472, 32_768, 64_991, 65_000, 65_001, 65_506, DATAGRAM_BYTES_MAX]
                {
                    let program = program(v6);
                    let source = SocketAddr::new(locator(v6), program.local_addr().expect("address").port());
                    let destination = SocketAddr::new(far(v6), 53);
                    let sent = noise.bytes(length);
                    assert_eq!(program.send_to(&sent, destination).expect("send"), length);
                    let received = udp::receive(&ours, &mut buffer).expect("receive").expect("a datagram");
                    assert_eq!(received, Received { source, destination, traffic_class: 0, length });
                    assert!(buffer[..length] == sent[..], "{length} bytes arrived as others");
                    let answer = noise.bytes(length);
                    deliverer.datagram(destination, source, 0, &answer).expect("deliver");
                    let (taken, from) = program.recv_from(&mut buffer).expect("receive");
                    assert_eq!((taken, from), (length, destination));
                    assert!(buffer[..length] == answer[..], "{length} bytes were delivered as others");
                }
            }
            assert!(udp::receive(&ours, &mut buffer).expect("receive").is_none());
        });
    }
}

#[test]
fn a_port_that_a_program_listens_on_everywhere_can_be_a_peers_port_too() {
    for v6 in [false, true] {
        capsule().run(move || {
            let ours = udp::listen(v6, UDP_PORT).expect("listen");
            let deliverer = Deliverer::open().expect("open");
            let program = program(v6);
            let port = program.local_addr().expect("address").port();
            let (near, peer) = (SocketAddr::new(locator(v6), port), SocketAddr::new(far(v6), port));
            let mut buffer = [0; 16];
            program.connect(peer).expect("connect");
            program.send(b"ping").expect("send");
            let received = udp::receive(&ours, &mut buffer).expect("receive").expect("a datagram");
            assert_eq!((received.source, received.destination), (near, peer));
            deliverer.datagram(peer, near, 0, b"pong").expect("deliver");
            assert_eq!(program.recv(&mut buffer).expect("receive"), 4);
            // And the interception's own port, on all addresses.
            UdpSocket::bind(SocketAddr::new(locator(v6), UDP_PORT)).expect("bind");
        });
    }
}

#[test]
fn the_traffic_class_goes_along() {
    for v6 in [false, true] {
        capsule().run(move || {
            let ours = udp::listen(v6, UDP_PORT).expect("listen");
            let program = program(v6);
            let options = socket2::SockRef::from(&program);
            match v6 {
                true => options.set_tclass_v6(0xba).expect("set the traffic class"),
                false => options.set_tos_v4(0xba).expect("set TOS"),
            }
            program.send_to(b"x", SocketAddr::new(far(v6), 53)).expect("send");
            let received = udp::receive(&ours, &mut [0; 16]).expect("receive").expect("a datagram");
            assert_eq!(received.traffic_class, 0xba);
        });
    }
}

#[test]
fn nobody_at_a_port_is_told_to_the_sender() {
    for v6 in [false, true] {
        let (near, peer) = (SocketAddr::new(locator(v6), 9), SocketAddr::new(far(v6), 40_000));
        // Where nobody listens: the kernel's own error comes out of the queue.
        let refusal = capsule().run(move || {
            let mut queue = IcmpQueue::open(ICMP_QUEUE).expect("open the ICMP queue");
            Deliverer::open().expect("open").datagram(peer, near, 0, b"anybody?").expect("deliver");
            next_icmp(&mut queue)
        });
        assert_eq!((refusal.source, refusal.destination), (near.ip(), peer.ip()));
        let said = kind(v6, &refusal.bytes);
        let protocol = libc::IPPROTO_UDP as u8;
        assert_eq!(said, Some(Kind::Unreachable { protocol, sender: peer.ip(), target: near.ip() }));
        // Where it was sent from, with the addresses the other way round: the connected program hears of it.
        let refused = capsule().run(move || {
            let _ours = udp::listen(v6, UDP_PORT).expect("listen");
            let deliverer = Deliverer::open().expect("open");
            let program = program(v6);
            let from = SocketAddr::new(locator(v6), program.local_addr().expect("address").port());
            let to = SocketAddr::new(far(v6), 9);
            program.connect(to).expect("connect");
            program.send(b"anybody?").expect("send");
            // What the other namespace's kernel would say of this very datagram.
            let mut bytes = refusal.bytes.to_vec();
            rewrite(&mut bytes, v6, from, to);
            deliverer.icmp(to.ip(), from.ip(), &bytes).expect("deliver");
            program.recv(&mut [0; 8]).expect_err("nobody is there").kind()
        });
        assert_eq!(refused, ErrorKind::ConnectionRefused);
    }
}

/// Puts other addresses into the packet that an error quotes.
fn rewrite(message: &mut [u8], v6: bool, source: SocketAddr, destination: SocketAddr) {
    let (first, length, ports) = if v6 { (8 + 8, 16, 8 + 40) } else { (8 + 12, 4, 8 + 20) };
    for (at, address) in [(first, source), (first + length, destination)] {
        match address.ip() {
            std::net::IpAddr::V4(v4) => message[at..at + 4].copy_from_slice(&v4.octets()),
            std::net::IpAddr::V6(v6) => message[at..at + 16].copy_from_slice(&v6.octets()),
        }
    }
    message[ports..ports + 2].copy_from_slice(&source.port().to_be_bytes());
    message[ports + 2..ports + 4].copy_from_slice(&destination.port().to_be_bytes());
}

#[test]
fn pings_leave_and_are_answered_by_the_kernel_that_gets_them() {
    for v6 in [false, true] {
        let there = capsule();
        let ping = there.run(move || {
            let mut queue = IcmpQueue::open(ICMP_QUEUE).expect("open the ICMP queue");
            let (domain, protocol, echo) = match v6 {
                true => (socket2::Domain::IPV6, socket2::Protocol::ICMPV6, 128),
                false => (socket2::Domain::IPV4, socket2::Protocol::ICMPV4, 8),
            };
            let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, Some(protocol)).expect("socket");
            let message = [&[echo, 0, 0, 0, 0, 0, 0, 7][..], b"how are you"].concat();
            socket.send_to(&message, &SocketAddr::new(far(v6), 0).into()).expect("send");
            let sent = next_icmp(&mut queue);
            assert!(queue.next().expect("read the queue").is_none(), "somebody answered");
            sent
        });
        assert_eq!((ping.source, ping.destination), (locator(v6), far(v6)));
        assert_eq!(kind(v6, &ping.bytes), Some(Kind::Echo));
        // As it arrives at a capsule whose locator is the one that was asked for.
        let answer = capsule().run(move || {
            let mut queue = IcmpQueue::open(ICMP_QUEUE).expect("open the ICMP queue");
            Deliverer::open().expect("open").icmp(far(v6), locator(v6), &ping.bytes).expect("deliver");
            next_icmp(&mut queue)
        });
        assert_eq!((answer.source, answer.destination), (locator(v6), far(v6)));
        assert_eq!(kind(v6, &answer.bytes), Some(Kind::EchoReply));
        assert!(answer.bytes.ends_with(b"how are you"));
    }
}

#[test]
fn what_programs_have_not_read_is_seen() {
    capsule().run(|| {
        let ours = udp::listen(false, UDP_PORT).expect("listen");
        let mut diag = Diag::open().expect("open");
        let program = program(false);
        program.send_to(b"to be read by the sidecar", SocketAddr::new(far(false), 53)).expect("send");
        assert_eq!(diag.datagrams_unread().expect("look"), 0);
        let near = SocketAddr::new(locator(false), program.local_addr().expect("address").port());
        let deliverer = Deliverer::open().expect("open");
        deliverer.datagram(SocketAddr::new(far(false), 53), near, 0, &[7; 100]).expect("deliver");
        assert!(diag.datagrams_unread().expect("look") >= 100);
        program.recv(&mut [0; 200]).expect("receive");
        assert_eq!(diag.datagrams_unread().expect("look"), 0);
        drop(ours);
    });
}
