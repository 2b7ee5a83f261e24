use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::testing::{SOON, program};

/// Waits until the kernel has `count` bytes of the program.
async fn arrived(ours: &Program, count: u64) {
    let all = async {
        while ours.queued() < count {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, all).await.expect("the bytes arrive");
    assert_eq!(ours.queued(), count);
}

async fn peeked(ours: &Program, ahead: u64, bytes_max: usize) -> Peeked {
    timeout(SOON, ours.peek(ahead, bytes_max)).await.expect("something to peek at").unwrap()
}

fn bytes(text: &str) -> Peeked {
    Peeked::Bytes(Bytes::copy_from_slice(text.as_bytes()))
}

fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
    drop(stream);
}

#[tokio::test]
async fn peeking_goes_on_and_consumes_nothing() {
    let (mut far, mut ours) = program(None).await;
    far.write_all(b"abcdefgh").await.unwrap();
    arrived(&ours, 8).await;
    assert_eq!(peeked(&ours, 0, 3).await, bytes("abc"));
    assert_eq!(peeked(&ours, 3, 3).await, bytes("def"));
    assert_eq!(peeked(&ours, 6, 100).await, bytes("gh"));
    assert_eq!(ours.peek_at_once(8, 100).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(ours.queued(), 8);
    // What was acknowledged goes; the next peek is at the same byte as before.
    ours.consume(5).unwrap();
    assert_eq!(ours.queued(), 3);
    far.write_all(b"ij").await.unwrap();
    assert_eq!(peeked(&ours, 3, 100).await, bytes("ij"));
    // After an attach it is sent again from what the other half has.
    ours.seek(1).unwrap();
    assert_eq!(ours.peek_at_once(1, 100).unwrap(), bytes("ghij"));
    ours.seek(0).unwrap();
    assert_eq!(ours.peek_at_once(0, 2).unwrap(), bytes("fg"));
}

#[tokio::test]
async fn more_than_there_is_can_not_be_consumed() {
    let (mut far, mut ours) = program(None).await;
    far.write_all(b"abc").await.unwrap();
    arrived(&ours, 3).await;
    ours.consume(0).unwrap();
    ours.consume(3).unwrap();
    assert!(ours.consume(1).is_err());
}

#[tokio::test]
async fn a_prefix_comes_before_the_queue() {
    let (mut far, mut ours) = program(Some(b'x')).await;
    far.write_all(b"abc").await.unwrap();
    arrived(&ours, 4).await;
    ours.seek(0).unwrap();
    assert_eq!(peeked(&ours, 0, 100).await, bytes("x"));
    assert_eq!(peeked(&ours, 1, 100).await, bytes("abc"));
    // Behind the prefix the queue is off by one.
    ours.seek(2).unwrap();
    assert_eq!(ours.peek_at_once(2, 100).unwrap(), bytes("bc"));
    ours.seek(0).unwrap();
    assert_eq!(ours.peek_at_once(0, 100).unwrap(), bytes("x"));
    assert_eq!(ours.peek_at_once(1, 2).unwrap(), bytes("ab"));
    ours.consume(2).unwrap();
    assert_eq!(ours.queued(), 2);
    let Program::Socket(socket) = &ours else { panic!("it is open") };
    assert_eq!(socket.prefix(), None);
    ours.seek(0).unwrap();
    assert_eq!(ours.peek_at_once(0, 100).unwrap(), bytes("bc"));
}

#[tokio::test]
async fn the_prefix_alone_can_be_consumed_and_the_parts_come_back() {
    let (mut far, mut ours) = program(Some(b'x')).await;
    far.write_all(b"a").await.unwrap();
    arrived(&ours, 2).await;
    ours.consume(1).unwrap();
    assert_eq!(ours.queued(), 1);
    let Program::Socket(mut socket) = ours else { panic!("it is open") };
    socket.set_prefix(b'y');
    let (fd, prefix) = socket.into_parts();
    assert_eq!(prefix, Some(b'y'));
    let again = Program::Socket(Socket::new(fd, prefix).unwrap());
    assert_eq!(again.queued(), 2);
}

#[tokio::test]
async fn a_preamble_comes_before_all_that_the_program_sends() {
    let (mut far, ours) = program(None).await;
    let Program::Socket(socket) = ours else { panic!("it is open") };
    let mut ours = Program::Socket(socket.after(Bytes::from_static(b"hello")));
    assert_eq!(ours.queued(), 5);
    assert_eq!(peeked(&ours, 0, 2).await, bytes("he"));
    assert_eq!(peeked(&ours, 2, 100).await, bytes("llo"));
    assert_eq!(ours.peek_at_once(5, 100).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    far.write_all(b"abc").await.unwrap();
    far.shutdown().await.unwrap();
    arrived(&ours, 8).await;
    assert_eq!(peeked(&ours, 5, 100).await, bytes("abc"));
    assert_eq!(peeked(&ours, 8, 100).await, Peeked::End(EndKind::Fin));
    // Sent again from within, from its end, and from behind it.
    for (ahead, rest) in [(3, "lo"), (5, "abc"), (7, "c")] {
        ours.seek(ahead).unwrap();
        assert_eq!(ours.peek_at_once(ahead, 100).unwrap(), bytes(rest));
    }
    ours.consume(4).unwrap();
    assert_eq!(peeked(&ours, 0, 100).await, bytes("o"));
    ours.consume(2).unwrap();
    ours.seek(0).unwrap();
    assert_eq!((ours.queued(), peeked(&ours, 0, 100).await), (2, bytes("bc")));
}

#[tokio::test]
async fn a_fin_is_an_end_behind_the_bytes() {
    let (mut far, ours) = program(None).await;
    far.write_all(b"last").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(peeked(&ours, 0, 100).await, bytes("last"));
    assert_eq!(peeked(&ours, 4, 100).await, Peeked::End(EndKind::Fin));
    ours.seek(0).unwrap();
    assert_eq!(peeked(&ours, 0, 100).await, bytes("last"));
    // The other direction is still open.
    let mut reply = Bytes::from_static(b"reply");
    assert_eq!(ours.send(&mut reply).await.unwrap(), 5);
    ours.shutdown();
    let mut seen = Vec::new();
    far.read_to_end(&mut seen).await.unwrap();
    assert_eq!(seen, b"reply");
    timeout(SOON, async {
        while !ours.is_finished() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("both have ended");
}

#[tokio::test]
async fn a_reset_is_noticed_and_leaves_the_bytes_before_it() {
    let (mut far, mut ours) = program(None).await;
    far.write_all(b"words").await.unwrap();
    arrived(&ours, 5).await;
    assert!(timeout(std::time::Duration::from_millis(20), ours.error()).await.is_err(), "no error yet");
    reset(far);
    timeout(SOON, ours.error()).await.expect("the reset is seen");
    assert!(ours.is_finished());
    assert_eq!(ours.queued(), 5);
    ours.consume(5).unwrap();
}

#[tokio::test]
async fn sending_takes_what_the_kernel_accepts_and_no_more() {
    let (mut far, ours) = program(None).await;
    let all = Bytes::from((0..4_000_000_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    let mut pending = all.clone();
    let sending = async {
        while !pending.is_empty() {
            let before = pending.len();
            let count = ours.send(&mut pending).await.unwrap();
            assert!(count > 0 && pending.len() == before - count);
        }
    };
    let mut seen = vec![0; all.len()];
    let (_, read) = timeout(SOON, async { tokio::join!(sending, far.read_exact(&mut seen)) }).await.unwrap();
    read.unwrap();
    assert!(seen == all);
}

#[tokio::test]
async fn bytes_for_a_program_that_does_not_read_stay_pending() {
    let (far, ours) = program(None).await;
    let mut pending = Bytes::from(vec![1; 64 << 20]);
    let mut sent = 0;
    while let Ok(count) = timeout(std::time::Duration::from_millis(100), ours.send(&mut pending)).await {
        sent += count.unwrap();
    }
    assert_eq!(sent + pending.len(), 64 << 20);
    assert!(ours.unacknowledged() > 0 && !pending.is_empty());
    assert!(!ours.is_finished());
    reset(far);
    assert!(timeout(SOON, ours.send(&mut pending)).await.unwrap().is_err());
}

#[tokio::test]
async fn our_reset_is_one_for_the_program() {
    let (mut far, mut ours) = program(None).await;
    ours.reset();
    assert_eq!(ours.queued(), 0);
    assert!(ours.is_finished());
    assert_eq!(far.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(peeked(&ours, 0, 10).await, Peeked::End(EndKind::Reset));
    // There is nothing left to reset.
    ours.reset();
}

/// Also when all of them were peeked, the program's window is closed, and nothing more can come.
#[tokio::test]
async fn discarded_bytes_leave_room_until_the_end() {
    for peeked_before in [false, true] {
        let (mut far, ours) = program(None).await;
        let writer = tokio::spawn(async move {
            far.write_all(&vec![1; 16 << 20]).await?;
            far.shutdown().await
        });
        if peeked_before {
            ours.seek(0).unwrap();
            let mut ahead = 0;
            while let Ok(found) = timeout(Duration::from_millis(100), ours.peek(ahead, 1 << 20)).await {
                match found.unwrap() {
                    Peeked::Bytes(bytes) => ahead += bytes.len() as u64,
                    Peeked::End(kind) => panic!("{kind:?}: all of it had room"),
                }
            }
        }
        timeout(SOON, ours.discard()).await.expect("nothing stands in the way");
        writer.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn remains_are_peeked_at_consumed_and_ended() {
    for ending in [EndKind::Fin, EndKind::Reset] {
        let mut ours = Program::Gone(Remains::new(Bytes::from_static(b"remains"), ending));
        assert!(ours.fd().is_none());
        assert_eq!(peeked(&ours, 0, 3).await, bytes("rem"));
        assert_eq!(peeked(&ours, 3, 100).await, bytes("ains"));
        assert_eq!(peeked(&ours, 7, 100).await, Peeked::End(ending));
        assert_eq!(peeked(&ours, u64::MAX, 100).await, Peeked::End(ending));
        ours.seek(2).unwrap();
        ours.consume(4).unwrap();
        assert_eq!(ours.queued(), 3);
        assert_eq!(peeked(&ours, 0, 100).await, bytes("ins"));
        ours.consume(u64::MAX).unwrap();
        assert_eq!(peeked(&ours, 0, 100).await, Peeked::End(ending));
        // What comes for a program that is gone is taken and forgotten.
        let mut late = Bytes::from_static(b"late");
        assert_eq!(ours.send(&mut late).await.unwrap(), 4);
        assert!(late.is_empty() && ours.is_finished() && ours.unacknowledged() == 0);
        assert!(ours.peek_at_once(0, 10).is_err());
    }
}

#[tokio::test]
async fn a_socket_knows_its_addresses() {
    let (far, ours) = program(None).await;
    let fd = ours.fd().expect("it is open");
    let (local, peer): (SocketAddr, SocketAddr) = tcp::addresses(fd).unwrap();
    assert_eq!((peer, local), (far.local_addr().unwrap(), far.peer_addr().unwrap()));
}
