//! `exec`: input, output, signals, code.

use std::process::Stdio;

use admin_api::{ErrorView, Frame, Request};
use bytes::Bytes;
use tokio::io::AsyncWriteExt;

use crate::fake::{FakeSidecar, code, document, ended, said, say, signal, text};

#[tokio::test]
async fn input_and_output_are_passed_on() {
    let fake = FakeSidecar::start();
    let mut child =
        fake.command(&["exec", "-w", "/tmp", "db", "cat", "--json"]).stdin(Stdio::piped()).spawn().unwrap();
    let (request, mut call) = fake.call().await;
    let Request::Exec(exec) = request else { panic!("{request:?}") };
    assert_eq!((exec.argv, exec.workdir.as_deref()), (vec!["cat".into(), "--json".into()], Some("/tmp")));
    let mut stdin = child.stdin.take().unwrap();
    let sent: Vec<u8> = (0..1_000_000u32).map(|number| number as u8).collect();
    let (expected, mut seen) = (sent.clone(), Vec::new());
    let writing = tokio::spawn(async move {
        stdin.write_all(&sent).await.unwrap();
        stdin.shutdown().await.unwrap();
    });
    loop {
        match said(&mut call).await {
            Frame::Stdin(bytes) => seen.extend_from_slice(&bytes),
            Frame::StdinEnd => break,
            other => panic!("{other:?}"),
        }
    }
    writing.await.unwrap();
    assert_eq!(seen, expected);
    let answering = tokio::spawn(async move {
        call.writer.write_bytes(Frame::Stdout, expected.into()).await.unwrap();
        say(&mut call, &[Frame::Stderr(Bytes::from_static(b"e")), Frame::Exit(3)]).await;
        seen
    });
    let output = ended(child).await;
    assert_eq!((code(output.status), text(&output.stderr)), (3, "e"));
    assert!(output.stdout == answering.await.unwrap());
}

#[tokio::test]
async fn signals_reach_it_while_its_input_waits() {
    let fake = FakeSidecar::start();
    let mut child =
        fake.command(&["--json", "exec", "db", "sleep", "9"]).stdin(Stdio::piped()).spawn().unwrap();
    let _open = child.stdin.take();
    let (_, mut call) = fake.call().await;
    signal(&child, 2);
    assert_eq!(said(&mut call).await, Frame::Signal(2));
    say(&mut call, &[Frame::Exit(130)]).await;
    let output = ended(child).await;
    assert_eq!((code(output.status), &document(&output)["exit_code"]), (130, &130.into()));
}

#[tokio::test]
async fn the_second_ctrl_c_leaves_a_program_that_takes_no_input() {
    let fake = FakeSidecar::start();
    let mut child = fake.command(&["exec", "db", "sleep", "9"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (_, _call) = fake.call().await;
    let filling = tokio::spawn(async move { stdin.write_all(&vec![0; 8 << 20]).await });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    signal(&child, 2);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    signal(&child, 2);
    assert_eq!(code(ended(child).await.status), 130);
    assert!(filling.await.unwrap().is_err());
}

#[tokio::test]
async fn a_move_ends_it_with_a_message() {
    let fake = FakeSidecar::start();
    let error = ErrorView::new("exec/moved", "cat ended").on("db").why("db moved to b").next("run it again");
    let frames = [Frame::Stdout(Bytes::from_static(b"half")), Frame::Error(error)];
    let (_, output) = fake.answer(&["exec", "db", "cat"], &frames).await;
    assert_eq!((code(output.status), text(&output.stdout)), (125, "half"));
    assert_eq!(text(&output.stderr), "error [exec/moved]: db: cat ended: db moved to b; run it again\n");
}
