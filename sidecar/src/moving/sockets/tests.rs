use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use overlay_proto::{Generation, SessionId};

use super::*;
use crate::testing::SOON;

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (far, listener.accept().unwrap().0)
}

/// Writes until the kernel takes no more: its last bytes were never sent.
fn fill(stream: &TcpStream) {
    stream.set_nonblocking(true).unwrap();
    let block = [7; 64 << 10];
    while (&*stream).write(&block).is_ok() {}
}

/// A connection that ended by a FIN each way is as closed as one that was reset.
#[test]
fn a_connection_that_ended_well_is_no_reset() {
    let one = Generation::new(1);
    let half = Half::new(SessionId::from_bytes([3; 16]), Role::Acceptor, one, one);
    let ended_as = |end: fn(TcpStream, &TcpStream)| {
        let (mut far, ours) = pair();
        far.write_all(b"last words").unwrap();
        end(far, &ours);
        let deadline = Instant::now() + SOON;
        let state = || tcp::info(&ours).unwrap().state;
        while state() != TcpState::Closed {
            assert!(Instant::now() < deadline, "it stays {:?}", state());
            std::thread::sleep(Duration::from_millis(1));
        }
        ending_of(ours.as_fd(), state(), &half).unwrap()
    };
    let well = ended_as(|far, ours| {
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        drop(far);
    });
    let broken = ended_as(|far, _| {
        rustix::net::sockopt::set_socket_linger(&far, Some(Duration::ZERO)).unwrap();
        drop(far);
    });
    assert_eq!((well, broken), (EndKind::Fin, EndKind::Reset));
}

/// What could not be sent again would be a hole in what its program reads.
#[test]
fn a_connection_that_does_not_come_to_life_is_reset_behind_what_its_program_said() {
    let (mut far, ours) = pair();
    fill(&ours);
    far.write_all(b"last words").unwrap();
    let deadline = Instant::now() + SOON;
    while tcp::queued(&ours).unwrap() < 10 {
        assert!(Instant::now() < deadline, "the bytes arrive");
        std::thread::sleep(Duration::from_millis(1));
    }
    let tcp = Box::new(repair::capture(&ours).unwrap());
    repair::resume(&ours).unwrap();
    // Its kernel will not take what was never sent.
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    let (id, one) = (CapsuleId::from_bytes([1; 16]), Generation::new(1));
    let (local, remote) = (ours.local_addr().unwrap(), ours.peer_addr().unwrap());
    let mut arrived = Arrived {
        facts: Facts { own: id, peer: id, local, remote, began: SystemTime::UNIX_EPOCH, way: None },
        half: Half::new(SessionId::from_bytes([3; 16]), Role::Opener, one, one),
        program: ArrivedProgram::Open { fd: ours.into(), tcp, prefix: None },
        user_timeout_ms: 0,
    };
    activate(&mut arrived);
    let ArrivedProgram::Gone(remains) = arrived.program else { panic!("it goes on") };
    assert_eq!((&remains.bytes[..], remains.ending), (&b"last words"[..], EndKind::Reset));
    let broken = loop {
        match far.read(&mut [0; 64 << 10]) {
            Ok(0) => panic!("a clean end, though bytes are missing"),
            Ok(_) => {}
            Err(error) => break error.kind(),
        }
    };
    assert_eq!(broken, io::ErrorKind::ConnectionReset);
}
