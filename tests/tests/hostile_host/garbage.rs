//! What is no message at all.

use overlay_proto::limits::VERSION_MAX;

use super::*;

/// Pseudo-random bytes.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    pattern::fill(seed, 0, &mut bytes);
    bytes
}

/// Beginnings that are no messages, for any kind of stream: noise, huge lengths, too little.
fn garbage() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = (0..8).map(|seed| noise(seed, 1 << (2 * seed))).collect();
    for length in [u32::MAX, 1 << 31, (16 << 20) + 1, 4097, 4096, 257, 5] {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend(noise(u64::from(length), 64));
        all.push(bytes);
    }
    all.extend([vec![], vec![0], vec![0; 3], vec![0; 4], vec![0xff; 4], vec![0; 5000]]);
    all
}

/// A link on which garbage may have been fatal is made anew.
#[track_caller]
fn usable(evil: &Evil, host: &Host, wire: Wire) -> Wire {
    if wire.connection.close_reason().is_none() { wire } else { evil.link(host) }
}

#[test]
fn garbage_closes_one_link_at_most() {
    let mesh = Mesh::running("garbage", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut talk = Talk::start(&a, &b);
    let evil = Evil::join(&mesh, &[&a, &b]);
    let session = Session::of(&a, "counter", "redis");
    for host in [&a, &b] {
        instead_of_a_greeting(&evil, host);
        talk.goes_on();
        on_the_control_stream(&evil, host);
        talk.goes_on();
        on_data_streams(&evil, host, session);
        talk.goes_on();
        on_request_streams(&evil, host);
        talk.goes_on();
        is_well(host);
    }
    // The link between a and b was not touched.
    for host in [&a, &b] {
        let downs = log_of(host)
            .lines()
            .filter(|line| line.contains("link down"))
            .map(str::to_owned)
            .collect::<Vec<_>>();
        assert!(downs.iter().all(|line| line.contains("evil")), "{}: {downs:#?}", host.name());
    }
    evil.settle(&mut evil.link(&a));
    end(mesh);
}

fn hello(version_min: u32, version_max: u32) -> Frame {
    Frame::Hello { version_min, version_max, sidecar: 0, dial: 0, known: 0 }
}

fn instead_of_a_greeting(evil: &Evil, host: &Host) {
    let mut beginnings = garbage();
    for frame in [Frame::Ping, hello(VERSION_MAX + 1, VERSION_MAX + 9), hello(9, 0)] {
        let mut bytes = BytesMut::new();
        overlay_proto::frame::encode(&frame, &mut bytes);
        beginnings.push(bytes.to_vec());
    }
    for bytes in beginnings {
        let connection = evil.connect(host);
        let greeted = evil.run(async {
            let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
            let _ = send.write_all(&bytes).await;
            let _ = send.finish();
            let answer = tokio::time::timeout(Duration::from_secs(8), receive.read_chunk(64, true)).await;
            answer.expect("an end in time").is_ok_and(|chunk| chunk.is_some())
        });
        assert!(!greeted, "{} greets after {:?}…", host.name(), &bytes[..bytes.len().min(8)]);
    }
    // Nothing at all, for as long as it likes.
    drop(evil.connect(host));
}

fn on_the_control_stream(evil: &Evil, host: &Host) {
    for bytes in garbage() {
        let mut wire = evil.link(host);
        evil.run(async {
            let _ = wire.send.write_all(&bytes).await;
            let _ = wire.send.finish();
            let closed = tokio::time::timeout(Duration::from_secs(8), wire.connection.closed()).await;
            closed.expect("a control stream that ended is no link");
        });
    }
}

fn on_data_streams(evil: &Evil, host: &Host, session: Session) {
    let mut wire = evil.link(host);
    let mut header = BytesMut::new();
    let to = Role::Acceptor;
    StreamHeader { session: session.id, to, key: session.key(1 << 20), offset: 0 }.encode(&mut header);
    let mut beginnings = garbage();
    beginnings.extend((1..header.len()).map(|length| header[..length].to_vec()));
    for (number, bytes) in beginnings.into_iter().enumerate() {
        wire = usable(evil, host, wire);
        evil.run(async {
            let mut stream = wire.connection.open_uni().await.expect("a stream");
            let _ = stream.write_all(&bytes).await;
            // Ended, cut, or left open.
            match number % 3 {
                0 => drop(stream.finish()),
                1 => drop(stream.reset(quinn::VarInt::from_u32(7))),
                _ => std::mem::forget(stream),
            }
        });
    }
    // Neither is a datagram anything.
    for seed in 0..8 {
        let _ = wire.connection.send_datagram(noise(seed, 100).into());
    }
    evil.settle(&mut usable(evil, host, wire));
}

fn on_request_streams(evil: &Evil, host: &Host) {
    let mut wire = evil.link(host);
    for kind in [0, ADMIN, MOVE, FILES, 4, 0xff] {
        for rest in garbage() {
            wire = usable(evil, host, wire);
            let answer = evil.raw(&wire, &[&[kind], &rest[..]].concat(), true);
            let told = answer.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            let is_error = kind == ADMIN && told.contains("admin/protocol");
            assert!(told.is_empty() || is_error, "{kind}: {told:?}");
        }
    }
    wait_until(SOON, "the sidecar", || host.capsule(["--json", "ps"]).code == 0);
    evil.settle(&mut usable(evil, host, wire));
}
