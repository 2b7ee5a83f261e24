//! The cases that the design names, each by itself.

use overlay_proto::{
    Action, Attach, AttachKey, End, EndKind, Frame, Generation, Generations, Half, HalfSnapshot, Outcome,
    Position, Role, SessionId, State, StreamHeader, StreamVerdict, Violation, limits,
};

const ID: SessionId = SessionId::from_bytes([9; 16]);

fn key(opener: u64, acceptor: u64, attempt: u64) -> AttachKey {
    let generations = Generations { opener: Generation::new(opener), acceptor: Generation::new(acceptor) };
    AttachKey::new(generations, attempt)
}

fn pair() -> (Half, Half) {
    let new = |role| {
        let mut half = Half::new(ID, role, Generation::new(1), Generation::new(1));
        poll(&mut half);
        half
    };
    let (opener, mut acceptor) = (new(Role::Opener), new(Role::Acceptor));
    acceptor.accepted();
    (opener, acceptor)
}

fn poll(half: &mut Half) -> Vec<Action> {
    std::iter::from_fn(|| half.poll()).collect()
}

fn frames(actions: &[Action]) -> Vec<Frame> {
    let frame = |action: &Action| match action {
        Action::Transmit(frame) => Some(frame.clone()),
        _ => None,
    };
    actions.iter().filter_map(frame).collect()
}

/// Passes frames to and fro until there are none; gives all that both did.
fn talk(a: &mut Half, b: &mut Half) -> (Vec<Action>, Vec<Action>) {
    let (mut did_a, mut did_b) = (poll(a), poll(b));
    let (mut to_b, mut to_a) = (frames(&did_a), frames(&did_b));
    while !to_a.is_empty() || !to_b.is_empty() {
        to_b.drain(..).for_each(|frame| b.handle(&frame));
        to_a.drain(..).for_each(|frame| a.handle(&frame));
        let (more_a, more_b) = (poll(a), poll(b));
        (to_b, to_a) = (frames(&more_a), frames(&more_b));
        did_a.extend(more_a);
        did_b.extend(more_b);
    }
    (did_a, did_b)
}

fn lose_link(halves: [&mut Half; 2]) {
    for half in halves {
        half.link_lost();
        poll(half);
    }
}

fn transfer(from: &mut Half, to: &mut Half, bytes: u64) {
    from.sent(bytes);
    to.delivered(bytes);
}

#[test]
fn both_attach_at_once_and_the_openers_wins() {
    let (mut opener, mut acceptor) = pair();
    lose_link([&mut opener, &mut acceptor]);
    opener.link_up();
    acceptor.link_up();
    let (did, other) = talk(&mut opener, &mut acceptor);
    assert!(opener.is_attached() && acceptor.is_attached());
    assert_eq!((opener.key(), acceptor.key()), (key(1, 1, 1), key(1, 1, 1)));
    assert!(!frames(&did).iter().any(|frame| matches!(frame, Frame::Attached(_))));
    assert!(frames(&other).iter().any(|frame| matches!(frame, Frame::Attached(_))));
}

#[test]
fn what_was_not_delivered_is_sent_again() {
    let (mut opener, mut acceptor) = pair();
    opener.sent(100);
    acceptor.delivered(60);
    lose_link([&mut opener, &mut acceptor]);
    opener.link_up();
    acceptor.link_up();
    let (did, _) = talk(&mut opener, &mut acceptor);
    assert!(did.contains(&Action::Consume { bytes: 60 }), "the report that was lost comes with the attach");
    assert!(did.contains(&Action::StartSending { key: key(1, 1, 1), offset: 60 }));
    assert_eq!(opener.bytes_out(), 100);
}

