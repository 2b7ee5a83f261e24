//! Packets that are broken: nothing that anybody sends may stop the directory. Seeded, so that a run can be had again.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::OpCode;
use hickory_proto::rr::rdata::TSIG;
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::tsig::{TsigAlgorithm, make_tsig_record};
use hickory_proto::rr::{Name, RecordType};

use super::dns::{assert_serves, edns, question};
use super::dns_transports::{quic, tls_config};
use super::process::Directory;
use super::secondary::SecretFile;

const SEED: u64 = 0x5eed;
/// Packets over UDP, and over each of the other transports, where each takes longer.
const BY_UDP: usize = 60_000;
const BY_STREAM: usize = 3_000;
/// Broken packets on one connection; the directory may close it before.
const ON_ONE_CONNECTION: usize = 50;
/// After so many it is looked whether others are served.
const LOOK: usize = 3_000;

/// Xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end).unwrap()).unwrap()
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }
}

/// Of each kind that is understood one that is whole.
fn whole() -> Vec<Vec<u8>> {
    let mut extended = question("db.capsule.internal.", RecordType::A);
    extended.edns = Some(edns(0));
    let mut with_cookie = extended.clone();
    let cookie = EdnsOption::Unknown(10, (0..24).collect());
    with_cookie.edns.as_mut().unwrap().options_mut().insert(cookie);
    let mut transfer = question("capsule.internal.", RecordType::IXFR);
    let tsig = TSIG::new(TsigAlgorithm::HmacSha256, 1_800_000_000, 300, vec![7; 32], 1, None, vec![]);
    let tsig = Box::new(make_tsig_record(Name::from_ascii("ann.").unwrap(), tsig));
    transfer.signature = Some(tsig.clone());
    let mut update = question("capsule.internal.", RecordType::SOA);
    update.metadata.op_code = OpCode::Update;
    let name = Name::from_ascii("db.capsule.internal.").unwrap();
    let text = hickory_proto::rr::rdata::TXT::new(vec!["x".repeat(200), "y".into()]);
    let text = hickory_proto::rr::RData::TXT(text);
    for section in [&mut update.answers, &mut update.authorities] {
        section.push(hickory_proto::rr::Record::from_rdata(name.clone(), 60, text.clone()));
    }
    let mut signed_update = update.clone();
    signed_update.signature = Some(tsig);
    let plain = question("capsule.internal.", RecordType::ANY);
    let all = [plain, extended, with_cookie, transfer, update, signed_update];
    all.iter().map(|message| message.to_vec().unwrap()).collect()
}

/// One of them with some bytes wrong, or noise.
fn broken(whole: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    if random.below(20) == 0 {
        return (0..random.below(600)).map(|_| random.byte()).collect();
    }
    let mut packet = whole[random.below(whole.len())].clone();
    for _ in 0..=random.below(5) {
        let at = random.below(packet.len());
        match random.below(6) {
            0 => packet.truncate(at + 1),
            1 => packet.extend((0..random.below(40)).map(|byte| u8::try_from(byte).unwrap())),
            2 => drop(packet.remove(at)),
            // A pointer of name compression.
            3 => packet[at] = 0xc0 | random.byte() & 0x3f,
            _ => packet[at] = random.byte(),
        }
        if packet.is_empty() {
            packet.push(random.byte());
        }
    }
    packet
}

fn framed(packet: &[u8], random: &mut Random) -> Vec<u8> {
    let length = match random.below(50) {
        0 => random.below(usize::from(u16::MAX)),
        _ => packet.len(),
    };
    [&u16::try_from(length).unwrap().to_be_bytes()[..], packet].concat()
}

