//! Frames, headers and snapshots: there and back, and never a panic.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, BytesMut};
use overlay_proto::limits::{FRAME_BYTES_MAX, STREAM_HEADER_BYTES_MAX};
use overlay_proto::{
    Answer, Attach, AttachKey, Attached, CapsuleId, CapsuleName, ClaimKey, Datagram, DatagramBody, End,
    EndKind, Frame, FrameError, Generation, Generations, Half, HalfSnapshot, Held, Hold, HostName, Locators,
    NameError, Open, OpenOutcome, Outcome, Position, ReturnReason, Role, SessionId, SnapshotError,
    StreamHeader, StreamStart, Violation, decode, encode, negotiate,
};
use proptest::prelude::*;

fn sessions() -> impl Strategy<Value = SessionId> {
    any::<[u8; 16]>().prop_map(SessionId::from_bytes)
}

fn roles() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Opener), Just(Role::Acceptor)]
}

fn kinds() -> impl Strategy<Value = EndKind> {
    prop_oneof![Just(EndKind::Fin), Just(EndKind::Reset)]
}

fn ends() -> impl Strategy<Value = Option<End>> {
    prop::option::of((kinds(), any::<u64>()).prop_map(|(kind, offset)| End { kind, offset }))
}

fn keys() -> impl Strategy<Value = AttachKey> {
    (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(opener, acceptor, attempt)| {
        let generations =
            Generations { opener: Generation::new(opener), acceptor: Generation::new(acceptor) };
        AttachKey::new(generations, attempt)
    })
}

fn addresses() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn positions() -> impl Strategy<Value = Position> {
    (any::<u64>(), any::<u64>(), any::<u64>(), ends(), prop::option::of(kinds())).prop_map(
        |(delivered, acknowledged, consumed, end, end_delivered)| Position {
            delivered,
            acknowledged,
            consumed,
            end,
            end_delivered,
        },
    )
}

fn opens() -> impl Strategy<Value = Frame> {
    let capsules = (any::<[u8; 16]>(), any::<u64>(), any::<[u8; 16]>(), any::<u64>());
    (sessions(), addresses(), addresses(), any::<u32>(), capsules).prop_map(
        |(
            session,
            source,
            destination,
            sequence,
            (opener, opener_generation, acceptor, acceptor_generation),
        )| {
            Frame::Open(Open {
                session,
                source,
                destination,
                sequence,
                opener: CapsuleId::from_bytes(opener),
                opener_generation: Generation::new(opener_generation),
                acceptor: CapsuleId::from_bytes(acceptor),
                acceptor_generation: Generation::new(acceptor_generation),
            })
        },
    )
}

fn outcomes() -> impl Strategy<Value = OpenOutcome> {
    prop_oneof![
        any::<u64>().prop_map(|number| OpenOutcome::Accepted { generation: Generation::new(number) }),
        Just(OpenOutcome::Refused),
        Just(OpenOutcome::Unreachable),
        Just(OpenOutcome::TimedOut),
        Just(OpenOutcome::Denied),
        Just(OpenOutcome::NotHere),
        Just(OpenOutcome::Wait),
    ]
}

fn frames() -> impl Strategy<Value = Frame> {
    let one = || (sessions(), roles(), keys(), positions());
    prop_oneof![
        any::<(u32, u32, u64, u64, u64)>().prop_map(|(version_min, version_max, sidecar, dial, known)| {
            Frame::Hello { version_min, version_max, sidecar, dial, known }
        }),
        any::<u64>().prop_map(|order| Frame::Settled { order }),
        opens(),
        (sessions(), outcomes()).prop_map(|(session, outcome)| Frame::Answer(Answer { session, outcome })),
        sessions().prop_map(|session| Frame::Cancel { session }),
        one().prop_map(|(session, to, key, position)| Frame::Attach(Attach { session, to, key, position })),
        one().prop_map(|(session, to, key, position)| Frame::Attached(Attached {
            session,
            to,
            key,
            position
        })),
        one().prop_map(|(session, to, key, position)| Frame::Hold(Hold { session, to, key, position })),
        one().prop_map(|(session, to, key, position)| Frame::Held(Held { session, to, key, position })),
        (sessions(), roles(), keys()).prop_map(|(session, to, key)| Frame::Stale { session, to, key }),
        (sessions(), roles(), keys(), any::<u64>(), prop::option::of(kinds()))
            .prop_map(|(session, to, key, offset, end)| Frame::Delivered { session, to, key, offset, end }),
        (sessions(), roles(), keys(), kinds(), any::<u64>())
            .prop_map(|(session, to, key, kind, offset)| Frame::End { session, to, key, kind, offset }),
        (sessions(), roles()).prop_map(|(session, to)| Frame::Unknown { session, to }),
        (sessions(), roles()).prop_map(|(session, to)| Frame::NotHere { session, to }),
        Just(Frame::Ping),
        Just(Frame::Pong),
    ]
}