#[test]
fn streams_are_judged_by_key_and_offset() {
    let (mut opener, mut acceptor) = pair();
    let header =
        |attempt, offset| StreamHeader { session: ID, to: Role::Acceptor, key: key(1, 1, attempt), offset };
    assert_eq!(acceptor.stream(&header(0, 0)), StreamVerdict::Use);
    assert_eq!(acceptor.stream(&header(0, 7)), StreamVerdict::Drop);
    assert_eq!(acceptor.stream(&header(1, 0)), StreamVerdict::Keep, "ATTACHED is on its way");
    lose_link([&mut opener, &mut acceptor]);
    acceptor.link_up();
    assert_eq!(acceptor.stream(&header(1, 0)), StreamVerdict::Keep);
    opener.link_up();
    talk(&mut opener, &mut acceptor);
    assert_eq!(acceptor.stream(&header(0, 0)), StreamVerdict::Drop);
    assert_eq!(acceptor.stream(&header(1, 0)), StreamVerdict::Use);
    assert_eq!(acceptor.stream(&StreamHeader { to: Role::Opener, ..header(1, 0) }), StreamVerdict::Drop);
}

#[test]
fn an_older_generation_is_refused_and_a_newer_one_confirmed_first() {
    let (mut opener, mut acceptor) = pair();
    lose_link([&mut opener, &mut acceptor]);
    opener.link_up();
    let old = frames(&poll(&mut opener));
    acceptor.generations(Generation::new(1), Generation::new(2));
    acceptor.handle(&old[0]);
    let said = poll(&mut acceptor);
    assert!(matches!(frames(&said)[..], [Frame::Stale { key: k, .. }] if k == key(1, 2, 0)));

    let stale = frames(&said).remove(0);
    opener.handle(&stale);
    assert_eq!(poll(&mut opener), vec![Action::AskDirectory]);
    opener.generations(Generation::new(1), Generation::new(2));
    talk(&mut opener, &mut acceptor);
    assert_eq!(acceptor.key().generations(), key(1, 2, 0).generations());
    assert!(opener.is_attached() && acceptor.is_attached());

    // The other way round: the one that moved attaches, the other asks before it believes.
    let snapshot = acceptor.snapshot();
    lose_link([&mut opener, &mut acceptor]);
    let mut acceptor = Half::restore(&snapshot).expect("a half");
    acceptor.generations(Generation::new(1), Generation::new(3));
    acceptor.link_up();
    frames(&poll(&mut acceptor)).iter().for_each(|frame| opener.handle(frame));
    assert_eq!(poll(&mut opener), vec![Action::AskDirectory]);
    assert!(!opener.is_attached());
    opener.generations(Generation::new(1), Generation::new(3));
    talk(&mut opener, &mut acceptor);
    assert!(opener.is_attached() && acceptor.is_attached());
}

#[test]
fn two_capsules_move_at_once() {
    let (mut opener, mut acceptor) = pair();
    opener.sent(40);
    acceptor.delivered(25);
    transfer(&mut acceptor, &mut opener, 30);
    opener.hold();
    acceptor.hold();
    let (did, other) = talk(&mut opener, &mut acceptor);
    assert_eq!(did.iter().filter(|action| **action == Action::HoldAgreed).count(), 1);
    assert_eq!(other.iter().filter(|action| **action == Action::HoldAgreed).count(), 1);
    let again = |half: &Half| {
        let snapshot = HalfSnapshot::from_bytes(&half.snapshot().to_bytes()).expect("a snapshot");
        Half::restore(&snapshot).expect("a half")
    };
    let (mut opener, mut acceptor) = (again(&opener), again(&acceptor));
    opener.generations(Generation::new(2), Generation::new(1));
    acceptor.generations(Generation::new(1), Generation::new(2));
    opener.link_up();
    acceptor.link_up();
    talk(&mut opener, &mut acceptor);
    assert!(!opener.is_attached(), "each has news for the other");
    for half in [&mut opener, &mut acceptor] {
        half.generations(Generation::new(2), Generation::new(2));
    }
    talk(&mut opener, &mut acceptor);
    assert!(opener.is_attached() && acceptor.is_attached());
    assert_eq!((opener.consumed(), opener.bytes_sent()), (25, 25));
    assert_eq!((acceptor.consumed(), acceptor.bytes_sent()), (30, 30));
}

#[test]
fn a_hold_is_undone() {
    let (mut opener, mut acceptor) = pair();
    opener.hold();
    let (did, _) = talk(&mut opener, &mut acceptor);
    assert!(did.contains(&Action::HoldAgreed));
    assert_eq!((opener.state(), acceptor.state()), (State::Held, State::Held));
    opener.release();
    talk(&mut opener, &mut acceptor);
    assert_eq!((opener.state(), acceptor.state()), (State::Open, State::Open));
}

