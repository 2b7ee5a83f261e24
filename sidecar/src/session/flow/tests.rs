use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::*;
use crate::testing::{Ca, Node, SOON, Told, header, key, local_stream, program};

/// A node whose local link carries the streams.
fn node() -> Node {
    Ca::new().node("a")
}

async fn next(outgoing: &mut Outgoing, program: &Program, ahead: u64) -> OutgoingStep {
    timeout(SOON, outgoing.step(program, ahead)).await.expect("a step")
}

async fn stands(outgoing: &mut Outgoing, program: &Program, ahead: u64) -> bool {
    timeout(Duration::from_millis(30), outgoing.step(program, ahead)).await.is_err()
}

async fn opened(node: &mut Node) -> (StreamHeader, Receiver) {
    match node.next().await {
        Told::Data(header, receiver) => (header, receiver),
        other => panic!("{other:?} instead of a stream"),
    }
}

async fn read(receiver: &mut Receiver) -> Option<Bytes> {
    timeout(SOON, receiver.read()).await.expect("bytes or an end").unwrap()
}

#[tokio::test]
async fn bytes_go_out_behind_a_header_until_the_end() {
    let (mut node, (mut far, ours)) = (node(), program(None).await);
    let mut outgoing = Outgoing::default();
    assert!(stands(&mut outgoing, &ours, 0).await, "nothing goes before a start");
    far.write_all(b"hello").await.unwrap();
    outgoing.start(node.links.local(), header(0, 0));
    assert!(matches!(next(&mut outgoing, &ours, 0).await, OutgoingStep::Sent(5)));
    let (found, mut stream) = opened(&mut node).await;
    assert_eq!(found, header(0, 0));
    assert_eq!(read(&mut stream).await.unwrap(), "hello");
    assert!(stands(&mut outgoing, &ours, 5).await);
    far.shutdown().await.unwrap();
    assert!(matches!(next(&mut outgoing, &ours, 5).await, OutgoingStep::Ended(EndKind::Fin)));
    outgoing.end();
    assert_eq!(read(&mut stream).await, None);
    assert!(stands(&mut outgoing, &ours, 5).await);
}

#[tokio::test]
async fn a_new_start_sends_again_what_was_not_consumed() {
    let (mut node, (mut far, mut ours)) = (node(), program(None).await);
    let mut outgoing = Outgoing::default();
    far.write_all(b"abcdef").await.unwrap();
    outgoing.start(node.links.local(), header(0, 0));
    assert!(matches!(next(&mut outgoing, &ours, 0).await, OutgoingStep::Sent(6)));
    let (_, lost) = opened(&mut node).await;
    drop(lost);
    // The other half has two of them.
    ours.consume(2).unwrap();
    ours.seek(0).unwrap();
    outgoing.start(node.links.local(), header(1, 2));
    assert!(matches!(next(&mut outgoing, &ours, 0).await, OutgoingStep::Sent(4)));
    let (found, mut stream) = opened(&mut node).await;
    assert_eq!((found, read(&mut stream).await.unwrap()), (header(1, 2), Bytes::from_static(b"cdef")));
}

/// Nothing comes from the program any more that would make its connection readable anew.
#[tokio::test]
async fn a_new_start_sends_again_more_than_one_piece() {
    const BYTES: usize = 100_000;
    let (mut node, (mut far, ours)) = (node(), program(None).await);
    let mut outgoing = Outgoing::default();
    far.write_all(&vec![7; BYTES]).await.unwrap();
    for attempt in 0..2 {
        ours.seek(0).unwrap();
        outgoing.start(node.links.local(), header(attempt, 0));
        let (mut sent, mut pieces, mut stream) = (0, 0, None);
        while sent < BYTES {
            match next(&mut outgoing, &ours, sent as u64).await {
                OutgoingStep::Sent(count) => (sent, pieces) = (sent + count, pieces + 1),
                other => panic!("{other:?}"),
            }
            if stream.is_none() {
                stream = Some(opened(&mut node).await.1);
            }
            read(stream.as_mut().unwrap()).await;
        }
        assert!(pieces > 1);
        assert!(stands(&mut outgoing, &ours, sent as u64).await);
    }
}

#[tokio::test]
async fn an_end_is_told_again_after_a_new_start() {
    let (mut node, (mut far, ours)) = (node(), program(None).await);
    let mut outgoing = Outgoing::default();
    far.shutdown().await.unwrap();
    for attempt in 0..2 {
        outgoing.start(node.links.local(), header(attempt, 0));
        assert!(matches!(next(&mut outgoing, &ours, 0).await, OutgoingStep::Ended(EndKind::Fin)));
        outgoing.end();
        let (_, mut stream) = opened(&mut node).await;
        assert_eq!(read(&mut stream).await, None);
    }
}

