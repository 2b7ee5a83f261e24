use bytes::Bytes;
use overlay_proto::{Generation, Hold, HostName, Position, Role};

use super::*;
use crate::testing::{Ca, Node, Told, host, key, local_stream};

fn session(number: u8) -> SessionId {
    SessionId::from_bytes([number; 16])
}

fn header(number: u8) -> StreamHeader {
    StreamHeader { session: session(number), to: Role::Opener, key: key(0), offset: 0 }
}

fn accepted() -> OpenOutcome {
    OpenOutcome::Accepted { generation: Generation::new(3) }
}

/// Two links: one on which an OPEN goes out, and one of a stranger.
async fn links() -> (Node, Node, Arc<Link>, Arc<Link>) {
    let ca = Ca::new();
    let (mut a, b, stranger) = (ca.node("a"), ca.node("b"), ca.node("c"));
    let to = |name: &str| -> HostName { host(name) };
    let asked = a.links.to(&to("b"), b.address).await.unwrap();
    let other = a.links.to(&to("c"), stranger.address).await.unwrap();
    a.up().await;
    a.up().await;
    (a, b, asked, other)
}

#[tokio::test]
async fn an_answer_counts_once_and_only_on_the_link_of_the_open() {
    let (_a, _b, asked, stranger) = links().await;
    let opens = Opens::default();
    opens.answer(&asked, session(1), accepted());
    assert!(!opens.waits(&session(1)), "an answer to nothing");
    let mut answer = opens.expect(session(1), &asked);
    assert!(opens.waits(&session(1)) && !opens.waits(&session(2)));
    opens.answer(&stranger, session(1), OpenOutcome::Refused);
    opens.answer(&asked, session(2), OpenOutcome::Refused);
    assert!(answer.try_recv().is_err(), "a stranger's answer");
    opens.answer(&asked, session(1), accepted());
    assert_eq!(answer.try_recv().unwrap(), accepted());
    opens.answer(&asked, session(1), OpenOutcome::Refused);
    assert!(opens.waits(&session(1)), "until its connection is there");
    assert!(opens.finish(session(1)).is_empty());
    assert!(!opens.waits(&session(1)));
}

#[tokio::test]
async fn a_repeated_open_waits_on_its_new_link() {
    let (_a, _b, first, second) = links().await;
    let opens = Opens::default();
    let mut lost = opens.expect(session(1), &first);
    let mut answer = opens.expect(session(1), &second);
    assert!(lost.try_recv().is_err());
    opens.answer(&first, session(1), OpenOutcome::Refused);
    assert!(answer.try_recv().is_err(), "the old link's answer came too late");
    opens.answer(&second, session(1), accepted());
    assert_eq!(answer.try_recv().unwrap(), accepted());
}

#[tokio::test]
async fn early_streams_are_kept_from_the_right_link_and_bounded() {
    let (mut a, _b, asked, stranger) = links().await;
    let opens = Opens::default();
    let mut senders = Vec::new();
    let _answer = opens.expect(session(1), &asked);
    for (link, number) in [(&stranger, 1), (&asked, 2)] {
        let (sender, stream) = local_stream(&mut a, header(number)).await;
        senders.push(sender);
        let kept = opens.keep_early(link, header(number), stream);
        assert_eq!(kept.is_ok(), number == 1, "kept while its session is being opened");
    }
    for _ in 0..EARLY_EVENTS + 3 {
        let (mut sender, stream) = local_stream(&mut a, header(1)).await;
        let _ = sender.write(&mut Bytes::from_static(b"early")).await;
        senders.push(sender);
        opens.keep_early(&asked, header(1), stream).unwrap();
    }
    assert!(opens.finish(session(2)).is_empty());
    let mut early = opens.finish(session(1));
    assert_eq!(early.len(), EARLY_EVENTS);
    for event in &mut early {
        let Event::Data(link, found, stream) = event else { panic!("{event:?}") };
        assert_eq!((link.serial, *found), (asked.serial, header(1)));
        assert_eq!(stream.read().await.unwrap().unwrap(), "early");
    }
    assert!(opens.finish(session(1)).is_empty());
}

#[tokio::test]
async fn whoever_waits_for_a_session_that_does_not_begin_hears_that_nobody_knows_it() {
    let (_a, mut b, asked, elsewhere) = links().await;
    b.up().await;
    let opens = Opens::default();
    let _answer = opens.expect(session(1), &asked);
    let hold = Frame::Hold(Hold {
        session: session(1),
        to: Role::Opener,
        key: key(0),
        position: Position::default(),
    });
    assert!(!opens.keep_early_frame(&asked, session(2), &hold));
    // The acceptor is about to leave, and says it again; and then from where it is.
    for link in [&asked, &asked, &elsewhere] {
        assert!(opens.keep_early_frame(link, session(1), &hold));
    }
    opens.give_up(session(1));
    assert!(!opens.waits(&session(1)));
    match b.next().await {
        Told::Frame(frame) => assert_eq!(frame, Frame::Unknown { session: session(1), to: Role::Acceptor }),
        other => panic!("{other:?} instead of an answer"),
    }
    b.nothing_more().await;
}
