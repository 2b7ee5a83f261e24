use directory_api::{Change, Client};
use overlay_proto::EndKind;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::*;
use crate::capsule::network::Networks;
use crate::finder::Finder;
use crate::places::Places;
use crate::testing::{Ca, SOON, program, zone};

fn key(number: u8, role: Role) -> Key {
    (SessionId::from_bytes([number; 16]), role)
}

fn capsule(number: u8) -> CapsuleId {
    CapsuleId::from_bytes([number; 16])
}

fn facts(own: u8, peer: u8) -> Facts {
    let at = |number: u8| SocketAddr::from(([10, 88, 0, number], 7000));
    let began = std::time::SystemTime::UNIX_EPOCH;
    Facts { own: capsule(own), peer: capsule(peer), local: at(own), remote: at(peer), began, way: None }
}

fn table() -> Table {
    table_and_places().0
}

fn table_and_places() -> (Table, Places) {
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let directory = Client::connect(vec![nowhere], Ca::new().identity("a")).unwrap();
    let places = Places::new(directory, Finder::new(zone().to_string(), &[nowhere]).unwrap());
    let routes = Routes::new(places.clone(), Networks::default());
    (Table::new(routes, tokio::runtime::Handle::current()), places)
}

#[tokio::test]
async fn events_reach_the_half_that_they_are_for() {
    let table = table();
    let (opener, acceptor) = (key(1, Role::Opener), key(1, Role::Acceptor));
    let mut at_opener = table.register(opener, &facts(1, 2)).unwrap();
    let mut at_acceptor = table.register(acceptor, &facts(2, 1)).unwrap();
    assert!(table.has(&opener) && table.has(&acceptor) && !table.has(&key(2, Role::Opener)));
    table.tell(&opener, Event::Accepted).unwrap();
    assert!(at_opener.try_recv().is_ok() && at_acceptor.try_recv().is_err());
    assert!(table.tell(&key(2, Role::Opener), Event::Accepted).is_err());
    assert_eq!(table.of_capsule(capsule(2)), [acceptor]);
    // A change of one capsule concerns its own halves and those of its peers.
    table.place_changed(capsule(1));
    assert!(matches!(at_opener.try_recv(), Ok(Event::PlaceChanged)));
    assert!(matches!(at_acceptor.try_recv(), Ok(Event::PlaceChanged)));
    table.place_changed(capsule(3));
    assert!(at_opener.try_recv().is_err() && at_acceptor.try_recv().is_err());
    table.link_down(7);
    assert!(matches!(at_opener.try_recv(), Ok(Event::LinkDown(7))));
    table.forget(opener);
    assert!(!table.has(&opener) && table.has(&acceptor));
}

/// The opener was asked by the acceptor for a session that it did not know yet, and then asked for it itself.
#[tokio::test]
async fn a_late_unknown_of_before_a_repeated_open_ends_nothing() {
    let (table, node, (mut far, ours)) = (table(), Ca::new().node("a"), program(None).await);
    let (key, link) = (key(1, Role::Acceptor), node.links.local());
    let first = overlay_proto::Generation::new(1);
    let half = Half::new(key.0, key.1, first, first);
    assert!(table.begin(half, facts(2, 1), ours, None, Some(link.clone()), Vec::new));
    let lives = timeout(SOON, table.reopen(&key, &link).unwrap()).await.unwrap();
    lives.expect("the session lives");
    let unknown = || Frame::Unknown { session: key.0, to: key.1 };
    table.tell(&key, Event::Checked(link.clone(), unknown(), 0)).unwrap();
    let lives = timeout(SOON, table.reopen(&key, &link).unwrap()).await.unwrap();
    lives.expect("it lives on");
    // One that answers what was said since is believed.
    table.tell(&key, Event::Checked(link.clone(), unknown(), 2)).unwrap();
    let read = timeout(SOON, far.read(&mut [0; 8])).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(table.reopen(&self::key(2, Role::Acceptor), &link).is_none());
}

