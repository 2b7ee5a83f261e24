use hickory_proto::op::Query;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use std::sync::Mutex;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::exchange::{read_message, write_message};
use super::*;
use crate::limits::{DNS_PATIENCE, UPSTREAM_PATIENCE};

/// A DNS server of one address that answers with its own response code, over UDP and TCP.
struct Server {
    address: SocketAddr,
    asked: Arc<std::sync::atomic::AtomicUsize>,
}

impl Server {
    async fn start(code: ResponseCode) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).await.unwrap();
        let asked: Arc<std::sync::atomic::AtomicUsize> = Arc::default();
        let (over_udp, over_tcp) = (asked.clone(), asked.clone());
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((count, from)) = udp.recv_from(&mut buffer).await {
                over_udp.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                udp.send_to(&reply(&buffer[..count], code), from).await.unwrap();
            }
        });
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let query = read_message(&mut stream).await.unwrap();
                over_tcp.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                write_message(&mut stream, &reply(&query, code)).await.unwrap();
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(std::sync::atomic::Ordering::Relaxed)
    }
}

fn reply(query: &[u8], code: ResponseCode) -> Vec<u8> {
    let query = Message::from_vec(query).unwrap();
    Message::error_msg(query.metadata.id, query.metadata.op_code, code).to_vec().unwrap()
}