#[test]
fn a_hold_without_a_link_is_agreed_at_once() {
    let (mut opener, mut acceptor) = pair();
    lose_link([&mut opener, &mut acceptor]);
    opener.hold();
    assert_eq!(poll(&mut opener), vec![Action::HoldAgreed]);
}

#[test]
fn an_unaccepted_connection_reports_nothing_and_starts_again() {
    let mut opener = Half::new(ID, Role::Opener, Generation::new(1), Generation::new(1));
    let mut acceptor = Half::new(ID, Role::Acceptor, Generation::new(1), Generation::new(1));
    opener.sent(50);
    opener.local_end(EndKind::Fin);
    acceptor.delivered(50);
    talk(&mut opener, &mut acceptor);
    acceptor.end_applied();
    acceptor.flush_reports();
    let (did, _) = talk(&mut opener, &mut acceptor);
    assert!(did.is_empty(), "neither bytes nor FIN may be forgotten");

    lose_link([&mut opener, &mut acceptor]);
    let mut acceptor = Half::restore(&acceptor.snapshot()).expect("a half");
    acceptor.dialled_again();
    acceptor.generations(Generation::new(1), Generation::new(2));
    opener.generations(Generation::new(1), Generation::new(2));
    acceptor.link_up();
    opener.link_up();
    let (did, _) = talk(&mut opener, &mut acceptor);
    assert!(did.iter().any(|action| matches!(action, Action::StartSending { offset: 0, .. })));
    transfer(&mut opener, &mut acceptor, 50);
    assert!(poll(&mut acceptor).contains(&Action::ApplyEnd(EndKind::Fin)));
    acceptor.end_applied();
    acceptor.accepted();
    let (did, _) = talk(&mut opener, &mut acceptor);
    assert!(did.contains(&Action::Consume { bytes: 50 }));
}

#[test]
fn a_reset_wakes_the_other_program_while_both_directions_are_full() {
    let (mut opener, mut acceptor) = pair();
    opener.sent(1000);
    acceptor.sent(1000);
    opener.local_reset(5000);
    let (_, did) = talk(&mut opener, &mut acceptor);
    assert!(did.contains(&Action::StopSending) && did.contains(&Action::DiscardOutgoing));
    assert!(!did.contains(&Action::ApplyEnd(EndKind::Reset)), "5000 bytes come first");
    acceptor.stalled();
    assert!(poll(&mut acceptor).contains(&Action::ApplyEnd(EndKind::Reset)));
    acceptor.end_applied();
    let (did, other) = talk(&mut opener, &mut acceptor);
    assert!(did.contains(&Action::Ended(Outcome::ResetByProgram)));
    assert!(other.contains(&Action::Ended(Outcome::ResetByPeer)));
}

/// A peer that lies about what it has leaves no half that could not move.
#[test]
fn a_reset_side_tells_no_offset_to_go_on_from() {
    let (_, mut acceptor) = pair();
    acceptor.sent(5);
    acceptor.local_end(EndKind::Fin);
    acceptor.handle(&Frame::Attach(Attach {
        session: ID,
        to: Role::Acceptor,
        key: key(1, 1, 1),
        position: Position {
            delivered: 1000,
            acknowledged: 0,
            consumed: 0,
            end: Some(End { kind: EndKind::Reset, offset: 1000 }),
            end_delivered: None,
        },
    }));
    poll(&mut acceptor);
    Half::restore(&acceptor.snapshot()).expect("it can be restored");
}

#[test]
fn the_last_acknowledgement_may_be_lost() {
    let (mut opener, mut acceptor) = pair();
    opener.local_end(EndKind::Fin);
    acceptor.local_end(EndKind::Fin);
    talk(&mut opener, &mut acceptor);
    opener.end_applied();
    let (_, _) = talk(&mut opener, &mut acceptor);
    acceptor.end_applied();
    assert!(poll(&mut acceptor).contains(&Action::Ended(Outcome::Closed)), "and its report is lost");
    lose_link([&mut opener, &mut acceptor]);
    opener.link_up();
    let attach = frames(&poll(&mut opener)).remove(0);
    acceptor.handle(&attach);
    assert!(poll(&mut acceptor).is_empty(), "the table answers for it");
    opener.handle(&attach.answer_unknown().expect("an attach waits for an answer"));
    assert!(poll(&mut opener).contains(&Action::Ended(Outcome::Closed)));
}