#[tokio::test]
async fn a_step_that_was_cancelled_loses_nothing() {
    let (mut node, (mut far, mut ours)) = (node(), program(None).await);
    let mut outgoing = Outgoing::default();
    let all: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 253) as u8).collect();
    let writing = all.clone();
    let writer = tokio::spawn(async move {
        far.write_all(&writing).await.unwrap();
        far.shutdown().await.unwrap();
    });
    outgoing.start(node.links.local(), header(0, 0));
    let (mut sent, mut seen, mut cancelled, mut stream) = (0, Vec::new(), 0, None);
    loop {
        // A reader that takes a piece now and then: steps are cut off in the middle of their wait.
        match timeout(Duration::from_micros(300), outgoing.step(&ours, 0)).await {
            Ok(OutgoingStep::Sent(count)) => {
                sent += count as u64;
                ours.consume(count as u64).unwrap();
            }
            Ok(OutgoingStep::Ended(kind)) => {
                assert_eq!(kind, EndKind::Fin);
                outgoing.end();
                break;
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => {
                cancelled += 1;
                if stream.is_none() {
                    stream = Some(opened(&mut node).await.1);
                }
                let piece = timeout(Duration::from_millis(5), stream.as_mut().unwrap().read()).await;
                seen.extend(piece.into_iter().flat_map(|piece| piece.unwrap().unwrap()));
            }
        }
    }
    writer.await.unwrap();
    while let Some(piece) = read(stream.as_mut().unwrap()).await {
        seen.extend(piece);
    }
    assert!(cancelled > 0 && sent == all.len() as u64 && seen == all);
}