/// Whether it is told while it looks for its peer, or finds out when it begins to look, as after a restart of the sidecar.
#[tokio::test]
async fn a_half_without_a_link_ends_when_its_peer_was_removed() {
    for (number, restored, known_before) in
        [(1, false, false), (2, false, true), (3, true, false), (4, true, true)]
    {
        let ((table, places), (mut far, ours)) = (table_and_places(), program(None).await);
        let (key, facts) = (key(number, Role::Opener), facts(1, 2));
        let remove = || {
            let name = "db".parse().unwrap();
            places.apply(Change::CapsuleRemoved { revision: 1, id: facts.peer, name });
            table.place_changed(facts.peer);
        };
        if known_before {
            remove();
        }
        let first = overlay_proto::Generation::new(1);
        let half = Half::new(key.0, key.1, first, first);
        if restored {
            let mailbox = table.register(key, &facts).unwrap();
            let half = Half::restore(&half.snapshot()).unwrap();
            table.drive(Parked { facts: facts.clone(), half, program: ours, keeping: None, mailbox }, None);
        } else {
            assert!(table.begin(half, facts.clone(), ours, None, None, Vec::new));
        }
        if !known_before {
            // It looks for its peer by then.
            timeout(SOON, table.describe(None)).await.unwrap();
            remove();
        }
        let read = timeout(SOON, far.read(&mut [0; 8])).await.expect("a reset in time");
        assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "restored: {restored}");
        while table.has(&key) {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_mailbox_is_bounded() {
    let table = table();
    let mut mailbox = table.register(key(1, Role::Opener), &facts(1, 2)).unwrap();
    for _ in 0..MAILBOX_EVENTS {
        table.tell(&key(1, Role::Opener), Event::Accepted).unwrap();
    }
    assert!(table.tell(&key(1, Role::Opener), Event::Accepted).is_err());
    mailbox.try_recv().unwrap();
    table.tell(&key(1, Role::Opener), Event::Accepted).unwrap();
}

/// Late frames get the answer that fits how the half went; the memory of it is bounded.
#[tokio::test]
async fn late_frames_are_answered() {
    let table = table();
    let mut node = Ca::new().node("a");
    let link = node.links.local();
    let delivered = |number: u8| Frame::Delivered {
        session: SessionId::from_bytes([number; 16]),
        to: Role::Opener,
        key: crate::testing::key(0),
        offset: 0,
        end: Some(EndKind::Fin),
    };
    for number in [1, 2] {
        drop(table.register(key(number, Role::Opener), &facts(1, 2)).unwrap());
    }
    table.forget(key(1, Role::Opener));
    table.remove(key(2, Role::Opener));
    for (number, moved) in [(1, false), (2, true), (3, false)] {
        table.frame(&link, key(number, Role::Opener), delivered(number));
        let session = SessionId::from_bytes([number; 16]);
        let expected = match moved {
            true => Frame::NotHere { session, to: Role::Acceptor },
            false => Frame::Unknown { session, to: Role::Acceptor },
        };
        assert!(matches!(node.next().await, crate::testing::Told::Frame(frame) if frame == expected));
    }
    let numbered = |number: usize| {
        let mut bytes = [9; 16];
        bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
        (SessionId::from_bytes(bytes), Role::Opener)
    };
    for number in 0..TOMBSTONES + 5 {
        table.forget(numbered(number));
        table.forget(numbered(number));
    }
    let entries = table.entries();
    assert_eq!((entries.ended.len(), entries.ended_order.len()), (TOMBSTONES, TOMBSTONES));
}

/// A half that arrives with another capsule does not take the place of one that is here (D8).
#[tokio::test]
async fn a_live_half_keeps_its_place() {
    let table = table();
    let mut mailbox = table.register(key(1, Role::Acceptor), &facts(1, 2)).unwrap();
    assert!(table.register(key(1, Role::Acceptor), &facts(3, 2)).is_none());
    assert_eq!(table.of_capsule(capsule(1)), [key(1, Role::Acceptor)], "it was displaced");
    let _ = table.tell(&key(1, Role::Acceptor), Event::Accepted);
    assert!(matches!(mailbox.try_recv(), Ok(Event::Accepted)), "its events go elsewhere");
}