#[test]
fn a_half_close_stays_open_the_other_way() {
    let (mut opener, mut acceptor) = pair();
    opener.local_end(EndKind::Fin);
    talk(&mut opener, &mut acceptor);
    acceptor.end_applied();
    talk(&mut opener, &mut acceptor);
    lose_link([&mut opener, &mut acceptor]);
    opener.link_up();
    acceptor.link_up();
    let (did, other) = talk(&mut opener, &mut acceptor);
    assert!(
        !did.iter().any(|action| matches!(action, Action::StartSending { .. })),
        "nothing is left to send"
    );
    assert!(other.iter().any(|action| matches!(action, Action::StartSending { .. })));
    transfer(&mut acceptor, &mut opener, 10);
    assert_eq!((opener.bytes_in(), opener.state()), (10, State::Open));
}

#[test]
fn a_session_lost_by_the_other_host_ends_with_a_reset() {
    let (mut opener, _) = pair();
    opener.handle(&Frame::Unknown { session: ID, to: Role::Opener });
    let did = poll(&mut opener);
    assert!(did.contains(&Action::DiscardOutgoing) && did.contains(&Action::ApplyEnd(EndKind::Reset)));
    opener.end_applied();
    assert_eq!(poll(&mut opener).last(), Some(&Action::Ended(Outcome::PeerUnknown)));
}

#[test]
fn a_removed_capsule_ends_its_sessions_but_not_under_a_capture() {
    let (mut opener, mut acceptor) = pair();
    opener.hold();
    talk(&mut opener, &mut acceptor);
    opener.peer_gone();
    assert!(poll(&mut opener).is_empty());
    opener.release();
    assert!(poll(&mut opener).contains(&Action::ApplyEnd(EndKind::Reset)));
    opener.end_applied();
    assert_eq!(opener.outcome(), Some(Outcome::PeerGone));
}

#[test]
fn an_offset_below_what_was_consumed_ends_both_halves() {
    let (mut opener, mut acceptor) = pair();
    let old = acceptor.snapshot();
    transfer(&mut opener, &mut acceptor, 80);
    acceptor.flush_reports();
    talk(&mut opener, &mut acceptor);
    assert_eq!(opener.consumed(), 80);
    lose_link([&mut opener, &mut acceptor]);
    let mut acceptor = Half::restore(&HalfSnapshot { key: key(1, 1, 5), ..old }).expect("a half");
    opener.link_up();
    acceptor.link_up();
    talk(&mut opener, &mut acceptor);
    opener.end_applied();
    acceptor.end_applied();
    talk(&mut opener, &mut acceptor);
    let outcomes = [opener.outcome(), acceptor.outcome()];
    let broken = |outcome: &Option<Outcome>| {
        matches!(
            outcome,
            Some(
                Outcome::Broken(Violation::BelowConsumed | Violation::PeerConsumedUndelivered)
                    | Outcome::PeerUnknown
            )
        )
    };
    assert!(outcomes.iter().all(broken), "{outcomes:?}");
}

#[test]
fn much_is_reported_without_being_asked() {
    let (_, mut acceptor) = pair();
    acceptor.delivered(limits::REPORT_BYTES - 1);
    assert!(poll(&mut acceptor).is_empty());
    acceptor.delivered(1);
    assert_eq!(frames(&poll(&mut acceptor)).len(), 1);
    assert_eq!(acceptor.unreported(), 0);
}