#[tokio::test]
async fn a_stream_that_nobody_reads_stalls_and_can_be_left() {
    let (mut node, (mut far, mut ours)) = (node(), program(None).await);
    let mut outgoing = Outgoing::default();
    let writer = tokio::spawn(async move {
        let _ = far.write_all(&vec![9; 16 << 20]).await;
        far
    });
    outgoing.start(node.links.local(), header(0, 0));
    let mut sent = 0;
    while let Ok(step) = timeout(Duration::from_millis(100), outgoing.step(&ours, 0)).await {
        match step {
            // Acknowledged at once, so that the program's window stays open.
            OutgoingStep::Sent(count) => {
                sent += count;
                ours.consume(count as u64).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(outgoing.is_stalled() && sent < 16 << 20);
    // The reader goes: the stream is broken, and nothing of it is pending after a stop.
    drop(opened(&mut node).await);
    assert!(matches!(next(&mut outgoing, &ours, 0).await, OutgoingStep::StreamBroke));
    outgoing.stop();
    assert!(!outgoing.is_stalled());
    drop(ours);
    drop(writer.await.unwrap());
}

#[tokio::test]
async fn what_nobody_wants_is_dropped_as_it_comes() {
    let (node, (mut far, ours)) = (node(), program(None).await);
    let mut outgoing = Outgoing::default();
    outgoing.start(node.links.local(), header(0, 0));
    outgoing.discard();
    let written = async {
        tokio::select! {
            step = outgoing.step(&ours, 0) => panic!("{step:?}"),
            written = far.write_all(&[1; 8 << 20]) => written,
        }
    };
    timeout(SOON, written).await.expect("nothing stands in the way").unwrap();
}

#[tokio::test]
async fn a_reset_of_the_program_fails_a_step() {
    let (node, (far, ours)) = (node(), program(None).await);
    let mut outgoing = Outgoing::default();
    outgoing.start(node.links.local(), header(0, 0));
    far.set_zero_linger().unwrap();
    drop(far);
    assert!(matches!(next(&mut outgoing, &ours, 0).await, OutgoingStep::ProgramFailed));
}

#[tokio::test]
async fn arrived_bytes_are_delivered_in_order() {
    let (mut node, (mut far, ours)) = (node(), program(None).await);
    let mut incoming = Incoming::default();
    let (mut sender, receiver) = local_stream(&mut node, header(0, 0)).await;
    incoming.start(key(0), 0);
    incoming.take(receiver);
    for text in ["one ", "two ", "three"] {
        let mut pending = Bytes::copy_from_slice(text.as_bytes());
        sender.write(&mut pending).await.unwrap();
        let step = timeout(SOON, incoming.step(&ours)).await.unwrap();
        assert!(matches!(step, IncomingStep::Delivered(count) if count == text.len()), "{step:?}");
    }
    sender.finish();
    assert!(matches!(timeout(SOON, incoming.step(&ours)).await.unwrap(), IncomingStep::StreamEnded));
    let mut seen = [0; 13];
    far.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"one two three");
}

#[tokio::test]
async fn an_early_stream_is_used_when_its_attach_is_agreed() {
    let (mut node, (_far, ours)) = (node(), program(None).await);
    let mut incoming = Incoming::default();
    let mut senders = Vec::new();
    // An older attach, another offset, the right one, and one that is newer still.
    for (attempt, offset) in [(1, 0), (2, 7), (2, 3), (3, 3)] {
        let (mut sender, receiver) = local_stream(&mut node, header(attempt, offset)).await;
        sender.write(&mut Bytes::from(vec![0; (10 * attempt + offset) as usize])).await.unwrap();
        senders.push(sender);
        incoming.keep(header(attempt, offset), receiver);
    }
    assert!(timeout(Duration::from_millis(30), incoming.step(&ours)).await.is_err(), "none is read yet");
    incoming.start(key(2), 3);
    let step = timeout(SOON, incoming.step(&ours)).await.unwrap();
    assert!(matches!(step, IncomingStep::Delivered(23)), "{step:?}");
    incoming.start(key(3), 3);
    let step = timeout(SOON, incoming.step(&ours)).await.unwrap();
    assert!(matches!(step, IncomingStep::Delivered(33)), "{step:?}");
}

#[tokio::test]
async fn early_streams_are_bounded_and_the_oldest_goes() {
    let (mut node, (_far, ours)) = (node(), program(None).await);
    let mut incoming = Incoming::default();
    let mut senders = Vec::new();
    for attempt in 0..=EARLY_STREAMS as u64 {
        let (mut sender, receiver) = local_stream(&mut node, header(attempt, 0)).await;
        sender.write(&mut Bytes::from_static(b"x")).await.unwrap();
        senders.push(sender);
        incoming.keep(header(attempt, 0), receiver);
    }
    incoming.start(key(0), 0);
    assert!(timeout(Duration::from_millis(30), incoming.step(&ours)).await.is_err(), "the oldest is gone");
    incoming.start(key(1), 0);
    assert!(matches!(timeout(SOON, incoming.step(&ours)).await.unwrap(), IncomingStep::Delivered(1)));
}

#[tokio::test]
async fn a_stop_throws_away_what_the_program_did_not_take() {
    let (mut node, (far, ours)) = (node(), program(None).await);
    let mut incoming = Incoming::default();
    let (mut sender, receiver) = local_stream(&mut node, header(0, 0)).await;
    incoming.take(receiver);
    let mut delivered = 0;
    let filled = async {
        loop {
            sender.write(&mut Bytes::from(vec![1; 1 << 20])).await.unwrap();
            match timeout(Duration::from_millis(100), incoming.step(&ours)).await {
                Ok(IncomingStep::Delivered(count)) => delivered += count,
                Ok(other) => panic!("{other:?}"),
                Err(_) => break,
            }
        }
    };
    timeout(Duration::from_secs(20), filled).await.expect("a program that does not read holds it up");
    assert!(delivered > 0);
    incoming.stop();
    assert!(timeout(Duration::from_millis(30), incoming.step(&ours)).await.is_err());
    assert!(sender.write(&mut Bytes::from_static(b"x")).await.is_err(), "nobody reads that stream");
    drop(far);
}

#[tokio::test]
async fn a_program_that_was_reset_fails_a_delivery() {
    let (mut node, (far, ours)) = (node(), program(None).await);
    let mut incoming = Incoming::default();
    let (mut sender, receiver) = local_stream(&mut node, header(0, 0)).await;
    incoming.take(receiver);
    far.set_zero_linger().unwrap();
    drop(far);
    timeout(SOON, ours.error()).await.expect("the reset arrives");
    sender.write(&mut Bytes::from_static(b"late")).await.unwrap();
    assert!(matches!(timeout(SOON, incoming.step(&ours)).await.unwrap(), IncomingStep::ProgramFailed));
}

/// In one wait, which nothing else may cut short: a connection in one direction has nothing else to wait for.
#[tokio::test]
async fn a_program_that_reads_late_is_parked_and_noticed() {
    let (mut node, (mut far, ours)) = (node(), program(None).await);
    let mut incoming = Incoming::default();
    let (mut sender, receiver) = local_stream(&mut node, header(0, 0)).await;
    incoming.start(key(0), 0);
    incoming.take(receiver);
    let writer = tokio::spawn(async move {
        loop {
            let mut piece = Bytes::from(vec![5; 1 << 20]);
            if let Err(error) = sender.write(&mut piece).await {
                return error;
            }
        }
    });
    let mut delivered = 0;
    let reader = tokio::spawn(async move {
        // Nobody reads until the stream was given up.
        assert_eq!(writer.await.unwrap(), WriteError::Parked);
        let mut buffer = vec![0; 1 << 20];
        while far.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    });
    let noticed = loop {
        match timeout(SOON, incoming.step(&ours)).await.expect("a step") {
            IncomingStep::Delivered(count) => delivered += count,
            other => break other,
        }
    };
    assert!(matches!(noticed, IncomingStep::Room) && delivered > 0, "{noticed:?}");
    drop(ours);
    reader.await.unwrap();
}