proptest! {
    #[test]
    fn frames_come_back(sent in prop::collection::vec(frames(), 1..8), cut in any::<prop::sample::Index>()) {
        let mut wire = BytesMut::new();
        for frame in &sent {
            let before = wire.len();
            encode(frame, &mut wire);
            prop_assert!(wire.len() - before <= FRAME_BYTES_MAX / 8);
        }
        // In two pieces, as a stream would bring them.
        let rest = wire.split_off(cut.index(wire.len()));
        let mut received = Vec::new();
        let mut buffer = wire;
        while let Some(frame) = decode(&mut buffer).expect("a frame") {
            received.push(frame);
        }
        buffer.unsplit(rest);
        while let Some(frame) = decode(&mut buffer).expect("a frame") {
            received.push(frame);
        }
        prop_assert_eq!(received, sent);
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn headers_come_back(session in sessions(), to in roles(), key in keys(), offset in any::<u64>(), tail in any::<Vec<u8>>()) {
        let header = StreamHeader { session, to, key, offset };
        let mut wire = BytesMut::new();
        header.encode(&mut wire);
        prop_assert!(wire.len() <= STREAM_HEADER_BYTES_MAX / 2);
        wire.extend_from_slice(&tail);
        prop_assert_eq!(StreamHeader::decode(&mut wire).expect("a header"), Some(header));
        prop_assert_eq!(&wire[..], &tail[..]);
    }

    #[test]
    fn datagrams_come_back(v6 in any::<bool>(), ports in any::<(u16, u16)>(), traffic_class in any::<u8>(), tag in any::<[u8; 16]>(), icmp in any::<bool>(), returned in proptest::option::of(any::<bool>()), returns in any::<u32>(), payload in any::<Vec<u8>>()) {
        let ip = |last: u8| -> std::net::IpAddr {
            if v6 { [0xfd, 0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last].into() } else { [10, 88, 0, last].into() }
        };
        let reason = |denied| if denied { ReturnReason::Denied } else { ReturnReason::NotHere };
        let body = bytes::Bytes::from(payload);
        let datagram = Datagram {
            source: (ip(1), ports.0).into(),
            destination: (ip(2), ports.1).into(),
            traffic_class,
            returned: returned.map(reason),
            returns,
            tag,
            body: if icmp { DatagramBody::Icmp(body) } else { DatagramBody::Udp(body) },
        };
        let wire = datagram.encode();
        prop_assert!(wire.len() <= datagram.body.bytes().len() + 100);
        prop_assert_eq!(Datagram::decode(wire).expect("a datagram"), datagram);
    }

    #[test]
    fn noise_never_panics(noise in any::<Vec<u8>>()) {
        let mut framed = BytesMut::new();
        framed.put_u32(u32::try_from(noise.len()).expect("short"));
        framed.extend_from_slice(&noise);
        let _ = decode(&mut framed.clone());
        let _ = StreamHeader::decode(&mut framed);
        let _ = decode(&mut BytesMut::from(&noise[..]));
        let _ = StreamStart::decode(&mut BytesMut::from(&noise[..]));
        let _ = Datagram::decode(noise.clone().into());
        let _ = StreamHeader::decode(&mut BytesMut::from(&noise[..]));
        if let Ok(snapshot) = HalfSnapshot::from_bytes(&noise) {
            let _ = Half::restore(&snapshot);
        }
    }

    #[test]
    fn damage_never_panics(frame in frames(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut wire = BytesMut::new();
        encode(&frame, &mut wire);
        let at = at.index(wire.len());
        wire[at] = byte;
        let _ = decode(&mut wire);
    }

    /// Whatever a peer says, in whatever order, the half answers and goes on.
    #[test]
    fn no_frame_panics_a_half(mut said in prop::collection::vec((frames(), 0u8..12), 0..60), small in any::<bool>()) {
        let id = SessionId::from_bytes([1; 16]);
        let mut half = Half::new(id, Role::Acceptor, Generation::new(1), Generation::new(1));
        for (frame, deed) in &mut said {
            address(frame, id, small);
            match deed {
                0 => half.hold(),
                1 => half.release(),
                2 => half.link_lost(),
                3 => half.link_up(),
                4 => half.sent(5),
                5 => half.delivered(3),
                6 => half.local_end(EndKind::Fin),
                7 => half.generations(Generation::new(2), Generation::new(1)),
                8 => half.end_applied(),
                9 => half = HalfSnapshot::from_bytes(&half.snapshot().to_bytes()).ok()
                    .and_then(|snapshot| Half::restore(&snapshot).ok()).expect("own snapshots can be restored"),
                _ => {}
            }
            half.handle(frame);
            let mut actions = 0;
            while half.poll().is_some() {
                actions += 1;
            }
            prop_assert!(actions <= overlay_proto::limits::ACTIONS_MAX);
        }
    }

    #[test]
    fn names_are_labels(text in "[a-z0-9-]{0,70}") {
        let good = !text.is_empty() && text.len() <= 63 && !text.starts_with('-') && !text.ends_with('-');
        prop_assert_eq!(text.parse::<HostName>().is_ok(), good);
    }

    #[test]
    fn ids_come_back(bytes in any::<[u8; 16]>()) {
        let id = CapsuleId::from_bytes(bytes);
        prop_assert_eq!(id.to_string().parse::<CapsuleId>().expect("an id"), id);
        let json = serde_json::to_string(&id).expect("json");
        prop_assert_eq!(serde_json::from_str::<CapsuleId>(&json).expect("an id"), id);
    }
}

/// Makes a frame be for this half, with numbers near its own if `small`.
fn address(frame: &mut Frame, id: SessionId, small: bool) {
    let near = |number: &mut u64| *number %= if small { 12 } else { u64::MAX };
    let near_key = |key: &mut AttachKey| {
        if small {
            let generation = |generation: Generation| Generation::new(generation.number() % 3);
            let opener = generation(key.opener_generation);
            let acceptor = generation(key.acceptor_generation);
            *key = AttachKey::new(Generations { opener, acceptor }, key.attempt % 6);
        }
    };
    match frame {
        Frame::Attach(Attach { session, to, key, position })
        | Frame::Attached(Attached { session, to, key, position })
        | Frame::Hold(Hold { session, to, key, position })
        | Frame::Held(Held { session, to, key, position }) => {
            (*session, *to) = (id, Role::Acceptor);
            near_key(key);
            near(&mut position.delivered);
            near(&mut position.acknowledged);
            near(&mut position.consumed);
        }
        Frame::Stale { session, to, key } => {
            (*session, *to) = (id, Role::Acceptor);
            near_key(key);
        }
        Frame::Delivered { session, to, key, offset, .. } | Frame::End { session, to, key, offset, .. } => {
            (*session, *to) = (id, Role::Acceptor);
            near_key(key);
            near(offset);
        }
        Frame::Unknown { session, to } | Frame::NotHere { session, to } => {
            (*session, *to) = (id, Role::Acceptor);
        }
        Frame::Hello { .. }
        | Frame::Settled { .. }
        | Frame::Open(_)
        | Frame::Answer(_)
        | Frame::Cancel { .. }
        | Frame::Ping
        | Frame::Pong => {}
    }
}

#[test]
fn too_long_is_refused_before_it_is_there() {
    let mut wire = BytesMut::new();
    wire.put_u32(u32::MAX);
    let allowed = FRAME_BYTES_MAX;
    assert!(matches!(decode(&mut wire), Err(FrameError::TooLong { allowed: a, .. }) if a == allowed));
}

#[test]
fn kinds_of_later_versions_are_named_as_such() {
    let mut wire = BytesMut::new();
    wire.put_u32(3);
    // Tag 99, length-delimited, empty.
    wire.put_slice(&[0x9a, 0x06, 0x00]);
    assert_eq!(decode(&mut wire), Err(FrameError::UnknownKind));
}

/// The bytes of version 1: a change here breaks hosts of that version.
#[test]
fn tags_stay() {
    let generations = Generations { opener: Generation::new(3), acceptor: Generation::new(8) };
    let position = Position {
        delivered: 300,
        acknowledged: 200,
        consumed: 100,
        end: Some(End { kind: EndKind::Reset, offset: 400 }),
        end_delivered: Some(EndKind::Fin),
    };
    let session = SessionId::from_bytes([0xab; 16]);
    let attach = Attach { session, to: Role::Acceptor, key: AttachKey::new(generations, 5), position };
    let mut wire = BytesMut::new();
    encode(&Frame::Attach(attach), &mut wire);
    let expected = concat!(
        "0000002d2a2b0a10abababababababababababababababab", // length, tag 5, session
        "10021a060803100818052",                            // to, key
        "0ac0228c8013064",                                  // delivered, acknowledged, consumed
        "38024090034801",                                   // end, end delivered
    );
    let found: String = wire.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(found, expected);
}

#[test]
fn versions_meet() {
    assert_eq!(negotiate(2, 2), Some(2));
    assert_eq!(negotiate(1, 9), Some(2));
    assert_eq!(negotiate(3, 9), None);
    assert_eq!(negotiate(0, 1), None);
}

#[test]
fn every_outcome_survives_a_snapshot() {
    let half =
        Half::new(SessionId::from_bytes([1; 16]), Role::Opener, Generation::new(1), Generation::new(1));
    let violations = [
        Violation::BelowConsumed,
        Violation::BeyondSent,
        Violation::PeerConsumedUndelivered,
        Violation::AcknowledgedUndelivered,
        Violation::EndBelowDelivered,
    ];
    let plain = [
        Outcome::Closed,
        Outcome::ResetByProgram,
        Outcome::ResetByPeer,
        Outcome::PeerGone,
        Outcome::PeerUnknown,
    ];
    for outcome in plain.into_iter().chain(violations.map(Outcome::Broken)) {
        let snapshot = HalfSnapshot { outcome: Some(outcome), ended: true, ..half.snapshot() };
        assert_eq!(HalfSnapshot::from_bytes(&snapshot.to_bytes()), Ok(snapshot.clone()));
        let json = serde_json::to_string(&snapshot).expect("json");
        assert_eq!(serde_json::from_str::<HalfSnapshot>(&json).expect("a snapshot"), snapshot);
        assert_eq!(Half::restore(&snapshot).expect("a half").outcome(), Some(outcome));
    }
    let newer = HalfSnapshot { version: 2, ..half.snapshot() };
    assert_eq!(HalfSnapshot::from_bytes(&newer.to_bytes()), Err(SnapshotError::Version { found: 2 }));
    assert!(matches!(Half::restore(&newer), Err(SnapshotError::Version { found: 2 })));
}

#[test]
fn names_say_what_is_wrong() {
    assert_eq!("".parse::<CapsuleName>(), Err(NameError::Empty));
    assert_eq!("Db".parse::<CapsuleName>(), Err(NameError::Character { found: 'D' }));
    assert_eq!("-a".parse::<CapsuleName>(), Err(NameError::Hyphen));
    assert_eq!("a".repeat(64).parse::<CapsuleName>(), Err(NameError::TooLong { found: 64 }));
}

#[test]
fn a_claim_key_is_not_printed() {
    let key = ClaimKey::from_bytes([0x41; 32]);
    assert!(!format!("{key:?}").contains("41"));
    assert_ne!(key.hash().as_bytes(), key.as_bytes());
    let json = serde_json::to_string(&key).expect("json");
    assert_eq!(serde_json::from_str::<ClaimKey>(&json).expect("a key"), key);
}

#[test]
fn locators_know_their_addresses() {
    let locators = Locators { v4: [10, 88, 0, 2].into(), v6: "fd88::2".parse().expect("an address") };
    assert!(locators.contains("10.88.0.2".parse().expect("an address")));
    assert!(locators.contains("::ffff:10.88.0.2".parse().expect("an address")));
    assert!(locators.contains("fd88::2".parse().expect("an address")));
    assert!(!locators.contains("10.88.0.3".parse().expect("an address")));
}

#[test]
fn a_datagram_fills_what_is_allowed_and_no_more() {
    let of = |length: usize| Datagram {
        source: "[fd88::1]:65535".parse().expect("address"),
        destination: "[fd88::2]:65535".parse().expect("address"),
        traffic_class: 255,
        returned: Some(ReturnReason::NotHere),
        returns: u32::MAX,
        tag: [255; 16],
        body: DatagramBody::Udp(vec![7; length].into()),
    };
    let largest = of(65_507);
    assert_eq!(Datagram::decode(largest.encode()), Ok(largest));
    assert_eq!(Datagram::decode(of(65_508).encode()), Err(FrameError::Field("body")));
    assert!(matches!(Datagram::decode(of(70_000).encode()), Err(FrameError::TooLong { .. })));
    let mixed = Datagram { source: "10.88.0.1:1".parse().expect("address"), ..of(1) };
    assert_eq!(Datagram::decode(mixed.encode()), Err(FrameError::Field("destination")));
}

/// A stream of a datagram is no stream of a session, and the other way round, also to a version that knows no datagrams.
#[test]
fn a_datagrams_stream_says_so() {
    let mut wire = BytesMut::new();
    StreamStart::Datagram.encode(&mut wire);
    wire.extend_from_slice(b"rest");
    assert_eq!(StreamHeader::decode(&mut wire.clone()), Err(FrameError::Field("session")));
    assert_eq!(StreamStart::decode(&mut wire), Ok(Some(StreamStart::Datagram)));
    assert_eq!(&wire[..], b"rest");
}
