//! What bounds the memory of a connection.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::capsule::*;
use kernel::tcp;

/// Writes until nothing was taken for a while.
fn fill(program: &mut std::net::TcpStream) {
    program.set_nonblocking(true).expect("non-blocking");
    let mut last = Instant::now();
    while last.elapsed() < Duration::from_millis(300) {
        match program.write(&[7; 64 << 10]) {
            Ok(_) => last = Instant::now(),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
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
