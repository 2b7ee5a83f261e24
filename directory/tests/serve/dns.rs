//! DNS as a client sees it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};

use super::process::Directory;

const TIME: Duration = Duration::from_secs(5);

pub(super) fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(rand_id(name), MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn rand_id(name: &str) -> u16 {
    name.bytes().fold(7, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
}

pub(super) fn by_udp(server: SocketAddr, question: &Message) -> Message {
    try_udp(server, question, TIME).expect("an answer in time")
}

/// `None` when there is no answer in time.
pub(super) fn try_udp(server: SocketAddr, question: &Message, time: Duration) -> Option<Message> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(time)).unwrap();
    socket.send_to(&question.to_vec().unwrap(), server).unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).ok()?;
    Some(Message::from_vec(&buffer[..length]).unwrap())
}

pub(super) fn by_tcp(server: SocketAddr, question: &Message) -> Message {
    let mut stream = TcpStream::connect_timeout(&server, TIME).unwrap();
    stream.set_read_timeout(Some(TIME)).unwrap();
    let bytes = question.to_vec().unwrap();
    stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(&bytes).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer).unwrap();
    Message::from_vec(&answer).unwrap()
}

/// Asks both ways, and checks that the answers are the same.
fn ask(directory: &Directory, name: &str, kind: RecordType) -> Message {
    let question = question(name, kind);
    let (udp, tcp) = (by_udp(directory.dns, &question), by_tcp(directory.dns, &question));
    assert_eq!(udp.metadata, tcp.metadata);
    assert_eq!(
        (&udp.answers, &udp.authorities, &udp.additionals),
        (&tcp.answers, &tcp.authorities, &tcp.additionals)
    );
    assert_eq!((udp.metadata.id, udp.metadata.message_type), (question.metadata.id, MessageType::Response));
    udp
}

