//! Foreground `run`, and `logs`: one stream of output, whatever happens to the
//! sidecar and wherever the capsule goes.

use admin_api::{
    Body, EnvVar, ErrorView, Frame, Request, Volume,
    frame::Moved,
    result::{InspectResult, LogsResult, RunResult},
};
use bytes::Bytes;

use crate::fake::{Call, FakeSidecar, code, document, ended, said, say, shown, signal, text};

fn started() -> Frame {
    Frame::Result(Body::of(&RunResult {
        capsule: "chat".into(),
        id: "c1".into(),
        host: "a".into(),
        generation: 1,
        locators: vec!["10.88.0.3".parse().unwrap()],
        ..RunResult::default()
    }))
}

fn out(text: &'static str) -> Frame {
    Frame::Stdout(Bytes::from_static(text.as_bytes()))
}

fn err(text: &'static str) -> Frame {
    Frame::Stderr(Bytes::from_static(text.as_bytes()))
}

/// Expects the call that goes on from a position.
async fn follow(fake: &FakeSidecar, position: u64, signals: bool) -> Call {
    let (request, mut call) = fake.call().await;
    let expected = Request::Follow { name: "chat".into(), id: "c1".into(), from_position: position, signals };
    assert_eq!(request, expected);
    // It is heard.
    say(&mut call, &[Frame::Position(position)]).await;
    call
}

async fn start(fake: &FakeSidecar) {
    let (request, mut call) = fake.call().await;
    assert!(matches!(request, Request::Run(_)));
    say(&mut call, &[started()]).await;
}

#[tokio::test]
async fn detached_it_returns_when_the_program_has_started() {
    let fake = FakeSidecar::start();
    let arguments = [
        "run",
        "chat",
        "--owner",
        "anna",
        "-e",
        "A=b c",
        "-v",
        "data:/data:shared",
        "-d",
        "--",
        "sh",
        "-c",
        "--json",
    ];
    let (request, output) = fake.answer(&arguments, &[started()]).await;
    let Request::Run(run) = request else { panic!("{request:?}") };
    assert_eq!((run.name.as_str(), run.owner.as_deref()), ("chat", Some("anna")));
    assert_eq!(run.argv, ["sh", "-c", "--json"]);
    assert_eq!(run.env, [EnvVar { name: "A".into(), value: "b c".into() }]);
    let source = std::env::current_dir().unwrap().join("data").display().to_string();
    assert_eq!(run.volumes, [Volume { source, destination: "/data".into(), shared: true }]);
    assert_eq!((code(output.status), text(&output.stdout)), (0, "chat runs on a at 10.88.0.3\n"));
}

#[tokio::test]
async fn in_the_foreground_output_and_code_are_the_programs() {
    let fake = FakeSidecar::start();
    let child = fake.spawn(&["run", "chat", "sh", "-c", "exit 7"]);
    start(&fake).await;
    let mut call = follow(&fake, 0, true).await;
    say(&mut call, &[out("one\n"), err("two\n"), Frame::Position(8), out("three"), Frame::Exit(137)]).await;
    let output = ended(child).await;
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("one\nthree", "two\n"));
    assert_eq!(code(output.status), 137);
}

#[tokio::test]
async fn a_move_neither_loses_nor_repeats_output() {
    let fake = FakeSidecar::start();
    let child = fake.spawn(&["run", "chat", "x"]);
    start(&fake).await;
    let mut call = follow(&fake, 0, true).await;
    // The last group is without its position: it comes again from the other host.
    say(&mut call, &[out("1 "), Frame::Position(2), out("2 "), Frame::Position(4), out("3 ")]).await;
    say(&mut call, &[Frame::Moved(Moved { to: "b".into(), generation: 2 })]).await;
    let mut call = follow(&fake, 4, true).await;
    say(&mut call, &[out("3 "), out("4 "), Frame::Position(8)]).await;
    say(&mut call, &[Frame::Moved(Moved { to: "c".into(), generation: 3 })]).await;
    let mut call = follow(&fake, 8, true).await;
    say(&mut call, &[out("5"), Frame::Position(9), Frame::Exit(0)]).await;
    let output = ended(child).await;
    assert_eq!((code(output.status), text(&output.stdout)), (0, "1 2 3 4 5"));
    assert_eq!(text(&output.stderr), "capsule: chat moved to b\ncapsule: chat moved to c\n");
}

#[tokio::test]
async fn a_sidecar_that_is_killed_neither_loses_nor_repeats_output() {
    let mut fake = FakeSidecar::start();
    let mut child = fake.spawn(&["run", "chat", "x"]);
    start(&fake).await;
    let mut call = follow(&fake, 0, true).await;
    say(&mut call, &[out("1 "), Frame::Position(2), out("2 ")]).await;
    assert_eq!(shown(&mut child, 2).await, "1 ");
    fake.die();
    drop(call);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    signal(&child, 15);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    fake.revive();
    let mut call = follow(&fake, 2, true).await;
    assert_eq!(said(&mut call).await, Frame::Signal(15), "the signal waited for the sidecar");
    say(&mut call, &[out("2 "), Frame::Position(4), Frame::Exit(143)]).await;
    let output = ended(child).await;
    assert_eq!((code(output.status), text(&output.stdout)), (143, "2 "));
    assert_eq!(text(&output.stderr).lines().count(), 1, "{}", text(&output.stderr));
}

