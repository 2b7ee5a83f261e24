use super::*;
use crate::{
    request::{Asker, Memory, Request, Run},
    result::{MoveResult, Phases},
};

fn samples() -> Vec<Frame> {
    let run = Run { name: "db".into(), argv: vec!["a b".into(), "ü".into()], ..Run::default() };
    let asker = Asker { uid: 1000, user: Some("ann".into()), login: None };
    vec![
        Frame::Call(Call::new(Request::Run(run)).forwarded("a", Some(asker))),
        Frame::Call(Call::new(Request::Hosts)),
        Frame::Call(Call::new(Request::Move {
            name: "db".into(),
            to: "b".into(),
            memory: Memory::Precopy,
            keep_anchored: true,
            dry_run: true,
        })),
        Frame::Stdin(Bytes::from_static(b"\0\xff")),
        Frame::StdinEnd,
        Frame::Signal(15),
        Frame::Cancel,
        Frame::Stdout(Bytes::new()),
        Frame::Stderr(Bytes::from_static(b"oops")),
        Frame::Position(u64::MAX),
        Frame::Progress(Progress { phase: "dump".into(), ..Progress::default() }),
        Frame::Result(Body::of(&MoveResult::default())),
        Frame::Error(ErrorView::new("move/refused", "db stays on a")),
        Frame::Exit(-1),
        Frame::Moved(Moved { to: "b".into(), generation: 8 }),
    ]
}

#[test]
fn every_frame_round_trips_byte_by_byte() {
    let mut bytes = BytesMut::new();
    for frame in samples() {
        frame.encode(&mut bytes).unwrap();
    }
    let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
    for byte in bytes {
        buffer.put_u8(byte);
        seen.extend(Frame::decode(&mut buffer).unwrap());
    }
    assert_eq!(seen, samples());
    assert!(buffer.is_empty());
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_it_is_awaited() {
    let mut buffer = BytesMut::from(&[1, 0xff, 0xff, 0xff, 0xff][..]);
    assert!(matches!(Frame::decode(&mut buffer), Err(FrameError::TooLong(_))));
    let long = Frame::Stdout(vec![0; limits::FRAME_BYTES_MAX + 1].into());
    assert!(matches!(long.encode(&mut buffer), Err(FrameError::TooLong(_))));
}

#[test]
fn unknown_hints_are_left_out_and_other_unknown_kinds_refused() {
    let mut buffer = BytesMut::from(&[0xfe, 0, 0, 0, 1, 7, 3, 0, 0, 0, 0][..]);
    assert_eq!(Frame::decode(&mut buffer).unwrap(), Some(Frame::StdinEnd));
    let mut buffer = BytesMut::from(&[0x7e, 0, 0, 0, 0][..]);
    assert!(matches!(Frame::decode(&mut buffer), Err(FrameError::UnknownKind(0x7e))));
}

#[test]
fn phases_keep_their_order() {
    let phases: Phases = [("quiesce", 3.0), ("hold", 4.0), ("dump", 1.5)].into_iter().collect();
    let text = serde_json::to_string(&phases).unwrap();
    assert_eq!(text, r#"{"quiesce":3.0,"hold":4.0,"dump":1.5}"#);
    assert_eq!(serde_json::from_str::<Phases>(&text).unwrap(), phases);
}

#[test]
fn a_request_is_readable_json() {
    let call = Call::new(Request::Stop { name: "db".into(), timeout_s: 10 });
    let text = serde_json::to_string(&call).unwrap();
    assert_eq!(text, r#"{"request":{"verb":"stop","name":"db","timeout_s":10}}"#);
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = Frame::decode(&mut buffer) {}
    }
}
