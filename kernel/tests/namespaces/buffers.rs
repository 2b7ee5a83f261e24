//! What bounds the memory of a connection, and how long a program lets bytes wait in it.

use std::io::Write;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use crate::capsule::*;
use kernel::{tcp, user_timeout};

const LONG: Duration = Duration::from_secs(5);

/// Writes until nothing was taken for a while.
fn fill(program: &mut std::net::TcpStream) {
    program.set_nonblocking(true).expect("non-blocking");
    let mut last = Instant::now();
    while last.elapsed() < Duration::from_millis(300) {
        match program.write(&[7; 64 << 10]) {
            Ok(1..) => last = Instant::now(),
            Ok(0) | Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// The buffer of an open connection can be enlarged, which the program hears of with the next byte consumed, and made
/// smaller than what it holds.
#[test]
fn a_receive_buffer_grows_and_shrinks_while_it_is_used() {
    capsule().run(|| {
        let (mut program, ours) = delivered(false);
        tcp::set_receive_buffer(&ours, 32 << 10).expect("buffer");
        assert_eq!(tcp::receive_memory(&ours).expect("buffer"), 64 << 10);
        fill(&mut program);
        let small = tcp::queued(&ours).expect("queue");
        assert!(small <= 128 << 10, "{small} bytes are in a buffer of 64 KiB");
        tcp::set_receive_buffer(&ours, 512 << 10).expect("buffer");
        tcp::consume(&ours, small as usize / 2).expect("consume");
        fill(&mut program);
        let large = tcp::queued(&ours).expect("queue");
        assert!(large > 4 * small, "{small} bytes were queued, then {large}");
        tcp::set_receive_buffer(&ours, 32 << 10).expect("buffer");
        assert_eq!(tcp::queued(&ours).expect("queue"), large, "nothing is lost");
    });
}

/// What a program does not read waits with the sender of the bytes, but for little.
#[test]
fn a_send_queue_takes_little_for_a_program_that_does_not_read() {
    capsule().run(|| {
        let (_program, ours) = delivered(false);
        tcp::set_unsent_limit(&ours, 32 << 10).expect("limit");
        let mut last = Instant::now();
        while last.elapsed() < Duration::from_millis(300) {
            match tcp::send(&ours, &[7; 64 << 10]) {
                Ok(_) => last = Instant::now(),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        let unsent = tcp::unsent(&ours).expect("queue");
        assert!(unsent <= 96 << 10, "{unsent} bytes wait");
    });
}

/// The TCP_USER_TIMEOUT of a process's connections is found and changed through its descriptors, and seen to count only
/// while bytes wait.
#[test]
fn a_user_timeout_is_put_aside_and_given_back() {
    for v6 in [false, true] {
        capsule().run(move || {
            let (mut program, ours) = delivered(v6);
            let (local, peer) =
                (program.local_addr().expect("address"), program.peer_addr().expect("address"));
            sockopt::set_tcp_user_timeout(&program, 1000).expect("set");
            let find = || {
                let mut found = None;
                user_timeout::each_connection(std::process::id(), |socket| {
                    if (socket.local, socket.peer) == (local, peer) {
                        found = Some(socket);
                    }
                });
                found.expect("this process has it")
            };
            assert_eq!(find().timeout_ms, 1000);
            assert!(!find().is_waiting().expect("asked"));
            // A process that shares the socket was shown it as it was before.
            let shared = find();
            find().set_timeout_ms(0).expect("set");
            assert_eq!((shared.timeout_ms, shared.timeout_ms_at_present().expect("read")), (1000, 0));
            drop(shared);
            assert_eq!(sockopt::tcp_user_timeout(&program).expect("read"), 0);
            tcp::set_receive_buffer(&ours, 32 << 10).expect("buffer");
            fill(&mut program);
            let waits = Instant::now();
            while !find().is_waiting().expect("asked") {
                assert!(waits.elapsed() < LONG, "the window is shut and nothing waits");
                std::thread::sleep(Duration::from_millis(10));
            }
            std::thread::sleep(Duration::from_millis(2500));
            assert!(program.take_error().expect("asked").is_none(), "it was ended with its value put aside");
            let empties = Instant::now();
            while find().is_waiting().expect("asked") || tcp::unacknowledged(&program).expect("asked") > 0 {
                assert!(empties.elapsed() < LONG, "all was taken and something waits");
                let _ = tcp::consume(ours.as_fd(), 1 << 20);
                std::thread::sleep(Duration::from_millis(1));
            }
            find().set_timeout_ms(1000).expect("set");
            assert_eq!(sockopt::tcp_user_timeout(&program).expect("read"), 1000);
        });
    }
}
