//! The relay between two hosts, with bare UDP.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use testkit::{Host, Mesh, Weather};

const QUIET: Duration = Duration::from_millis(300);

fn socket(host: &Host, port: u16) -> UdpSocket {
    let address = SocketAddr::from((host.address(), port));
    let socket = host.inside(|| UdpSocket::bind(address)).expect("the host's own address");
    socket.set_read_timeout(Some(QUIET)).expect("not zero");
    socket
}

/// Sends this many numbered packets, a few at a time so that no queue overflows, and gives the numbers that arrive.
fn send(from: &UdpSocket, through: SocketAddr, to: &UdpSocket, count: u32) -> (Vec<u32>, Option<SocketAddr>) {
    let (mut arrived, mut source) = (Vec::new(), None);
    let mut buffer = [0; 4];
    for number in 0..count {
        from.send_to(&number.to_be_bytes(), through).expect("the relay is on the same switch");
    }
    while let Ok((_, seen)) = to.recv_from(&mut buffer) {
        arrived.push(u32::from_be_bytes(buffer));
        source = Some(seen);
    }
    (arrived, source)
}

#[test]
fn packets_pass_and_suffer_as_told() {
    let mesh = Mesh::new("relay");
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let relay = mesh.relay();
    relay.carry(&b);
    let through = SocketAddr::from((relay.host().address(), 4500));
    let (near, far) = (socket(&a, 4433), socket(&b, 4433));
    // Fair: all, in order, and back.
    let (arrived, source) = send(&near, through, &far, 200);
    assert_eq!(arrived, (0..200).collect::<Vec<_>>());
    let source = source.expect("packets came");
    assert_eq!(source.ip(), relay.host().address());
    let (back, seen) = send(&far, source, &near, 200);
    assert_eq!((back, seen), ((0..200).collect::<Vec<_>>(), Some(through)));
    // Late.
    let delay = Duration::from_millis(100);
    relay.set_weather(Weather { delay, ..Weather::default() });
    let began = Instant::now();
    near.send_to(&[0; 4], through).expect("sent");
    far.recv_from(&mut [0; 4]).expect("it comes");
    assert!(began.elapsed() >= delay, "{:?}", began.elapsed());
    // Some lost, some twice, in any order.
    let weather = Weather { loss_percent: 20.0, duplicate_percent: 20.0, delay, jitter: delay };
    relay.set_weather(weather);
    let (arrived, _) = send(&near, through, &far, 500);
    let different = arrived.iter().collect::<std::collections::HashSet<_>>().len();
    assert!((330..470).contains(&different), "{different} of 500 arrived");
    assert!(arrived.len() > different + 30, "{} came, {different} of them once", arrived.len());
    assert!(!arrived.is_sorted());
    relay.set_weather(Weather::default());
    // One way cut, the other not.
    relay.cut(&a, &b);
    assert!(send(&near, through, &far, 10).0.is_empty());
    assert_eq!(send(&far, source, &near, 10).0.len(), 10);
    assert!(relay.counts().cut >= 10, "{:?}", relay.counts());
    relay.heal();
    // The NAT forgets: from another port, which the other side must use.
    assert_eq!(relay.rebind(&a), 1);
    let (arrived, other) = send(&near, through, &far, 10);
    assert_eq!(arrived.len(), 10);
    let other = other.expect("packets came");
    assert_ne!(other.port(), source.port());
    assert!(send(&far, source, &near, 10).0.is_empty(), "the old port still leads somewhere");
    assert_eq!(send(&far, other, &near, 10).0.len(), 10);
    assert!(mesh.end().is_empty());
}

#[test]
fn a_host_gets_another_address() {
    let mesh = Mesh::new("readdress");
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let old = b.address();
    let listener = socket(&a, 4433);
    let seen_from = || {
        let sender = b.inside(|| UdpSocket::bind("0.0.0.0:0")).expect("any port");
        sender.send_to(b"x", (a.address(), 4433)).expect("a is on the same switch");
        listener.recv_from(&mut [0; 1]).expect("it comes").1.ip()
    };
    assert_eq!(seen_from(), old);
    b.readdress(1);
    assert_ne!(b.address(), old);
    assert_eq!(seen_from(), b.address());
    assert!(mesh.end().is_empty());
}
