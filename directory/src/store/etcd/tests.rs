use super::process::EtcdProcess;
use super::*;
use crate::store::SpentToken;

fn open(etcd: &EtcdProcess) -> Etcd {
    Etcd::open(&EtcdAddress::at(etcd.endpoint()), etcd_client::ConnectOptions::new(), "capsule.internal")
        .unwrap()
}

fn token(number: u8) -> Write {
    let expires_at = std::time::UNIX_EPOCH + Duration::from_secs(9);
    Write::TokenSpent(SpentToken { nonce: [number; 16], expires_at, key_hash: [0; 32] })
}

fn mesh(ca: &str) -> Mesh {
    let text = || "x".to_owned();
    Mesh { zone: text(), locators: text(), locators6: text(), ca: ca.into(), token_key: text() }
}

fn committed(news: Vec<News>) -> Vec<u64> {
    let revision = |one| match one {
        News::Committed { revision, .. } => Some(revision),
        News::Seen(_) | News::InTouchAgain | News::Gap => None,
    };
    news.into_iter().filter_map(revision).collect()
}

#[test]
fn whoever_is_overtaken_writes_nothing_and_hears_what_was_done() {
    let etcd = EtcdProcess::start();
    let (mut one, mut other) = (open(&etcd), open(&etcd));
    one.load().unwrap();
    other.load().unwrap();
    one.commit(&[token(1), Write::Revision(1)]).unwrap();
    one.commit(&[token(2), Write::Revision(2)]).unwrap();
    assert!(matches!(other.commit(&[token(3), Write::Revision(1)]), Err(StoreError::Overtaken)));
    // Evaluated before the news were taken: still nothing.
    assert!(matches!(other.commit(&[token(3), Write::Revision(1)]), Err(StoreError::Overtaken)));
    assert_eq!(committed(other.news().unwrap()), [1, 2]);
    other.commit(&[token(3), Write::Revision(3)]).unwrap();
    assert_eq!(committed(one.latest().unwrap()), [3]);
    assert!(committed(one.latest().unwrap()).is_empty());
    assert_eq!(one.load().unwrap().spent.len(), 3);
}

#[test]
fn a_commit_whose_answer_was_lost_is_known_again() {
    let etcd = EtcdProcess::start();
    let (mut one, mut other) = (open(&etcd), open(&etcd));
    one.load().unwrap();
    one.commit(&[token(1), Write::Revision(1)]).unwrap();
    other.load().unwrap();
    // As if the first attempt had been carried out and the second one asks the same.
    let at = one.at;
    one.commit(&[token(2), Write::Revision(2)]).unwrap();
    let head =
        one.patiently(ETCD_CALL_TIME, |mut client, keys| async move { client.get(keys.head(), None).await });
    let nonce = head::Head::decode(head.unwrap().kvs()[0].value()).unwrap().nonce;
    other.latest().unwrap();
    other.commit(&[token(3), Write::Revision(3)]).unwrap();
    (one.at, one.revision) = (at, 1);
    // Found before, and not taken yet.
    one.found.push_back(News::InTouchAgain);
    one.commit_as(nonce, &[token(2), Write::Revision(2)]).unwrap();
    // What another one did on top of it is news, and must be heard before the next commit.
    assert!(matches!(one.commit(&[token(4), Write::Revision(3)]), Err(StoreError::Overtaken)));
    assert_eq!(committed(one.news().unwrap()), [3]);
    one.commit(&[token(4), Write::Revision(4)]).unwrap();
    assert_eq!(one.load().unwrap().spent.len(), 4);
}

#[test]
fn what_etcd_has_forgotten_is_a_gap_until_everything_was_read() {
    let etcd = EtcdProcess::start();
    let (mut one, mut other) = (open(&etcd), open(&etcd));
    one.load().unwrap();
    other.load().unwrap();
    for number in 1..=5 {
        one.commit(&[token(number), Write::Revision(number.into())]).unwrap();
    }
    let at = one.at;
    one.patiently(ETCD_CALL_TIME, move |mut client, _| async move { client.compact(at, None).await })
        .unwrap();
    assert_eq!(other.latest().unwrap(), [News::Gap]);
    assert_eq!(other.news().unwrap(), [News::Gap]);
    assert!(matches!(other.commit(&[token(9), Write::Revision(1)]), Err(StoreError::Overtaken)));
    assert_eq!(other.load().unwrap().revision, 5);
    assert_eq!(other.news().unwrap(), []);
    other.commit(&[token(9), Write::Revision(6)]).unwrap();
}