fn query(name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = 4711;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

/// An address at which nobody answers, and says so.
async fn nobody() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Locators of the one capsule that this host knows.
const KNOWN: [&str; 2] = ["10.88.0.7", "fd88::7"];

fn host(servers: &[SocketAddr]) -> HostResolver {
    // Not even the host's own where there is none.
    match servers {
        [] => HostResolver::of_file("/nonexistent".into()),
        _ => HostResolver::new(&servers.iter().copied().map(NameServer).collect::<Vec<_>>()),
    }
}

fn upstreams(zone_servers: &[SocketAddr], others: &[SocketAddr]) -> Upstreams {
    let known = |name: &str| (name == "known").then(|| KNOWN.map(|text| text.parse().unwrap()));
    Upstreams {
        zone: "capsule.internal".into(),
        zone_servers: crate::finder::Servers::new(zone_servers.into()),
        others: Arc::new(host(others)),
        known: Box::new(known),
        silent_until: Mutex::default(),
    }
}

fn code(answer: Option<Vec<u8>>) -> ResponseCode {
    let message = Message::from_vec(&answer.expect("an answer")).unwrap();
    assert_eq!((message.metadata.id, message.metadata.message_type), (4711, MessageType::Response));
    message.metadata.response_code
}

/// The codes tell who answered.
const BY_ZONE: ResponseCode = ResponseCode::NXDomain;
const BY_HOST: ResponseCode = ResponseCode::Refused;

#[tokio::test]
async fn names_of_the_zone_go_to_the_directory_and_others_to_the_host() {
    let (zone, host) = (Server::start(BY_ZONE).await, Server::start(BY_HOST).await);
    let upstreams = upstreams(&[zone.address], &[host.address]);
    for (name, expected) in [
        ("redis.capsule.internal.", BY_ZONE),
        ("capsule.internal.", BY_ZONE),
        ("_capsule._udp.Redis.CAPSULE.Internal.", BY_ZONE),
        ("www.example.org.", BY_HOST),
        ("notcapsule.internal.", BY_HOST),
        ("capsule.internal.example.org.", BY_HOST),
        ("internal.", BY_HOST),
        (".", BY_HOST),
    ] {
        assert_eq!(code(answer(&upstreams, &query(name), Transport::Udp).await), expected, "{name} over UDP");
        assert_eq!(code(answer(&upstreams, &query(name), Transport::Tcp).await), expected, "{name} over TCP");
    }
    assert_eq!((zone.asked(), host.asked()), (6, 10));
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_does_not_answer() {
    let host = Server::start(BY_HOST).await;
    let upstreams = upstreams(&[], &[nobody().await, host.address]);
    assert_eq!(code(answer(&upstreams, &query("example.org."), Transport::Udp).await), BY_HOST);
    assert_eq!(code(answer(&upstreams, &query("example.org."), Transport::Tcp).await), BY_HOST);
}

#[tokio::test]
async fn without_an_answer_there_is_a_failure_and_no_silence() {
    let alone = upstreams(&[nobody().await], &[nobody().await, nobody().await]);
    for name in ["redis.capsule.internal.", "example.org."] {
        let failed = answer(&alone, &query(name), Transport::Udp).await.expect("an answer");
        let message = Message::from_vec(&failed).unwrap();
        assert_eq!(message.queries[0].name().to_ascii(), name, "it repeats the question");
        assert_eq!(code(Some(failed)), ResponseCode::ServFail);
        assert_eq!(code(answer(&alone, &query(name), Transport::Tcp).await), ResponseCode::ServFail);
    }
    // A host without a resolver.
    let none = upstreams(&[], &[]);
    assert_eq!(code(answer(&none, &query("example.org."), Transport::Udp).await), ResponseCode::ServFail);
}

/// A server that is silent, where the kernel says nothing either.
#[tokio::test]
async fn a_silent_server_costs_a_bounded_time() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let upstreams = upstreams(&[], &[silent.local_addr().unwrap()]);
    let began = std::time::Instant::now();
    assert_eq!(
        code(answer(&upstreams, &query("example.org."), Transport::Udp).await),
        ResponseCode::ServFail
    );
    assert!(began.elapsed() < UPSTREAM_PATIENCE + Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_is_no_query_gets_no_answer() {
    let host = Server::start(BY_HOST).await;
    let upstreams = upstreams(&[host.address], &[host.address]);
    let response = reply(&query("example.org."), ResponseCode::NoError);
    let mut nameless = Message::query();
    nameless.metadata.id = 4711;
    let noise: Vec<u8> = (0..512_u32).map(|n| (n * 37 % 251) as u8).collect();
    for bytes in [&[][..], &[1], &[0; 12], &noise, &response, &nameless.to_vec().unwrap()] {
        assert_eq!(answer(&upstreams, bytes, Transport::Udp).await, None, "{bytes:?}");
    }
    assert_eq!(host.asked(), 0);
}

#[tokio::test]
async fn both_protocols_are_served() {
    let (zone, host) = (Server::start(BY_ZONE).await, Server::start(BY_HOST).await);
    let upstreams = Arc::new(upstreams(&[zone.address], &[host.address]));
    let udp = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (udp_address, tcp_address) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    let slots = Arc::new(Semaphore::new(2));
    let lookups = Arc::new(Lookups::new(false));
    lookups.serve_at(udp.clone(), &tcp).unwrap();
    let serving = [
        tokio::spawn(serve_udp(udp, upstreams.clone(), slots.clone(), lookups.clone())),
        tokio::spawn(connections::serve(tcp, upstreams, slots, lookups)),
    ];
    // Noise, which is passed over, and more queries than may be under way at once, one after the other.
    let noise = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    noise.send_to(&[7; 40], udp_address).await.unwrap();
    for _ in 0..5 {
        assert_eq!(code(Transport::Udp.ask(udp_address, query("a.capsule.internal.")).await.ok()), BY_ZONE);
    }
    // Several queries on one connection.
    let mut stream = TcpStream::connect(tcp_address).await.unwrap();
    for (name, expected) in [("a.capsule.internal.", BY_ZONE), ("example.org.", BY_HOST)] {
        write_message(&mut stream, &query(name)).await.unwrap();
        assert_eq!(code(read_message(&mut stream).await.ok()), expected);
    }
    // A length without a message is no query: the connection ends.
    stream.write_all(&[0, 4, 1, 2, 3, 4]).await.unwrap();
    assert!(read_message(&mut stream).await.is_err());
    serving.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn an_answer_to_another_question_is_not_taken() {
    let liar = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = liar.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((count, from)) = liar.recv_from(&mut buffer).await {
            let mut answer = reply(&buffer[..count], BY_HOST);
            answer[0] ^= 0xff;
            liar.send_to(&answer, from).await.unwrap();
        }
    });
    assert!(Transport::Udp.ask(address, query("example.org.")).await.is_err());
}

/// What the directory last said is used only while it does not answer.
#[tokio::test]
async fn known_names_are_answered_while_the_directory_is_silent() {
    let there = Server::start(BY_ZONE).await;
    let listened = upstreams(&[there.address], &[]);
    assert_eq!(code(answer(&listened, &query("known.capsule.internal."), Transport::Udp).await), BY_ZONE);
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let alone = upstreams(&[silent.local_addr().unwrap()], &[]);
    let began = std::time::Instant::now();
    for (number, name) in ["known.capsule.internal.", "Known.Capsule.Internal."].into_iter().enumerate() {
        let mut asked = Message::query();
        asked.metadata.id = 4711;
        let kind = [RecordType::A, RecordType::AAAA][number];
        asked.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let found = answer(&alone, &asked.to_vec().unwrap(), Transport::Udp).await;
        let message = Message::from_vec(found.as_deref().unwrap()).unwrap();
        let data: Vec<String> = message.answers.iter().map(|record| record.data.to_string()).collect();
        assert_eq!(data, [KNOWN[number]]);
        assert_eq!(message.queries[0].name().to_ascii(), name, "it repeats the question");
        assert_eq!(code(found), ResponseCode::NoError);
    }
    // The second one did not wait.
    assert!(began.elapsed() < DNS_PATIENCE * 2, "{:?}", began.elapsed());
    // Nothing is made up: neither names nor records of other kinds.
    assert_eq!(
        code(answer(&alone, &query("other.capsule.internal."), Transport::Udp).await),
        ResponseCode::ServFail
    );
    assert!(alone.known("known", &Query::query(Name::root(), RecordType::SRV)).is_none());
}

/// One of several directories is gone without a word, another can't reach its store: whoever asks notices neither.
#[tokio::test]
async fn of_several_directories_one_that_can_answer_does() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (unable, able) = (Server::start(ResponseCode::ServFail).await, Server::start(BY_ZONE).await);
    let several = upstreams(&[silent.local_addr().unwrap(), unable.address, able.address], &[]);
    let began = std::time::Instant::now();
    for name in ["other.capsule.internal.", "known.capsule.internal.", "other.capsule.internal."] {
        assert_eq!(code(answer(&several, &query(name), Transport::Udp).await), BY_ZONE, "{name}");
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}: the silent one was waited for", began.elapsed());
    assert_eq!((unable.asked(), able.asked()), (1, 3), "whoever answered is asked first");
    let all_unable = upstreams(&[unable.address, silent.local_addr().unwrap()], &[]);
    assert_eq!(
        code(answer(&all_unable, &query("other.capsule.internal."), Transport::Udp).await),
        ResponseCode::ServFail
    );
}

/// The kernel's end of a connection with half a query in it goes from one resolver to the next, and back by an undone move.
#[tokio::test]
async fn a_connection_goes_on_where_the_capsule_does() {
    let zone = Server::start(BY_ZONE).await;
    let upstreams = Arc::new(upstreams(&[zone.address], &[]));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let again = listener.as_fd().try_clone_to_owned().unwrap();
    let again = TcpListener::from_std(std::net::TcpListener::from(again)).unwrap();
    let udp = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let slots = || Arc::new(Semaphore::new(2));
    let source = Arc::new(Lookups::new(false));
    source.serve_at(udp.clone(), &listener).unwrap();
    let serving = tokio::spawn(connections::serve(listener, upstreams.clone(), slots(), source.clone()));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let whole = query("a.capsule.internal.");
    let length = u16::try_from(whole.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, &whole[..9]].concat()).await.unwrap();
    source.hold();
    let _ = source.capture().await;
    source.release();
    stream.write_all(&[&whole[9..], &length, &whole[..9]].concat()).await.unwrap();
    assert_eq!(code(read_message(&mut stream).await.ok()), BY_ZONE, "an undone move");

    source.hold();
    // One that nobody has accepted goes along too.
    let mut late = TcpStream::connect(address).await.unwrap();
    write_message(&mut late, &whole).await.unwrap();
    let travelling = source.capture().await;
    source.forget();
    serving.abort();
    let target = Arc::new(Lookups::new(true));
    target.serve_at(udp, &again).unwrap();
    let serving = tokio::spawn(connections::serve(again, upstreams, slots(), target.clone()));
    let sent = serde_json::to_vec(&travelling).unwrap();
    target.arrive(serde_json::from_slice(&sent).unwrap());
    target.release();
    assert_eq!(code(read_message(&mut late).await.ok()), BY_ZONE);
    stream.write_all(&whole[9..]).await.unwrap();
    assert_eq!(code(read_message(&mut stream).await.ok()), BY_ZONE);
    serving.abort();
}

