//! The sidecar's own ends: ports, resets, orphans, and who owns what.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::capsule::*;
use kernel::diag::Diag;
use kernel::repair;
use kernel::tcp::{self, TcpState};

#[test]
fn a_program_that_listens_on_the_dialling_port_is_no_obstacle() {
    for v6 in [false, true] {
        capsule().run(move || {
            let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let squatter = TcpListener::bind(SocketAddr::new(any, 40_000)).expect("listen");
            let (mut program, ours) = delivered_from(SocketAddr::new(far(v6), 40_000));
            assert_eq!(tcp::send(&ours, b"x").expect("send"), 1);
            assert_eq!(read_exactly(&mut program, 1), b"x");
            // Rebuilding meets the same obstacle.
            kernel::rules::lock().expect("lock");
            let snapshot = repair::capture(&ours).expect("capture");
            drop(ours);
            let ours = repair::rebuild(&snapshot).expect("rebuild");
            kernel::rules::unlock().expect("unlock");
            repair::activate(&ours, &snapshot).expect("activate");
            assert_eq!(tcp::send(&ours, b"y").expect("send"), 1);
            assert_eq!(read_exactly(&mut program, 1), b"y");
            // And the program may listen anew while our sockets are there.
            drop(squatter);
            TcpListener::bind(SocketAddr::new(any, 40_000)).expect("listen again");
        });
    }
}

#[test]
fn a_dial_tells_the_truth() {
    for v6 in [false, true] {
        capsule().run(move || {
            let nobody = SocketAddr::new(locator(v6), 9);
            let refused = tcp::dial(SocketAddr::new(far(v6), 40_001), nobody)
                .and_then(|fd| {
                    loop {
                        if let Some(()) = tcp::dial_result(&fd)? {
                            return Ok(());
                        }
                    }
                })
                .expect_err("nobody listens");
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        });
    }
}