#[test]
fn news_come_by_themselves_also_after_etcd_was_away() {
    let mut etcd = EtcdProcess::start();
    let (mut one, mut other) = (open(&etcd), open(&etcd));
    one.load().unwrap();
    other.load().unwrap();
    let (told, rings) = std::sync::mpsc::channel();
    other.on_news(Box::new(move || _ = told.send(())));
    other.follow().unwrap();
    let wait = |other: &mut Etcd, wanted: &dyn Fn(&News) -> bool| {
        let begin = Instant::now();
        loop {
            assert!(begin.elapsed() < Duration::from_secs(20), "no such news");
            let _ = rings.recv_timeout(Duration::from_millis(100));
            if other.news().unwrap().iter().any(wanted) {
                return;
            }
        }
    };
    wait(&mut other, &|news| *news == News::InTouchAgain);
    assert!(other.is_in_touch());
    one.commit(&[token(1), Write::Revision(1)]).unwrap();
    wait(&mut other, &|news| matches!(news, News::Committed { revision: 1, .. }));
    let seen = vec!["a".parse::<HostName>().unwrap()];
    one.tell_seen(seen.clone()).unwrap();
    wait(&mut other, &|news| *news == News::Seen(seen.clone()));

    etcd.kill();
    let begin = Instant::now();
    let refused = one.commit(&[token(2), Write::Revision(2)]).unwrap_err();
    assert!(
        matches!(&refused, StoreError::Away { endpoints, .. } if *endpoints == etcd.endpoint()),
        "{refused}"
    );
    assert!(begin.elapsed() < 2 * crate::limits::ETCD_COMMIT_TIME, "{:?}", begin.elapsed());
    assert!(!other.is_in_touch());
    etcd.run();
    wait(&mut other, &|news| *news == News::InTouchAgain);
    one.commit(&[token(2), Write::Revision(2)]).unwrap();
    wait(&mut other, &|news| matches!(news, News::Committed { revision: 2, .. }));
}

#[test]
fn facts_are_served_by_their_own_mesh_and_copied_whole_into_an_empty_place() {
    let etcd = EtcdProcess::start();
    let mut one = open(&etcd);
    one.belong_to(&mesh("ours")).unwrap();
    one.belong_to(&mesh("ours")).unwrap();
    let refused = one.belong_to(&mesh("theirs")).unwrap_err().to_string();
    assert!(refused.contains("another CA") && refused.contains(&etcd.endpoint()), "{refused}");
    let mut contents = one.load().unwrap();
    assert_eq!(contents.revision, 1);
    let refused = one.fill(&mesh("ours"), &contents).unwrap_err().to_string();
    assert!(refused.contains("already"), "{refused}");

    let mut elsewhere =
        Etcd::open(&EtcdAddress::at(etcd.endpoint()), etcd_client::ConnectOptions::new(), "other.internal")
            .unwrap();
    // A copy that broke off in the middle is no mesh to serve.
    elsewhere
        .patiently(
            ETCD_CALL_TIME,
            |mut client, keys| async move { client.put(keys.mesh(), "{}", None).await },
        )
        .unwrap();
    let refused = elsewhere.belong_to(&mesh("ours")).unwrap_err().to_string();
    assert!(refused.contains("incomplete"), "{refused}");
    for number in 0..250 {
        let Write::TokenSpent(token) = token(number) else { unreachable!() };
        contents.spent.push(token);
    }
    (contents.revision, contents.locator_next) = (77, 5);
    elsewhere.fill(&mesh("ours"), &contents).unwrap();
    elsewhere.belong_to(&mesh("ours")).unwrap();
    let mut other =
        Etcd::open(&EtcdAddress::at(etcd.endpoint()), etcd_client::ConnectOptions::new(), "other.internal")
            .unwrap();
    assert_eq!(other.load().unwrap(), contents);

    // Facts go from there only as they were loaded, and whoever served them has them no more.
    other.commit(&[Write::Revision(78)]).unwrap();
    let refused = elsewhere.leave().unwrap_err().to_string();
    assert!(refused.contains("stop all of them"), "{refused}");
    assert_eq!(elsewhere.load().unwrap().revision, 78);
    elsewhere.leave().unwrap();
    elsewhere.leave().unwrap();
    assert_eq!(other.latest().unwrap(), [News::Gap]);
    assert!(other.load().unwrap_err().to_string().contains("incomplete"));
    assert!(matches!(other.commit(&[Write::Revision(79)]), Err(StoreError::Overtaken)));
    elsewhere.fill(&mesh("ours"), &contents).unwrap();
}
