//! `move`: progress, and Ctrl-C.

use admin_api::{
    Body, ErrorView, Frame, Memory, Progress, Request, RunState,
    result::{MoveBytes, MoveResult},
};

use crate::fake::{FakeSidecar, code, document, ended, line, said, say, signal, stderr_lines, text};

const INTERRUPT: i32 = 2;

fn moved() -> Frame {
    Frame::Result(Body::of(&MoveResult {
        capsule: "db".into(),
        from: "a".into(),
        to: "b".into(),
        generation: 8,
        blackout_ms: 516.0,
        duration_ms: 4200.0,
        phases_ms: [("quiesce", 3.0), ("hold", 4.0), ("dump", 239.0), ("attach", 9.0)].into_iter().collect(),
        sessions: 3,
        sessions_before: 3,
        anchored: 0,
        anchored_kept: false,
        bytes: MoveBytes { memory: 344 << 20, files: 0 },
        memory: "full".into(),
        already: false,
    }))
}

fn step(phase: &str, state: RunState, finished_ms: Option<f64>) -> Frame {
    Frame::Progress(Progress {
        phase: phase.into(),
        state,
        done_bytes: Some(210 << 20),
        total_bytes: Some(344 << 20),
        finished_ms,
        ..Progress::default()
    })
}

#[tokio::test]
async fn a_log_gets_a_line_for_each_finished_phase() {
    let fake = FakeSidecar::start();
    let frames = [
        step("files", RunState::Running, None),
        step("files", RunState::Running, Some(900.0)),
        step("dump", RunState::Paused, None),
        step("dump", RunState::Paused, Some(239.0)),
        moved(),
    ];
    let (request, output) = fake.answer(&["move", "db", "--to", "b", "--memory", "full"], &frames).await;
    let expected = Request::Move {
        name: "db".into(),
        to: "b".into(),
        memory: Memory::Full,
        keep_anchored: false,
        dry_run: false,
    };
    assert_eq!(request, expected);
    let told: Vec<_> = text(&output.stderr).lines().collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("files") && told[0].contains("db RUNNING") && told[0].contains("900 ms"));
    assert!(
        told[1].contains("dump") && told[1].contains("db PAUSED") && told[1].contains("210 MiB of 344 MiB")
    );
    let told = text(&output.stdout);
    assert!(told.starts_with("db moved a → b in 4.2 s: paused 516 ms, 3 of 3 sessions kept, generation 8."));
    assert!(told.contains("ms  quiesce 3 hold 4 dump 239 attach 9"), "{told}");

    let (_, output) = fake.answer(&["move", "db", "--to", "b", "--json"], &frames).await;
    let document = document(&output);
    assert_eq!(
        (&document["blackout_ms"], &document["bytes"]["memory"]),
        (&516.0.into(), &(344 << 20).into())
    );
    let (quiesce, attach) = (text(&output.stdout).find("quiesce"), text(&output.stdout).find("attach"));
    assert!(quiesce < attach, "phases keep their order");
}

#[tokio::test]
async fn ctrl_c_cancels_and_waits_for_the_outcome() {
    let fake = FakeSidecar::start();
    let mut child = fake.spawn(&["--json", "move", "db", "--to", "b"]);
    let (_, mut call) = fake.call().await;
    let mut told = stderr_lines(&mut child);
    signal(&child, INTERRUPT);
    assert_eq!(said(&mut call).await, Frame::Cancel);
    assert!(line(&mut told).await.starts_with("undoing the move of db"));
    signal(&child, INTERRUPT);
    assert!(line(&mut told).await.starts_with("still undoing the move of db"));
    let error = ErrorView::new("move/cancelled", "db stays on a and runs").on("db");
    say(&mut call, &[Frame::Error(error)]).await;
    assert!(line(&mut told).await.starts_with("error [move/cancelled]"));
    let output = ended(child).await;
    assert_eq!(code(output.status), 1);
    assert_eq!(document(&output)["error"]["code"], "move/cancelled");
}

#[tokio::test]
async fn a_cancel_that_came_too_late_is_a_move() {
    let fake = FakeSidecar::start();
    let child = fake.spawn(&["--json", "move", "db", "--to", "b"]);
    let (_, mut call) = fake.call().await;
    signal(&child, 15);
    assert_eq!(said(&mut call).await, Frame::Cancel);
    say(&mut call, &[moved()]).await;
    let output = ended(child).await;
    assert_eq!((code(output.status), &document(&output)["to"]), (0, &"b".into()));
}

#[tokio::test]
async fn a_dry_run_is_a_preflight() {
    let fake = FakeSidecar::start();
    let answer = admin_api::result::PreflightResult::default();
    let (request, output) =
        fake.answer(&["move", "db", "--to", "b", "--dry-run"], &[Frame::Result(Body::of(&answer))]).await;
    assert!(matches!(request, Request::Move { dry_run: true, .. }));
    assert_eq!((code(output.status), text(&output.stdout)), (0, "0 ok, 0 warn, 0 fail\n"));
}
