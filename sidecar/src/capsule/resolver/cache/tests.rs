use std::net::Ipv4Addr;

use hickory_proto::rr::Name;
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::rdata::opt::EdnsOption;

use super::*;

const NAME: &str = "www.example.org.";

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn query(text: &str) -> Message {
    let mut message = Message::query();
    message.metadata.id = 4711;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), RecordType::A));
    message
}

fn address(ttl: u32, last: u8) -> Record {
    Record::from_rdata(name(NAME), ttl, RData::A(Ipv4Addr::new(192, 0, 2, last).into()))
}

fn authority(ttl: u32, minimum: u32) -> Record {
    let soa = SOA::new(name("ns.example.org."), name("root.example.org."), 1, 2, 3, 4, minimum);
    Record::from_rdata(name("example.org."), ttl, RData::SOA(soa))
}

fn reply(code: ResponseCode, answers: Vec<Record>, authorities: Vec<Record>) -> Message {
    let mut message = Message::error_msg(7, OpCode::Query, code);
    message.add_query(Query::query(name(NAME), RecordType::A));
    message.add_answers(answers);
    message.authorities = authorities;
    message
}

fn kept(answer: &Message) -> (Answers, Asked, Instant) {
    let (answers, now) = (Answers::new(), Instant::now());
    let asked = Asked::of(&query(NAME), Transport::Udp).unwrap();
    answers.keep(asked.clone(), &answer.to_vec().unwrap(), now);
    (answers, asked, now)
}

fn lasts(answer: &Message) -> Option<u64> {
    lifetime(&Message::from_vec(&answer.to_vec().unwrap()).unwrap(), RecordType::A).map(|time| time.as_secs())
}

#[test]
fn an_answer_holds_for_its_shortest_record_and_counts_down() {
    let (answers, asked, now) =
        kept(&reply(ResponseCode::NoError, vec![address(300, 1), address(60, 2)], vec![]));
    let mut later = query("WWW.Example.org.");
    later.metadata.id = 99;
    assert_eq!(Asked::of(&later, Transport::Udp).unwrap(), asked, "names have no capitals");
    let found = answers.find(&asked, &later, now + Duration::from_millis(20_500)).unwrap();
    let found = Message::from_vec(&found).unwrap();
    assert_eq!(found.metadata.id, 99);
    assert_eq!(found.queries[0].name().to_ascii(), "WWW.Example.org.");
    assert_eq!(found.answers.iter().map(|record| record.ttl).collect::<Vec<_>>(), [280, 40]);
    assert!(answers.find(&asked, &later, now + Duration::from_secs(59)).is_some());
    assert!(answers.find(&asked, &later, now + Duration::from_secs(60)).is_none());
    assert!(answers.find(&asked, &later, now).is_none(), "it is gone");
}

#[test]
fn what_is_not_there_holds_as_the_zone_says() {
    assert_eq!(lasts(&reply(ResponseCode::NXDomain, vec![], vec![authority(900, 30)])), Some(30));
    assert_eq!(lasts(&reply(ResponseCode::NoError, vec![], vec![authority(20, 30)])), Some(20));
    assert_eq!(
        lasts(&reply(ResponseCode::NXDomain, vec![], vec![authority(1 << 30, 1 << 30)])),
        Some(NO_ANSWER_TTL_MAX.as_secs())
    );
    assert_eq!(
        lasts(&reply(ResponseCode::NoError, vec![address(1 << 30, 1)], vec![])),
        Some(ANSWER_TTL_MAX.as_secs())
    );
}

#[test]
fn what_nobody_vouches_for_is_not_kept() {
    let answer = || vec![address(300, 1)];
    assert_eq!(lasts(&reply(ResponseCode::NXDomain, vec![], vec![])), None, "no SOA record");
    assert_eq!(lasts(&reply(ResponseCode::NoError, vec![], vec![])), None, "no SOA record");
    assert_eq!(lasts(&reply(ResponseCode::ServFail, vec![], vec![])), None);
    assert_eq!(lasts(&reply(ResponseCode::Refused, answer(), vec![])), None);
    assert_eq!(lasts(&reply(ResponseCode::NoError, vec![address(0, 1)], vec![])), None);
    let mut shortened = reply(ResponseCode::NoError, answer(), vec![]);
    shortened.metadata.truncation = true;
    assert_eq!(lasts(&shortened), None);
}

#[test]
fn flags_that_change_the_answer_keep_answers_apart() {
    let plain = Asked::of(&query(NAME), Transport::Udp).unwrap();
    let changed = |change: fn(&mut Message)| {
        let mut query = query(NAME);
        change(&mut query);
        Asked::of(&query, Transport::Udp)
    };
    let flags: [fn(&mut Message); 5] = [
        |query| query.metadata.checking_disabled = true,
        |query| query.metadata.recursion_desired = false,
        |query| query.metadata.authentic_data = true,
        |query| query.edns = Some(Edns::new()),
        |query| {
            let mut edns = Edns::new();
            edns.set_dnssec_ok(true);
            query.edns = Some(edns);
        },
    ];
    let mut all: Vec<Asked> = flags.into_iter().map(|flag| changed(flag).unwrap()).collect();
    all.push(plain);
    all.push(Asked::of(&query(NAME), Transport::Tcp).unwrap());
    for (place, one) in all.iter().enumerate() {
        assert!(!all[..place].contains(one), "{one:?}");
    }
    let with = |code: u16, bytes: &[u8]| {
        let mut query = query(NAME);
        let mut edns = Edns::new();
        edns.options_mut().insert(EdnsOption::Unknown(code, bytes.to_vec()));
        query.edns = Some(edns);
        Asked::of(&Message::from_vec(&query.to_vec().unwrap()).unwrap(), Transport::Udp)
    };
    assert!(with(10, &[1; 8]).is_some(), "a cookie changes nothing");
    assert!(with(8, &[0, 1, 24, 0, 192, 0, 2]).is_none(), "where the client is may change the answer");
}

#[test]
fn an_answer_that_does_not_fit_is_not_given() {
    let long = reply(ResponseCode::NoError, (0..60).map(|last| address(300, last)).collect(), vec![]);
    let (answers, asked, now) = kept(&long);
    assert!(answers.find(&asked, &query(NAME), now).is_none());
    let mut roomy = query(NAME);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    roomy.edns = Some(edns);
    let found = Message::from_vec(&answers.find(&asked, &roomy, now).unwrap()).unwrap();
    assert_eq!(found.answers.len(), 60);
    assert_eq!(found.edns.unwrap().max_payload(), EDNS_BYTES);
}

#[test]
fn memory_is_bounded() {
    let answers = Answers::new();
    let big = reply(ResponseCode::NoError, (0..250).map(|last| address(300, last)).collect(), vec![])
        .to_vec()
        .unwrap();
    for number in 0..2 * ANSWERS_BYTES / big.len() as u64 {
        let asked = Asked::of(&query(&format!("n{number}.example.org.")), Transport::Tcp).unwrap();
        answers.keep(asked, &big, Instant::now());
    }
    answers.0.run_pending_tasks();
    assert!(answers.0.weighted_size() <= ANSWERS_BYTES, "{}", answers.0.weighted_size());
    assert!(answers.0.entry_count() > 0);
}