pub(super) fn texts(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

/// Asked one way: it may rise between two questions.
pub(super) fn serial(directory: &Directory) -> u32 {
    let message = by_udp(directory.dns, &question("capsule.internal.", RecordType::SOA));
    match &message.answers[0].data {
        RData::SOA(soa) => soa.serial,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn names_answer_and_follow_a_claim_at_once() {
    let directory = Directory::start();
    let (a, b) = (directory.host("a", 1001).await, directory.host("b", 1002).await);
    let db = a.register("db").await;
    assert_eq!(texts(&ask(&directory, "db.capsule.internal.", RecordType::A)), [db.locators.v4.to_string()]);
    assert_eq!(
        texts(&ask(&directory, "DB.Capsule.INTERNAL.", RecordType::AAAA)),
        [db.locators.v6.to_string()]
    );
    let place = ask(&directory, "_capsule._udp.db.capsule.internal.", RecordType::SRV);
    assert_eq!(texts(&place), ["0 0 1001 a.hosts.capsule.internal."]);
    assert_eq!(place.additionals[0].data.to_string(), "127.0.0.1");
    assert!(place.metadata.authoritative);
    assert_eq!(texts(&ask(&directory, "b.hosts.capsule.internal.", RecordType::A)), ["127.0.0.1"]);
    assert_eq!(texts(&ask(&directory, "capsule.internal.", RecordType::NS)), ["directory.capsule.internal."]);

    let before = serial(&directory);
    for number in 1..=20 {
        let record = b.client.lookup(directory_api::LookupKey::Id(db.id)).await.unwrap();
        let (source, target, port) = if record.host == a.name { (&a, &b, 1002) } else { (&b, &a, 1001) };
        source.offer(&record, number, target).await;
        target.claim(&record, number).await;
        let place = by_udp(directory.dns, &question("_capsule._udp.db.capsule.internal.", RecordType::SRV));
        assert_eq!(texts(&place), [format!("0 0 {port} {}.hosts.capsule.internal.", target.name)]);
    }
    assert_eq!(serial(&directory), before + 40, "one for each offer and each claim");
}

#[tokio::test]
async fn negative_answers_carry_the_soa() {
    let directory = Directory::start();
    let a = directory.host("a", 1001).await;
    a.register("db").await;
    for (name, kind, code) in [
        ("none.capsule.internal.", RecordType::A, ResponseCode::NXDomain),
        ("db.capsule.internal.", RecordType::MX, ResponseCode::NoError),
        ("hosts.capsule.internal.", RecordType::A, ResponseCode::NoError),
        ("_udp.db.capsule.internal.", RecordType::SRV, ResponseCode::NoError),
        ("9.9.88.10.in-addr.arpa.", RecordType::PTR, ResponseCode::NXDomain),
        ("88.10.in-addr.arpa.", RecordType::PTR, ResponseCode::NoError),
    ] {
        let message = ask(&directory, name, kind);
        assert_eq!((message.metadata.response_code, message.answers.len()), (code, 0), "{name}");
        let [authority] = &message.authorities[..] else { panic!("{name}: {message:?}") };
        assert!(matches!(authority.data, RData::SOA(_)), "{name}");
    }
    for (name, kind) in [
        ("example.com.", RecordType::A),
        (".", RecordType::NS),
        ("internal.", RecordType::SOA),
        ("capsule.internal.", RecordType::AXFR),
    ] {
        let message = by_tcp(directory.dns, &question(name, kind));
        assert_eq!(message.metadata.response_code, ResponseCode::Refused, "{name}");
        assert!(message.authorities.is_empty() && !message.metadata.authoritative, "{name}");
    }
}

#[tokio::test]
async fn odd_queries_are_answered_in_form() {
    let directory = Directory::start();
    let mut update = question("capsule.internal.", RecordType::SOA);
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(by_udp(directory.dns, &update).metadata.response_code, ResponseCode::NotImp);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(by_udp(directory.dns, &update).metadata.response_code, ResponseCode::Refused);
    let mut chaos = question("capsule.internal.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(by_udp(directory.dns, &chaos).metadata.response_code, ResponseCode::Refused);

    let mut extended = question("capsule.internal.", RecordType::SOA);
    extended.edns = Some(edns(0));
    let answer = by_udp(directory.dns, &extended);
    assert_eq!((answer.metadata.response_code, answer.edns.unwrap().version()), (ResponseCode::NoError, 0));
    extended.edns = Some(edns(1));
    // 16 is BADVERS in an answer with EDNS, and BADSIG elsewhere.
    assert_eq!(u16::from(by_udp(directory.dns, &extended).metadata.response_code), 16);

    // The name comes back as it was written, also from an answer that was kept.
    for spelling in ["CAPSULE.internal.", "capsule.INTERNAL.", "cApSuLe.InTeRnAl."] {
        let answer = by_udp(directory.dns, &question(spelling, RecordType::SOA));
        assert_eq!(answer.queries[0].name().to_string(), spelling);
        assert_eq!(answer.answers[0].name.to_string(), spelling);
    }

    let strange = Name::from_labels([b"d\xffb".as_slice(), b"capsule", b"internal"]).unwrap();
    let mut message = question("capsule.internal.", RecordType::A);
    message.queries[0].set_name(strange);
    assert_eq!(by_udp(directory.dns, &message).metadata.response_code, ResponseCode::NXDomain);

    // Noise does no harm.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for length in 0..200u8 {
        let noise: Vec<u8> = (0..length).map(|at| at.wrapping_mul(37) ^ length).collect();
        socket.send_to(&noise, directory.dns).unwrap();
    }
    assert!(serial(&directory) > 0);
}

pub(super) fn edns(version: u8) -> Edns {
    let mut edns = Edns::new();
    edns.set_version(version);
    edns.set_max_payload(4096);
    edns
}

#[tokio::test]
async fn locators_have_names() {
    let directory = Directory::start();
    let a = directory.host("a", 1001).await;
    let db = a.register("db").await;
    for locator in [db.locators.v4.into(), std::net::IpAddr::from(db.locators.v6)] {
        let name = Name::from(locator).to_string();
        assert_eq!(texts(&ask(&directory, &name, RecordType::PTR)), ["db.capsule.internal."], "{name}");
    }
    a.client.remove(db.id, db.generation).await.unwrap();
    let name = Name::from(std::net::IpAddr::from(db.locators.v4)).to_string();
    assert_eq!(ask(&directory, &name, RecordType::PTR).metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn what_does_not_fit_is_cut_and_whole_by_tcp() {
    let directory = Directory::start();
    let mut all = question("none.capsule.internal.", RecordType::A);
    let mut edns = edns(0);
    edns.set_dnssec_ok(true);
    edns.set_max_payload(512);
    all.edns = Some(edns);
    for _ in 0..2 {
        let cut = by_udp(directory.dns, &all);
        assert!(cut.metadata.truncation && cut.authorities.is_empty(), "{cut:?}");
        let whole = by_tcp(directory.dns, &all);
        assert!(!whole.metadata.truncation && whole.authorities.len() == 6, "{whole:?}");
    }
    let plain = by_udp(directory.dns, &question("capsule.internal.", RecordType::ANY));
    assert!(!plain.metadata.truncation && plain.answers.len() == 3 && plain.edns.is_none(), "{plain:?}");
}

#[tokio::test]
async fn a_flood_from_one_network_is_cut_short() {
    let directory = Directory::start_with("dns_answers_per_second = 50");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let query = question("capsule.internal.", RecordType::SOA).to_vec().unwrap();
    for _ in 0..400 {
        socket.send_to(&query, directory.dns).unwrap();
    }
    let (mut whole, mut cut, mut buffer) = (0, 0, [0; 4096]);
    while let Ok(length) = socket.recv(&mut buffer) {
        let answer = Message::from_vec(&buffer[..length]).unwrap();
        if answer.metadata.truncation { cut += 1 } else { whole += 1 }
    }
    assert!((100..=200).contains(&whole) && (50..=160).contains(&cut), "{whole} whole, {cut} cut");
    // The way that can't be forged stays open.
    assert_eq!(by_tcp(directory.dns, &question("capsule.internal.", RecordType::SOA)).answers.len(), 1);
}

/// Asks both ways, from several ports, so that each thread is asked; a query may be lost among many, as UDP may.
pub(super) fn assert_serves(directory: &Directory, when: &str) {
    let soa = question("capsule.internal.", RecordType::SOA);
    for _ in 0..4 {
        let mut attempts = (0..20).map(|_| try_udp(directory.dns, &soa, Duration::from_millis(500)));
        assert!(attempts.any(|answer| answer.is_some_and(|answer| answer.answers.len() == 1)), "{when}");
    }
    assert_eq!(by_tcp(directory.dns, &soa).answers.len(), 1, "{when}");
}

#[tokio::test]
async fn queries_are_counted_by_type_and_code() {
    let directory = Directory::start();
    for name in ["capsule.internal.", "capsule.internal.", "none.capsule.internal."] {
        by_udp(directory.dns, &question(name, RecordType::SOA));
    }
    let page = directory.page("/metrics");
    for line in [
        "capsule_directory_dns_queries_total{type=\"SOA\",code=\"NOERROR\"} 2",
        "capsule_directory_dns_queries_total{type=\"SOA\",code=\"NXDOMAIN\"} 1",
        "capsule_directory_dns_answer_seconds_count{kept=\"no\"} 2",
        "capsule_directory_dns_answer_seconds_count{kept=\"yes\"} 1",
        "capsule_directory_dns_kept_total 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
}
