use std::time::Duration;

use overlay_proto::SessionId;
use tokio::time::timeout;

use super::*;
use crate::testing::{Ca, Node, REMOVED, SOON, Told, header, host};

/// A frame that can be told from others.
fn cancel(number: u8) -> Frame {
    Frame::Cancel { session: SessionId::from_bytes([number; 16]) }
}

/// Sends frame `number` over `link` and sees it arrive at `node`.
async fn carries(link: &Link, node: &mut Node, number: u8) {
    link.transmit(cancel(number));
    loop {
        match node.next().await {
            Told::Frame(frame) if frame == cancel(number) => return,
            Told::Frame(..) | Told::Up(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn down(node: &mut Node) -> Arc<Link> {
    loop {
        match node.next().await {
            Told::Down(link) => return link,
            Told::Up(_) | Told::Frame(..) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Waits until nothing comes on a link of itself.
async fn quiet(link: &Link) {
    let mut before = u64::MAX;
    while before != link.datagrams() {
        before = link.datagrams();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_dialled_link_carries_frames_data_and_requests_both_ways() {
    let ca = Ca::new();
    let (mut a, mut b) = (ca.node("a"), ca.node("b"));
    assert!(a.links.existing(&host("b")).is_none());
    let link = a.links.to(&host("b"), b.address).await.unwrap();
    assert_eq!(a.up().await.serial, link.serial);
    let back = b.up().await;
    assert_eq!((link.host.as_str(), back.host.as_str()), ("b", "a"));
    assert!(!link.is_local() && !link.is_down() && link.connection().is_some());
    // Dialling again, or from the other side, gives the same link.
    assert_eq!(a.links.to(&host("b"), b.address).await.unwrap().serial, link.serial);
    assert_eq!(b.links.to(&host("a"), a.address).await.unwrap().serial, back.serial);
    assert_eq!((a.links.all().len(), b.links.all().len()), (1, 1));
    carries(&link, &mut b, 1).await;
    carries(&back, &mut a, 2).await;
    for (link, node) in [(&link, &mut b), (&back, &mut a)] {
        let mut sender = link.open(header(3, 9)).await.unwrap();
        sender.write(&mut bytes::Bytes::from_static(b"bytes")).await.unwrap();
        sender.finish();
        let Told::Data(found, mut stream) = node.next().await else { panic!("no stream") };
        assert_eq!((found, stream.read().await.unwrap().unwrap()), (header(3, 9), "bytes".into()));
        assert_eq!(stream.read().await.unwrap(), None);
        let (mut send, _) = link.request().await.unwrap().unwrap();
        send.write_all(&[7]).await.unwrap();
        let Told::Request(mut receive) = node.next().await else { panic!("no request") };
        let mut byte = [0];
        receive.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, [7]);
    }
}

#[tokio::test]
async fn the_link_to_itself_needs_no_network() {
    let mut a = Ca::new().node("a");
    let link = a.links.to(&host("a"), "192.0.2.1:1".parse().unwrap()).await.unwrap();
    assert!(link.is_local() && link.connection().is_none() && link.host.as_str() == "a");
    assert_eq!(a.links.existing(&host("a")).unwrap().serial, link.serial);
    assert!(a.links.all().is_empty(), "it is not one of the links");
    assert!(link.request().await.unwrap().is_none());
    carries(&link, &mut a, 1).await;
    let mut sender = link.open(header(0, 0)).await.unwrap();
    sender.write(&mut bytes::Bytes::from_static(b"x")).await.unwrap();
    let Told::Data(_, mut stream) = a.next().await else { panic!("no stream") };
    assert_eq!(stream.read().await.unwrap().unwrap(), "x");
    sender.finish();
    assert_eq!(stream.read().await.unwrap(), None);
}

#[tokio::test]
async fn many_who_want_a_link_at_once_get_the_same() {
    let ca = Ca::new();
    let (mut a, mut b) = (ca.node("a"), ca.node("b"));
    let wanted: Vec<_> = (0..20)
        .map(|_| {
            let (links, address) = (a.links.clone(), b.address);
            tokio::spawn(async move { links.to(&host("b"), address).await.unwrap().serial })
        })
        .collect();
    let serial = a.up().await.serial;
    for wanted in wanted {
        assert_eq!(wanted.await.unwrap(), serial);
    }
    b.up().await;
    b.nothing_more().await;
    a.nothing_more().await;
}

/// However the two handshakes interleave, one link comes up, the same for both, and it stays: what was sent on it at once is
/// not lost.
#[tokio::test]
async fn both_dialling_at_once_get_one_link() {
    for round in 0..30 {
        let ca = Ca::new();
        let (mut a, mut b) = (ca.node("a"), ca.node("b"));
        let (to_a, to_b) = (host("a"), host("b"));
        let (at_a, at_b) = (a.address, b.address);
        // Neither begins always first.
        let ahead = Duration::from_micros(60 * round);
        let from_a = async {
            if round % 2 == 0 {
                tokio::time::sleep(ahead).await;
            }
            let link = a.links.to(&to_b, at_b).await.unwrap();
            link.transmit(cancel(1));
            link
        };
        let from_b = async {
            if round % 2 == 1 {
                tokio::time::sleep(ahead).await;
            }
            let link = b.links.to(&to_a, at_a).await.unwrap();
            link.transmit(cancel(2));
            link
        };
        let (here, there) = timeout(SOON, async { tokio::join!(from_a, from_b) }).await.unwrap();
        for (node, number) in [(&mut b, 1), (&mut a, 2)] {
            let mut ups = 0;
            loop {
                match node.next().await {
                    Told::Frame(frame) if frame == cancel(number) => break,
                    Told::Up(_) => ups += 1,
                    other => panic!("round {round}: {other:?}"),
                }
            }
            assert_eq!(ups, 1, "round {round}");
            node.nothing_more().await;
        }
        assert!(!here.is_down() && !there.is_down(), "round {round}");
        assert_eq!(here.dial.dialler, there.dial.dialler, "round {round}");
    }
}

#[tokio::test]
async fn another_host_than_the_wanted_one_is_refused() {
    let ca = Ca::new();
    let (mut a, mut b) = (ca.node("a"), ca.node("b"));
    let error = a.links.to(&host("c"), b.address).await.unwrap_err();
    assert_eq!((error.host.as_str(), error.address), ("c", b.address));
    assert!(a.links.existing(&host("c")).is_none() && a.links.existing(&host("b")).is_none());
    // Of another mesh: neither side believes the other.
    let mut stranger = Ca::new().node("b");
    assert!(a.links.to(&host("b"), stranger.address).await.is_err());
    assert!(stranger.links.to(&host("a"), a.address).await.is_err());
    for node in [&mut a, &mut b, &mut stranger] {
        node.nothing_more().await;
    }
    // The right one at that address is found as ever.
    assert!(a.links.to(&host("b"), b.address).await.is_ok());
}

#[tokio::test]
async fn an_address_at_which_nobody_answers_is_given_up_in_time() {
    let ca = Ca::new();
    let a = ca.node("a");
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let began = Instant::now();
    let error = a.links.to(&host("b"), silent.local_addr().unwrap()).await.unwrap_err();
    assert!(error.why.contains("no answer"), "{error}");
    assert!(began.elapsed() < DIAL_TIMEOUT + Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_end_is_told_once_to_both() {
    let ca = Ca::new();
    let (mut a, mut b) = (ca.node("a"), ca.node("b"));
    let link = a.links.to(&host("b"), b.address).await.unwrap();
    a.up().await;
    b.up().await;
    link.close("enough");
    link.close("enough");
    for node in [&mut a, &mut b] {
        let gone = down(node).await;
        assert!(gone.is_down());
        timeout(SOON, gone.gone()).await.unwrap();
        node.nothing_more().await;
        assert!(node.links.all().is_empty());
    }
    assert!(link.open(header(0, 0)).await.is_err());
    link.transmit(cancel(1));
    // A new one is dialled when it is wanted.
    let again = a.links.to(&host("b"), b.address).await.unwrap();
    assert_ne!(again.serial, link.serial);
    carries(&again, &mut b, 2).await;
}

#[tokio::test]
async fn a_full_queue_breaks_the_link_and_is_told_once() {
    let ca = Ca::new();
    let (mut a, mut b) = (ca.node("a"), ca.node("b"));
    let link = a.links.to(&host("b"), b.address).await.unwrap();
    a.up().await;
    b.up().await;
    // Without an await nobody takes them.
    for _ in 0..=LINK_FRAMES {
        link.transmit(cancel(1));
    }
    assert!(link.is_down());
    assert_eq!(down(&mut a).await.serial, link.serial);
    a.nothing_more().await;
}

/// A sidecar that was killed says nothing; the one that takes its place at the same address is noticed at the first
/// packet.
#[test]
fn a_restart_is_noticed_at_once() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let ca = Ca::new();
    let (here, there) = (runtime(), runtime());
    let identity = ca.identity("b");
    let mut a = here.block_on(async { ca.node("a") });
    let b = there.block_on(async { Node::start(&identity, "127.0.0.1:0".parse().unwrap()) });
    let address = b.address;
    let link = here.block_on(a.links.to(&host("b"), address)).unwrap();
    assert_eq!(here.block_on(a.up()).serial, link.serial);
    there.shutdown_timeout(Duration::from_secs(5));
    drop(b);
    let there = runtime();
    let mut b = there.block_on(async { Node::start(&identity, address) });
    assert!(!link.is_down(), "nobody said that it ended");
    let began = Instant::now();
    link.transmit(Frame::Ping);
    let gone = here.block_on(down(&mut a));
    assert_eq!(gone.serial, link.serial);
    assert!(began.elapsed() < Duration::from_secs(2), "noticed after {:?}", began.elapsed());
    let again = here.block_on(a.links.to(&host("b"), address)).unwrap();
    assert_ne!(again.serial, link.serial);
    assert_eq!(there.block_on(b.up()).host.as_str(), "a");
    again.transmit(cancel(3));
    assert!(matches!(there.block_on(b.next()), Told::Frame(frame) if frame == cancel(3)));
    here.block_on(async {
        assert_eq!(a.up().await.serial, again.serial);
        a.nothing_more().await;
    });
}

/// The dialled host loses the address that the link came to, at once after the link came up: it knows that, the other one
/// does not. Its own dial takes the link's place, although its name is the greater one.
#[tokio::test]
async fn who_lost_a_young_link_may_dial_at_once() {
    let ca = Ca::new();
    let (mut a, mut b) = (ca.node("a"), ca.node("b"));
    let old = a.links.to(&host("b"), b.address).await.unwrap();
    let lost = b.up().await;
    quiet(&lost).await;
    // As for a link that became silent; nothing of this reaches the other host.
    let new = b.links.anew(&lost, a.address).await.unwrap();
    assert!(lost.is_down() && !new.is_down());
    assert_eq!(new.dial.dialler, host("b"), "the link that it dialled stays");
    assert_eq!(down(&mut a).await.serial, old.serial);
    carries(&new, &mut a, 1).await;
}

/// A request is not sent into a link whose other end was killed: the link is found out first.
#[test]
fn a_link_does_not_answer_for_a_sidecar_that_was_killed() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let ca = Ca::new();
    let (here, there) = (runtime(), runtime());
    let identity = ca.identity("b");
    let a = here.block_on(async { ca.node("a") });
    let b = there.block_on(async { Node::start(&identity, "127.0.0.1:0".parse().unwrap()) });
    let address = b.address;
    let link = here.block_on(a.links.to(&host("b"), address)).unwrap();
    let both = async { tokio::join!(link.answers(), link.answers()) };
    assert_eq!(here.block_on(both), (true, true));
    there.shutdown_timeout(Duration::from_secs(5));
    drop(b);
    let there = runtime();
    let _b = there.block_on(async { Node::start(&identity, address) });
    assert!(!here.block_on(async { timeout(SOON, link.answers()).await.unwrap() }));
    let again = here.block_on(a.links.to(&host("b"), address)).unwrap();
    assert!(here.block_on(again.answers()) && here.block_on(a.links.local().answers()));
}

/// A silent link is not waited for: the one dialled beside it takes its place on both sides.
#[tokio::test]
async fn a_link_dialled_anew_takes_the_place_of_the_old_one() {
    let ca = Ca::new();
    let (mut a, mut b) = (ca.node("a"), ca.node("b"));
    let old = a.links.to(&host("b"), b.address).await.unwrap();
    quiet(&old).await;
    let new = a.links.anew(&old, b.address).await.unwrap();
    assert_ne!(old.serial, new.serial);
    assert!(old.is_down() && !new.is_down());
    assert_eq!((down(&mut a).await.serial, a.links.all().len()), (old.serial, 1));
    down(&mut b).await;
    carries(&new, &mut b, 1).await;
    carries(&b.links.existing(&host("a")).unwrap(), &mut a, 2).await;
}

/// A link that is heard again while another one is dialled in its place stays, with what goes on on it.
#[tokio::test]
async fn a_link_that_comes_back_to_life_stays() {
    let ca = Ca::new();
    let (mut a, mut b) = (ca.node("a"), ca.node("b"));
    let link = a.links.to(&host("b"), b.address).await.unwrap();
    let (_, back) = (a.up().await, b.up().await);
    quiet(&link).await;
    let dialled = async {
        let links = a.links.clone();
        links.anew(&link, b.address).await.unwrap()
    };
    let (dialled, ()) = tokio::join!(dialled, async { back.transmit(cancel(1)) });
    assert_eq!(dialled.serial, link.serial);
    assert!(matches!(a.next().await, Told::Frame(frame) if frame == cancel(1)));
    a.nothing_more().await;
    b.nothing_more().await;
}

/// The other host decided on a link, and this one never heard of it: the next dial is not refused for that link.
#[tokio::test]
async fn a_link_that_only_the_other_host_has_is_no_obstacle() {
    let ca = Ca::new();
    let (mut a, mut b) = (ca.node("a"), ca.node("b"));
    let link = a.links.to(&host("b"), b.address).await.unwrap();
    let half = b.up().await;
    a.up().await;
    // As if it had not come up at b.
    b.links.0.up.lock().unwrap().clear();
    b.links.0.newest.lock().unwrap().clear();
    drop(b.links.unsettled(&host("a"), half.dial.id));
    let again = b.links.to(&host("a"), a.address).await.unwrap();
    assert_ne!(again.serial, half.serial);
    assert!(link.is_down());
    assert_eq!(again.dial.dialler, host("b"));
}

/// The side that dialled goes on, whatever became of its addresses; a link that came to an address that is gone ends.
#[tokio::test]
async fn roused_links_go_on_where_they_can() {
    let ca = Ca::new();
    let (mut a, mut b) = (ca.node("a"), ca.node("b"));
    let link = a.links.to(&host("b"), b.address).await.unwrap();
    let back = b.up().await;
    let (here, none) = (std::collections::BTreeSet::from([a.address.ip()]), Default::default());
    let mut roused = b.links.roused();
    assert!(
        a.links.rouse(&none, a.address.ip()).is_empty(),
        "a link that this side dialled is not bound to an address"
    );
    assert!(b.links.rouse(&here, b.address.ip()).is_empty());
    assert!(roused.has_changed().unwrap());
    for link in [&link, &back] {
        assert_eq!(link.counters().unwrap().rebinds, 1);
    }
    carries(&link, &mut b, 1).await;
    carries(&back, &mut a, 2).await;
    assert!(a.links.look().is_empty() && b.links.look().is_empty());
    // From another socket, at another address.
    assert!(a.links.rouse(&here, "127.0.0.2".parse().unwrap()).is_empty());
    assert_eq!(a.links.address().unwrap(), SocketAddr::new("127.0.0.2".parse().unwrap(), a.address.port()));
    carries(&link, &mut b, 3).await;
    b.links.look();
    assert_eq!(back.counters().unwrap().path_changes, 1);
    assert!(!link.is_down() && !back.is_down());
    roused.mark_unchanged();
    assert_eq!(b.links.rouse(&none, b.address.ip()), [host("a")]);
    assert!(back.is_down() && roused.has_changed().unwrap());
}

#[tokio::test]
async fn garbage_ends_the_link_that_it_came_on() {
    for garbage in [&[0xff; 64][..], &[0, 0, 0, 2, 0xff, 0xff], &[0, 0, 0, 0], &[0, 0, 0x20, 0]] {
        let ca = Ca::new();
        let (mut a, stranger) = (ca.node("a"), ca.node("c"));
        let endpoint = {
            let socket = identity::udp_socket("127.0.0.1:0".parse().unwrap(), 1 << 20).unwrap();
            identity::endpoint(socket, None).unwrap()
        };
        let settings = identity::TransportSettings::link();
        let client = identity::link_client(&ca.identity("b"), &settings).unwrap();
        let name = crate::testing::zone().host(&host("a"));
        let connection = endpoint.connect_with(client, a.address, &name).unwrap().await.unwrap();
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        let mut hello = BytesMut::new();
        overlay_proto::frame::encode(&Frame::hello(), &mut hello);
        send.write_all(&hello).await.unwrap();
        let link = a.up().await;
        let other = stranger.links.to(&host("a"), a.address).await.unwrap();
        a.up().await;
        send.write_all(garbage).await.unwrap();
        let _ = send.finish();
        assert_eq!(down(&mut a).await.serial, link.serial);
        assert!(timeout(SOON, connection.closed()).await.is_ok());
        carries(&other, &mut a, 5).await;
    }
}

fn hello(version_min: u32, version_max: u32) -> Frame {
    Frame::Hello { version_min, version_max, sidecar: 0, dial: 0, known: 0 }
}

#[test]
fn greetings_need_a_common_version() {
    assert!(check_hello(&Frame::hello()).is_ok());
    assert!(check_hello(&hello(0, 9)).is_ok());
    for (version_min, version_max) in [(3, 9), (0, 1), (9, 0)] {
        assert!(check_hello(&hello(version_min, version_max)).is_err());
    }
    assert!(check_hello(&Frame::Ping).is_err());
}

#[tokio::test]
async fn a_host_that_was_removed_gets_no_link_and_loses_the_one_it_has() {
    let ca = Ca::new();
    let (mut a, b, removed) = (ca.node("a"), ca.node("b"), ca.node(REMOVED));
    let refused = removed.links.to(&host("a"), a.address).await.unwrap_err();
    assert!(refused.why.contains(NOT_A_MEMBER), "{refused}");
    assert!(a.links.to(&host(REMOVED), removed.address).await.is_err());
    a.nothing_more().await;

    let link = b.links.to(&host("a"), a.address).await.unwrap();
    let back = a.up().await;
    a.links.expel(&host("b"));
    assert!(back.is_down());
    assert_eq!(down(&mut a).await.serial, back.serial);
    timeout(SOON, link.gone()).await.unwrap();
}