#[test]
fn the_same_four_addresses_can_be_dialled_again_at_once() {
    capsule().run(|| {
        let listener = TcpListener::bind((LOCATOR_V4, 0)).expect("listen");
        let (source, destination) =
            (SocketAddr::new(far(false), 40_002), listener.local_addr().expect("address"));
        for round in 0..5 {
            let ours =
                tcp::dial(source, destination).unwrap_or_else(|error| panic!("round {round}: {error}"));
            let (mut program, _) = listener.accept().expect("accept");
            // We close first: our side has the TIME_WAIT.
            tcp::shutdown_write(&ours).expect("shutdown");
            assert_eq!(program.read(&mut [0]).expect("read"), 0);
            drop(program);
            until("the end", || tcp::info(&ours).expect("info").state == TcpState::Closed);
            drop(ours);
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}

#[test]
fn a_reset_is_seen_though_a_duplicate_is_held() {
    for v6 in [false, true] {
        capsule().run(move || {
            let (mut program, ours) = delivered(v6);
            let duplicate = ours.try_clone().expect("duplicate");
            tcp::reset(&ours).expect("reset");
            assert_eq!(program.read(&mut [0]).expect_err("reset").kind(), ErrorKind::ConnectionReset);
            drop(duplicate);

            let (mut program, ours) = delivered_from(SocketAddr::new(far(v6), 40_003));
            let _duplicate = ours.try_clone().expect("duplicate");
            repair::silence(&ours).expect("silence");
            tcp::reset(&ours).expect("reset out of repair mode");
            assert_eq!(program.read(&mut [0]).expect_err("reset").kind(), ErrorKind::ConnectionReset);
        });
    }
}

#[test]
fn a_silenced_socket_ends_without_a_word() {
    capsule().run(|| {
        let (mut program, ours) = delivered(false);
        write_all(&mut program, b"unread: an ordinary close would be a reset");
        repair::silence(&ours).expect("silence");
        drop(ours);
        program.set_read_timeout(Some(Duration::from_millis(100))).expect("timeout");
        assert_eq!(program.read(&mut [0]).expect_err("nothing may arrive").kind(), ErrorKind::WouldBlock);
    });
}

#[test]
fn peeking_and_consuming_walk_the_queue() {
    capsule().run(|| {
        let (mut program, ours) = delivered(true);
        tcp::set_peek_offset(&ours, 0).expect("offset");
        write_all(&mut program, b"abcdef");
        until("bytes", || tcp::queued(&ours).expect("queued") == 6);
        let mut buffer = [0; 4];
        assert_eq!(tcp::peek(&ours, &mut buffer).expect("peek"), 4);
        assert_eq!(tcp::consume(&ours, 2).expect("consume"), 2);
        assert_eq!(tcp::peek(&ours, &mut buffer).expect("peek"), 2);
        assert_eq!(&buffer[..2], b"ef");
        assert_eq!(tcp::peek(&ours, &mut buffer).expect_err("all was peeked").kind(), ErrorKind::WouldBlock);
        drop(program);
        until("the end", || matches!(tcp::peek(&ours, &mut buffer), Ok(0)));
        assert_eq!(tcp::consume(&ours, 100).expect("consume"), 4);
    });
}

#[test]
fn an_orphan_is_flushed_by_one_byte() {
    for v6 in [false, true] {
        capsule().run(move || {
            let (mut program, ours) = delivered(v6);
            tcp::set_peek_offset(&ours, 0).expect("offset");
            program.set_nonblocking(true).expect("non-blocking");
            let mut noise = Noise(77);
            let mut sent = Vec::new();
            loop {
                let bytes = noise.bytes(60_000);
                match program.write(&bytes) {
                    Ok(taken) => sent.extend_from_slice(&bytes[..taken]),
                    Err(_) if sent.len() > 1 << 20 => break,
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
            drop(program);
            std::thread::sleep(Duration::from_millis(300));
            assert!((tcp::queued(&ours).expect("queued") as usize) < sent.len());
            let mut kept = Vec::new();
            let began = Instant::now();
            let byte = tcp::flush_orphan(&ours, |byte| {
                kept.push(byte);
                Ok(())
            });
            assert_eq!(byte.expect("flush"), Some(sent[0]));
            until("all bytes", || tcp::info(&ours).expect("info").state == TcpState::CloseWait);
            println!("{} bytes flushed in {:?}", sent.len(), began.elapsed());
            assert_eq!(tcp::queued(&ours).expect("queued") as usize, sent.len() - 1);
            while kept.len() < sent.len() {
                let mut buffer = vec![0; 1 << 20];
                let length = tcp::peek(&ours, &mut buffer).expect("peek");
                kept.extend_from_slice(&buffer[..length]);
            }
            assert!(kept == sent);
            assert_eq!(tcp::peek(&ours, &mut [0]).expect("peek"), 0);
        });
    }
}

#[test]
fn diagnosis_knows_owners_and_orphans() {
    for v6 in [false, true] {
        capsule().run(move || {
            let mut diag = Diag::open().expect("open");
            // A listener on both families, as many programs have: its IPv4 connections look like IPv6.
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("listen");
            let destination = SocketAddr::new(locator(v6), listener.local_addr().expect("address").port());
            let source = SocketAddr::new(far(v6), 40_004);
            assert_eq!(diag.find(destination, source).expect("find"), None);
            let ours = tcp::dial(source, destination).expect("dial");
            until("the connection", || tcp::dial_result(&ours).expect("dial").is_some());
            assert_eq!(tcp::send(&ours, b"12345").expect("send"), 5);
            until("bytes", || tcp::unacknowledged(&ours).expect("unacknowledged") == 0);
            let waiting = diag.find(destination, source).expect("find").expect("a socket");
            assert_eq!((waiting.inode, waiting.state, waiting.receive_queue), (0, TcpState::Established, 5));
            let (program, _) = listener.accept().expect("accept");
            let owned = diag.find(destination, source).expect("find").expect("a socket");
            assert_ne!(owned.inode, 0);
            let all = diag.all().expect("list");
            assert!(all.contains(&(destination, source, owned)));
            assert!(all.iter().any(|(local, peer, _)| (*local, *peer) == (source, destination)));
            assert!(all.iter().any(|(_, _, state)| state.state == TcpState::Listen));
            tcp::consume(&ours, 1).expect_err("nothing there");
            drop(program);
        });
    }
}

#[test]
fn a_long_list_is_complete() {
    capsule().run(|| {
        let listener = TcpListener::bind((LOCATOR_V4, 0)).expect("listen");
        let destination = listener.local_addr().expect("address");
        let pairs: Vec<(TcpStream, _)> = (0..2000u16)
            .map(|number| {
                let ours = tcp::dial(SocketAddr::new(far(false), 1024 + number), destination).expect("dial");
                (listener.accept().expect("accept").0, ours)
            })
            .collect();
        let all = Diag::open().and_then(|mut diag| diag.all()).expect("list");
        assert_eq!(all.len(), 2 * pairs.len() + 1);
    });
}
