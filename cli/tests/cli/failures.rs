//! What is said when it does not work.

use admin_api::{Body, ErrorView, Frame};
use serde_json::json;

use crate::fake::{FakeSidecar, capsule, code, document, ended, text};

fn refused() -> Frame {
    Frame::Error(
        ErrorView::new("move/refused", "db stays on a and runs")
            .on("db")
            .why("it uses io_uring")
            .next("capsule preflight db --to b")
            .detail("move/io-uring", "pid 41 has 3 rings", "io_method=worker"),
    )
}

#[tokio::test]
async fn without_a_sidecar_it_says_where_it_looked() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock").display().to_string();
    let output = ended(capsule(&["ps", "--admin", &socket]).spawn().unwrap()).await;
    assert_eq!((code(output.status), text(&output.stdout)), (1, ""));
    let told = text(&output.stderr);
    assert!(told.starts_with(&format!("error [sidecar/away]: no sidecar answers at {socket}")), "{told}");
    assert!(told.contains("start it with") && told.contains("--admin PATH picks another"));
    assert_eq!(told.lines().count(), 1);

    let output = ended(capsule(&["--json", "--admin", &socket, "hosts"]).spawn().unwrap()).await;
    assert_eq!(code(output.status), 1);
    assert_eq!(document(&output)["error"]["code"], "sidecar/away");
}

#[tokio::test]
async fn a_refusal_is_one_line_and_its_causes() {
    let fake = FakeSidecar::start();
    let (_, output) = fake.answer(&["move", "db", "--to", "b"], &[refused()]).await;
    assert_eq!((code(output.status), text(&output.stdout)), (1, ""));
    assert_eq!(
        text(&output.stderr),
        "error [move/refused]: db stays on a and runs: it uses io_uring; capsule preflight db --to b\n  \
         [move/io-uring]  pid 41 has 3 rings   io_method=worker\n"
    );
    let (_, output) = fake.answer(&["move", "db", "--to", "b", "--json"], &[refused()]).await;
    assert_eq!(code(output.status), 1);
    assert_eq!(
        document(&output),
        json!({"error": {"code": "move/refused", "what": "db stays on a and runs", "on": "db",
            "why": "it uses io_uring", "next": "capsule preflight db --to b", "details": [
                {"code": "move/io-uring", "evidence": "pid 41 has 3 rings", "remedy": "io_method=worker"}]}})
    );
}

#[tokio::test]
async fn foreground_run_and_exec_say_125_when_nothing_started() {
    let fake = FakeSidecar::start();
    for (arguments, expected) in [
        (&["--json", "run", "db", "--", "x"][..], 125),
        (&["--json", "run", "-d", "db", "x"], 1),
        (&["--json", "exec", "db", "x"], 125),
    ] {
        let (_, output) = fake.answer(arguments, &[refused()]).await;
        assert_eq!(code(output.status), expected, "{arguments:?}");
        assert_eq!(document(&output)["error"]["code"], "move/refused");
    }
}

#[tokio::test]
async fn a_sidecar_that_goes_away_or_talks_nonsense() {
    let fake = FakeSidecar::start();
    let (_, output) = fake.answer(&["--json", "stop", "db"], &[]).await;
    assert_eq!((code(output.status), &document(&output)["error"]["code"]), (1, &json!("sidecar/gone")));
    let nonsense = Frame::Result(Body::of(&json!({"capsules": 7})));
    let (_, output) = fake.answer(&["--json", "ps"], &[nonsense]).await;
    assert_eq!((code(output.status), &document(&output)["error"]["code"]), (1, &json!("sidecar/version")));
    let (_, output) = fake.answer(&["--json", "move", "db", "--to", "b"], &[]).await;
    let error = &document(&output)["error"];
    assert!(error["next"].as_str().unwrap().contains("capsule ps"), "{error}");
}

#[tokio::test]
async fn usage_is_2_and_near_words_are_suggested() {
    for (arguments, told) in [
        (&["migrate", "db"][..], "did you mean capsule move?"),
        (&["ls"], "did you mean capsule ps?"),
        (&["checkpoint", "db"], "did you mean capsule suspend?"),
        (&["sesions"], "did you mean capsule sessions?"),
        (&["move", "db"], "--to <HOST>"),
        (&["move", "db", "--to", "b", "--memory", "x"], "precopy"),
        (&["run", "docker.io/postgres", "x"], "looks like an image"),
        (&["run", "db"], "CMD"),
        (&["run", "-v", "/a", "db", "x"], "SRC:DST"),
    ] {
        let output = ended(capsule(arguments).spawn().unwrap()).await;
        assert_eq!((code(output.status), text(&output.stdout)), (2, ""), "{arguments:?}");
        assert!(text(&output.stderr).contains(told), "{told}: {}", text(&output.stderr));

        let json: Vec<_> = ["--json"].iter().chain(arguments).copied().collect();
        let output = ended(capsule(&json).spawn().unwrap()).await;
        assert_eq!(code(output.status), 2, "{json:?}");
        assert_eq!(document(&output)["error"]["code"], "usage");
    }
}

#[tokio::test]
async fn a_reader_that_left_is_no_failure_to_tell_of() {
    let fake = FakeSidecar::start();
    let mut child = fake.spawn(&["ps"]);
    drop(child.stdout.take());
    let (_, mut call) = fake.call().await;
    crate::fake::say(&mut call, &[Frame::Result(Body::of(&json!({"capsules": []})))]).await;
    let output = ended(child).await;
    assert_eq!((code(output.status), text(&output.stderr)), (141, ""));
}