#[test]
fn bytes_taken_after_the_stream_was_given_up_cost_an_attach_but_are_not_taken_twice() {
    let (mut opener, mut acceptor) = pair();
    opener.sent(30);
    lose_link([&mut opener, &mut acceptor]);
    acceptor.link_up();
    poll(&mut acceptor);
    acceptor.delivered(20);
    opener.link_up();
    let (did, _) = talk(&mut opener, &mut acceptor);
    assert!(opener.is_attached() && acceptor.is_attached());
    let starts: Vec<_> = did.iter().filter(|action| matches!(action, Action::StartSending { .. })).collect();
    assert!(matches!(starts.last(), Some(Action::StartSending { offset: 20, .. })), "{starts:?}");
}

#[test]
fn an_open_that_was_repeated_meets_an_acceptor_that_went_on() {
    let mut acceptor = Half::new(ID, Role::Acceptor, Generation::new(1), Generation::new(1));
    for _ in 0..3 {
        acceptor.link_lost();
        acceptor.link_up();
    }
    poll(&mut acceptor);
    let mut opener = Half::new(ID, Role::Opener, Generation::new(1), Generation::new(1));
    opener.link_lost();
    opener.link_up();
    talk(&mut opener, &mut acceptor);
    assert!(opener.is_attached() && acceptor.is_attached());
    assert_eq!(opener.key(), acceptor.key());
}

#[test]
fn reports_and_ends_of_an_older_attach_do_nothing() {
    let (mut opener, mut acceptor) = pair();
    opener.sent(30);
    lose_link([&mut opener, &mut acceptor]);
    opener.link_up();
    acceptor.link_up();
    talk(&mut opener, &mut acceptor);
    let (session, to, old) = (ID, Role::Opener, key(1, 1, 0));
    opener.handle(&Frame::Delivered { session, to, key: old, offset: 30, end: None });
    opener.handle(&Frame::End { session, to, key: old, kind: EndKind::Reset, offset: 0 });
    assert!(poll(&mut opener).is_empty());
    opener.handle(&Frame::Delivered { session, to, key: key(1, 1, 1), offset: 30, end: None });
    assert_eq!(poll(&mut opener), vec![Action::Consume { bytes: 30 }]);
}

#[test]
fn every_hold_is_answered_even_an_old_one() {
    let (mut opener, mut acceptor) = pair();
    acceptor.hold();
    let hold = frames(&poll(&mut acceptor)).remove(0);
    lose_link([&mut opener, &mut acceptor]);
    opener.link_up();
    poll(&mut opener);
    opener.handle(&hold);
    assert!(matches!(frames(&poll(&mut opener))[..], [Frame::Held(_)]));
    opener.link_lost();
    assert_eq!(opener.state(), State::Detached, "an old hold does not make it wait");
}

#[test]
fn news_of_a_generation_voids_an_attach() {
    let (mut opener, _) = pair();
    opener.generations(Generation::new(1), Generation::new(2));
    let did = poll(&mut opener);
    assert_eq!(did[..2], [Action::StopSending, Action::StopReceiving]);
    assert!(matches!(frames(&did)[..], [Frame::Attach(attach)] if attach.key == key(1, 2, 1)));
    opener.generations(Generation::new(1), Generation::new(1));
    assert!(poll(&mut opener).is_empty(), "old news");
}

#[test]
fn an_attach_that_waits_for_the_directory_is_answered_by_a_hold() {
    let (mut opener, mut acceptor) = pair();
    acceptor.generations(Generation::new(1), Generation::new(2));
    frames(&poll(&mut acceptor)).iter().for_each(|frame| opener.handle(frame));
    assert_eq!(poll(&mut opener), vec![Action::AskDirectory]);
    opener.hold();
    let (did, _) = talk(&mut opener, &mut acceptor);
    assert!(did.contains(&Action::HoldAgreed));
    assert_eq!(acceptor.state(), State::Held);
}

#[test]
fn attempts_go_beyond_every_attempt_seen() {
    let (mut opener, mut acceptor) = pair();
    acceptor.generations(Generation::new(1), Generation::new(2));
    frames(&poll(&mut acceptor)).iter().for_each(|frame| opener.handle(frame));
    opener.handle(&Frame::NotHere { session: ID, to: Role::Opener });
    opener.generations(Generation::new(1), Generation::new(2));
    talk(&mut opener, &mut acceptor);
    assert!(opener.is_attached() && acceptor.is_attached());
    assert_eq!(opener.key(), key(1, 2, 2));
}
