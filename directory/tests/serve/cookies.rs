//! DNS cookies, asked for by `dig`.

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};

use super::dns::{by_tcp, by_udp, edns, question};
use super::process::Directory;

fn dig(directory: &Directory, cookie: &str) -> String {
    let output = Command::new("dig")
        .args([&format!("@{}", directory.dns.ip()), "-p", &directory.dns.port().to_string()])
        .args([&format!("+cookie={cookie}"), "+tries=1", "+timeout=5", "capsule.internal", "SOA"])
        .output()
        .expect("dig is there (package bind9-dnsutils)");
    String::from_utf8(output.stdout).unwrap()
}

fn with_cookie(cookie: &[u8]) -> Message {
    let mut message = question("capsule.internal.", RecordType::SOA);
    let mut edns = edns(0);
    edns.options_mut().insert(EdnsOption::Unknown(10, cookie.to_vec()));
    message.edns = Some(edns);
    message
}

fn cookie_of(answer: &Message) -> Vec<u8> {
    match answer.edns.as_ref().and_then(|edns| edns.option(EdnsCode::Cookie)) {
        Some(EdnsOption::Unknown(_, bytes)) => bytes.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn whoever_shows_a_cookie_gets_one() {
    let directory = Directory::start();
    let said = dig(&directory, "0123456789abcdef");
    let line = said.lines().find(|line| line.contains("COOKIE: 0123456789abcdef01000000")).expect(&said);
    assert!(line.contains("(good)"), "{line}");
    let cookie = line.split_whitespace().nth(2).unwrap();
    assert!(dig(&directory, cookie).contains("(good)"));
    for ask in [by_udp, by_tcp] {
        // The first answer is worked out, the second was kept.
        for _ in 0..2 {
            let answer = ask(directory.dns, &with_cookie(b"12345678"));
            assert_eq!((answer.answers.len(), cookie_of(&answer).len()), (1, 24));
        }
        let answer = ask(directory.dns, &with_cookie(b"1234567"));
        assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    }
    let without = by_udp(directory.dns, &question("capsule.internal.", RecordType::SOA));
    assert!(without.edns.is_none());
}

#[tokio::test]
async fn a_cookie_is_worth_more_than_the_rate_limit() {
    let directory = Directory::start_with("dns_answers_per_second = 20");
    let cookie = cookie_of(&by_tcp(directory.dns, &with_cookie(b"12345678")));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let answered = |query: &Message| {
        let (query, mut buffer) = (query.to_vec().unwrap(), [0; 4096]);
        let mut whole = 0;
        for _ in 0..200 {
            socket.send_to(&query, directory.dns).unwrap();
        }
        while let Ok(length) = socket.recv(&mut buffer) {
            whole += usize::from(!Message::from_vec(&buffer[..length]).unwrap().metadata.truncation);
        }
        whole
    };
    let stranger = answered(&with_cookie(b"12345678"));
    assert!(stranger < 100, "{stranger}");
    assert_eq!(answered(&with_cookie(&cookie)), 200);
    let forged = answered(&with_cookie(&[&cookie[..23], b"x"].concat()));
    assert!(forged < 100, "{forged}");
}