/// What is said once holds, for whoever asks the same.
#[tokio::test]
async fn other_names_are_asked_once_for_as_long_as_they_hold() {
    let asked: Arc<std::sync::atomic::AtomicUsize> = Arc::default();
    let counted = asked.clone();
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((count, from)) = server.recv_from(&mut buffer).await {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let query = Message::from_vec(&buffer[..count]).unwrap();
            assert_ne!(query.metadata.id, 4711, "the id is the host's own choice");
            let mut answer =
                Message::error_msg(query.metadata.id, query.metadata.op_code, ResponseCode::NoError);
            answer.add_queries(query.queries.clone());
            let data = RData::A(std::net::Ipv4Addr::new(192, 0, 2, 1).into());
            answer.add_answer(Record::from_rdata(query.queries[0].name().clone(), 60, data));
            server.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    let upstreams = upstreams(&[], &[address]);
    for name in ["www.example.org.", "WWW.example.org.", "www.example.org."] {
        let found = answer(&upstreams, &query(name), Transport::Udp).await;
        let message = Message::from_vec(found.as_deref().unwrap()).unwrap();
        assert_eq!((message.queries[0].name().to_ascii().as_str(), message.answers.len()), (name, 1));
        assert_eq!(code(found), ResponseCode::NoError);
    }
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1);
}
