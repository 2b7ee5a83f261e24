use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use shim::{Reply, Request};

use crate::capsule::Capsule;

#[test]
fn held_sockets_come_back_by_name() {
    let capsule = Capsule::new("a", "held");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = capsule.client();
    let mut peers = Vec::new();
    for n in 0..150 {
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        peers.push(listener.accept().unwrap().0);
        let session = format!("session-{n}");
        assert_eq!(client.request(&Request::Hold { session }, &[socket.as_fd()]).unwrap(), Reply::Done);
    }
    let released = Request::Release { session: "session-7".into() };
    assert_eq!(client.request(&released, &[]).unwrap(), Reply::Done);
    let taken = capsule.client().take_sockets().unwrap();
    assert_eq!(taken.len(), 149);
    for (session, fd) in taken {
        let n: usize = session.strip_prefix("session-").unwrap().parse().unwrap();
        TcpStream::from(fd).write_all(session.as_bytes()).unwrap();
        let mut read = vec![0; session.len()];
        peers[n].read_exact(&mut read).unwrap();
        assert_eq!(read, session.as_bytes());
    }
    // A released one was the last of its kind: the peer sees the end.
    assert_eq!(peers[7].read(&mut [0]).unwrap(), 0);
    capsule.remove();
}

#[test]
fn nobody_hears_of_silenced_sockets() {
    let capsule = Capsule::new("a", "silent");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    let hold = Request::Hold { session: "one".into() };
    assert_eq!(capsule.client().request(&hold, &[socket.as_fd()]).unwrap(), Reply::Done);
    drop(socket);
    assert_eq!(capsule.ask(&Request::SilenceAll), Reply::Done);
    capsule.remove();
    peer.set_nonblocking(true).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!((&peer).read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn requests_out_of_place_are_refused() {
    let capsule = Capsule::new("a", "refused");
    for request in [
        Request::Hold { session: "none".into() },
        Request::OpenGate,
        Request::AbortGate,
        Request::WatchExit,
        Request::Signal { signal: 15, exec: None },
        Request::Signal { signal: 999, exec: None },
        Request::Exec { id: 1, argv: vec!["true".into()] },
        Request::Run { argv: vec![] },
    ] {
        let reply = capsule.ask(&request);
        assert!(matches!(reply, Reply::Failed { .. }), "{request:?}: {reply:?}");
    }
    let client = capsule.client();
    shim::wire::send(&client, &"no request", &[]).unwrap();
    let reply: Reply = shim::wire::receive(&client, &mut Vec::new()).unwrap().unwrap().message;
    assert!(matches!(reply, Reply::Failed { .. }), "{reply:?}");
    capsule.remove();
}