fn settings(secret: &SecretFile) -> &'static str {
    let file = &secret.0;
    std::fs::write(file, "MTIzNDU2Nzg5MGFiY2RlZjEyMzQ1Njc4OTBhYmNkZWY=").unwrap();
    let file = file.display();
    // A few bytes for the life of a test process.
    format!(
        "dns_answers_per_second = 0\ndot = '127.0.0.1:0'\ndoq = '127.0.0.1:0'\n[[updaters]]\nowner = 'ann'\n\
         key_name = 'ann'\nkey_file = '{file}'\n"
    )
    .leak()
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_packets_do_no_harm() {
    let file = std::env::temp_dir().join(format!("capsule-malformed-{}", std::process::id()));
    let secret = SecretFile(file);
    let directory = Directory::start_with(settings(&secret));
    let a = directory.host("a", 1001).await;
    a.register("db").await;
    let (whole, mut random) = (whole(), Random(SEED));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for round in 0..BY_UDP {
        let packet = broken(&whole, &mut random);
        // What is as long as that is refused by the kernel, not by us.
        let _ = socket.send_to(&packet, directory.dns);
        if round % LOOK == 0 {
            assert_serves(&directory, &format!("packet {round} by UDP"));
        }
    }
    let tls = tls_config(&a.membership, "dot").unwrap();
    for round in (0..BY_STREAM).step_by(ON_ONE_CONNECTION) {
        let mut bytes = vec![];
        for _ in 0..ON_ONE_CONNECTION {
            bytes.extend(framed(&broken(&whole, &mut random), &mut random));
        }
        by_tcp(directory.dns, &bytes);
        by_tls(directory.dot.unwrap(), &tls, &bytes).await;
        if round % LOOK == 0 {
            assert_serves(&directory, &format!("packet {round} by TCP and TLS"));
        }
    }
    for _ in 0..BY_STREAM / ON_ONE_CONNECTION {
        let packets =
            (0..ON_ONE_CONNECTION).map(|_| framed(&broken(&whole, &mut random), &mut random)).collect();
        by_quic(&a.membership, directory.doq.unwrap(), packets).await;
    }
    assert_serves(&directory, "at the end");
    let mut asked = question("db.capsule.internal.", RecordType::A);
    asked.metadata.id = 0;
    let (quic, name) = (directory.doq.unwrap(), "directory.capsule.internal");
    let answer = super::dns_transports::by_quic(&a.membership, quic, name, &asked).await.unwrap();
    assert_eq!(answer.answers.len(), 1, "by QUIC at the end");
    assert!(directory.page("/readyz").ends_with("ready\n"));
}

fn by_tcp(server: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(5)).unwrap();
    // It may be closed on us at any byte.
    let _ = stream.write_all(bytes);
}

async fn by_tls(server: SocketAddr, config: &rustls::ClientConfig, bytes: &[u8]) {
    use tokio::io::AsyncWriteExt as _;
    let stream = tokio::net::TcpStream::connect(server).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config.clone()));
    let name = "directory.capsule.internal".try_into().unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
}

async fn by_quic(membership: &directory_api::Membership, server: SocketAddr, packets: Vec<Vec<u8>>) {
    let (_endpoint, connection) = quic(membership, server, "directory.capsule.internal").await.unwrap();
    for packet in packets {
        let Ok((mut send, _receive)) = connection.open_bi().await else { return };
        let _ = send.write_all(&packet).await;
        let _ = send.finish();
    }
}

#[tokio::test]
async fn packets_that_the_kernel_joined_are_answered_each() {
    use quinn_udp::{Transmit, UdpSockRef, UdpSocketState};
    let directory = Directory::start_with("dns_answers_per_second = 0");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let state = UdpSocketState::new(UdpSockRef::from(&socket)).unwrap();
    let packets: Vec<_> = (0..60u8)
        .map(|number| {
            let mut message = question("capsule.internal.", RecordType::SOA);
            message.metadata.id = number.into();
            message.edns = Some(edns(0));
            message.to_vec().unwrap()
        })
        .collect();
    let (contents, segment_size) = (packets.concat(), Some(packets[0].len()));
    assert!(contents.len() > 2_048, "more than a query may have");
    state
        .send(
            UdpSockRef::from(&socket),
            &Transmit {
                destination: directory.dns,
                ecn: None,
                contents: &contents,
                segment_size,
                src_ip: None,
            },
        )
        .unwrap();
    // The way of sending made it take joined packets too.
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (mut buffer, mut answered) = (vec![0; 1 << 16], std::collections::BTreeSet::new());
    while answered.len() < packets.len() {
        let length = socket.recv(&mut buffer).expect("an answer to each");
        assert!(length > 12 && buffer[3] & 0xf == 0, "{length} bytes");
        answered.insert(buffer[1]);
    }
    // What is longer than a query may be is read no further.
    let mut long = question("capsule.internal.", RecordType::SOA).to_vec().unwrap();
    long.resize(9_000, 0);
    socket.send_to(&long, directory.dns).unwrap();
    assert!(socket.recv(&mut buffer).is_ok_and(|length| length < 512), "an answer or a refusal");
    assert_serves(&directory, "behind a long packet");
}