/// The link between the hosts breaks; the program goes on.
#[tokio::test]
async fn a_host_that_can_not_be_asked_is_waited_for() {
    let fake = FakeSidecar::start();
    let child = fake.spawn(&["run", "chat", "x"]);
    start(&fake).await;
    let mut call = follow(&fake, 0, true).await;
    let away =
        || Frame::Error(ErrorView::new("link/host-away", "host b can't be asked").why("it is cut off"));
    say(&mut call, &[out("1 "), Frame::Position(2), out("2 "), away()]).await;
    // What was said to a sidecar that could not pass it on is said again.
    let (_, mut call) = fake.call().await;
    signal(&child, 15);
    assert_eq!(said(&mut call).await, Frame::Signal(15));
    say(&mut call, &[away()]).await;
    let (_, mut call) = fake.call().await;
    assert_eq!(said(&mut call).await, Frame::Signal(15));
    say(&mut call, &[Frame::Position(2), out("2 "), Frame::Position(4), Frame::Exit(7)]).await;
    let output = ended(child).await;
    assert_eq!((code(output.status), text(&output.stdout)), (7, "1 2 "));
    assert_eq!(text(&output.stderr), "capsule: host b can't be asked; chat goes on without it, waiting\n");
}

#[tokio::test]
async fn the_second_ctrl_c_leaves_a_program_whose_host_can_not_be_asked() {
    let fake = FakeSidecar::start();
    let child = fake.spawn(&["run", "chat", "x"]);
    start(&fake).await;
    let mut call = follow(&fake, 0, true).await;
    let away = Frame::Error(ErrorView::new("link/host-away", "host b can't be asked"));
    say(&mut call, &[away]).await;
    // This one says nothing for as long as the way to the host is being looked for.
    let (_, mut call) = fake.call().await;
    signal(&child, 2);
    assert_eq!(said(&mut call).await, Frame::Signal(2));
    signal(&child, 2);
    let output = ended(child).await;
    assert_eq!(code(output.status), 125);
    assert!(text(&output.stderr).contains("chat goes on out of sight"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn signals_go_to_the_program() {
    let fake = FakeSidecar::start();
    let child = fake.spawn(&["--json", "run", "chat", "x"]);
    start(&fake).await;
    let mut call = follow(&fake, 0, true).await;
    for number in [2, 15, 1, 10, 2] {
        signal(&child, number);
        assert_eq!(said(&mut call).await, Frame::Signal(number));
    }
    say(&mut call, &[out("bye"), Frame::Position(3), Frame::Exit(130)]).await;
    let output = ended(child).await;
    assert_eq!(code(output.status), 130);
    let document = document(&output);
    assert_eq!((&document["stdout"], &document["exit_code"]), (&"bye".into(), &130.into()));
    assert_eq!((&document["id"], &document["truncated"]), (&"c1".into(), &false.into()));
}

#[tokio::test]
async fn the_second_ctrl_c_leaves_a_program_that_is_out_of_reach() {
    let mut fake = FakeSidecar::start();
    let child = fake.spawn(&["run", "chat", "x"]);
    start(&fake).await;
    let call = follow(&fake, 0, true).await;
    fake.die();
    drop(call);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    signal(&child, 2);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    signal(&child, 2);
    let output = ended(child).await;
    assert_eq!(code(output.status), 125);
    assert!(text(&output.stderr).contains("chat goes on out of sight"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn logs_print_what_there_is_and_follow_goes_on() {
    let fake = FakeSidecar::start();
    let end = Frame::Result(Body::of(&LogsResult { capsule: "chat".into(), id: "c1".into(), position: 8 }));
    let frames = [out("one\n"), err("two\n"), Frame::Position(8), end];
    let (request, output) = fake.answer(&["logs", "chat"], &frames).await;
    assert_eq!(request, Request::Logs { name: "chat".into() });
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("one\n", "two\n"));
    let (_, output) = fake.answer(&["--json", "logs", "chat"], &frames).await;
    assert_eq!(document(&output)["stderr"], "two\n");

    let child = fake.spawn(&["logs", "-f", "chat"]);
    let (request, mut call) = fake.call().await;
    assert_eq!(request, Request::Inspect { name: "chat".into() });
    let mut inspect = InspectResult::default();
    inspect.capsule.id = "c1".into();
    say(&mut call, &[Frame::Result(Body::of(&inspect))]).await;
    let mut call = follow(&fake, 0, false).await;
    say(&mut call, &[out("1"), Frame::Position(1), Frame::Exit(9)]).await;
    let output = ended(child).await;
    assert_eq!((code(output.status), text(&output.stdout)), (0, "1"));
}
