//! Verbs with one answer: for people, for programs, and by exit code.

use admin_api::{
    Body, Frame, Request,
    result::{
        CapsuleState, CapsuleView, CheckView, Direction, HostView, HostsResult, Level, PreflightResult,
        PsResult, SessionKind, SessionState, SessionView, SessionsResult,
    },
};
use serde_json::json;

use crate::fake::{FakeSidecar, capsule, code, document, ended, say, text};

fn db() -> CapsuleView {
    CapsuleView {
        name: "db".into(),
        id: "00112233445566778899aabbccddeeff".into(),
        state: CapsuleState::Moving,
        host: Some("a".into()),
        generation: 7,
        locators: vec!["10.88.0.2".parse().unwrap(), "fd88::2".parse().unwrap()],
        owner: "anna".into(),
        sessions: Some(3),
        memory_bytes: Some(344 << 20),
        moving_to: Some("b".into()),
        phase: Some("files".into()),
        ..CapsuleView::default()
    }
}

fn result<T: serde::Serialize>(answer: &T) -> Frame {
    Frame::Result(Body::of(answer))
}

#[tokio::test]
async fn an_empty_list_is_a_list() {
    let fake = FakeSidecar::start();
    for (arguments, answer, expected) in [
        (["--json", "ps"], result(&PsResult::default()), json!({"capsules": []})),
        (
            ["sessions", "--json"],
            result(&SessionsResult::default()),
            json!({"sessions": [], "policy": {"denied_in": 0, "denied_out": 0, "ended_sessions": 0, "last_denied": null}}),
        ),
        (["hosts", "--json"], result(&HostsResult::default()), json!({"hosts": []})),
    ] {
        let (_, output) = fake.answer(&arguments, &[answer]).await;
        assert_eq!(document(&output), expected);
        assert_eq!((code(output.status), text(&output.stderr)), (0, ""));
    }
}

#[tokio::test]
async fn ps_shows_the_mesh() {
    let fake = FakeSidecar::start();
    let answer = [result(&PsResult { capsules: vec![db()] })];
    let (request, output) = fake.answer(&["ps"], &answer).await;
    assert_eq!(request, Request::Ps { local: false });
    let lines: Vec<_> = text(&output.stdout).lines().collect();
    assert!(lines[0].starts_with("NAME  STATE"), "{lines:?}");
    for word in ["db", "moving→b files", "10.88.0.2", "344 MiB", "anna"] {
        assert!(lines[1].contains(word), "{word}: {lines:?}");
    }
    let (request, output) = fake.answer(&["ps", "-q", "--local"], &answer).await;
    assert_eq!(request, Request::Ps { local: true });
    assert_eq!(text(&output.stdout), "db\n");
    let (_, output) = fake.answer(&["ps", "--json"], &answer).await;
    let capsule = &document(&output)["capsules"][0];
    assert_eq!(capsule["created_at"], "1970-01-01T00:00:00.000Z");
    assert_eq!(capsule["locators"], json!(["10.88.0.2", "fd88::2"]));
    assert_eq!(capsule["state"], "moving");
}

#[tokio::test]
async fn a_piped_table_is_never_cut_nor_coloured() {
    let fake = FakeSidecar::start();
    let owner = "o".repeat(300);
    let capsules = vec![CapsuleView { owner: owner.clone(), ..db() }];
    let child = fake.command(&["ps"]).env("COLUMNS", "20").env("TERM", "xterm").spawn().unwrap();
    let (_, mut call) = fake.call().await;
    say(&mut call, &[result(&PsResult { capsules })]).await;
    let output = ended(child).await;
    assert!(text(&output.stdout).contains(&owner));
    assert_eq!(text(&output.stdout).lines().count(), 2);
    assert!(!text(&output.stdout).contains('\x1b'));
}

#[tokio::test]
async fn colour_and_ascii_follow_flag_and_locale() {
    let fake = FakeSidecar::start();
    let child = fake.command(&["ps", "--color", "always"]).env("LC_ALL", "C").spawn().unwrap();
    let (_, mut call) = fake.call().await;
    say(&mut call, &[result(&PsResult { capsules: vec![db()] })]).await;
    let output = ended(child).await;
    assert!(text(&output.stdout).contains('\x1b') && text(&output.stdout).is_ascii());
    assert!(text(&output.stdout).contains("moving->b files"));
}

#[tokio::test]
async fn sessions_tell_both_ends() {
    let fake = FakeSidecar::start();
    let session = SessionView {
        id: "7f3a09c1000000000000000000000000".into(),
        kind: SessionKind::Udp,
        capsule: "db".into(),
        direction: Direction::In,
        local: "10.88.0.2:5432".parse().unwrap(),
        remote: "10.88.0.3:41022".parse().unwrap(),
        outside: None,
        anchored: None,
        peer_capsule: Some("chat".into()),
        peer_state: None,
        peer_host: Some("b".into()),
        state: SessionState::Held,
        state_s: Some(240),
        bytes_in: 31 << 20,
        bytes_out: 5,
        buffered_bytes: 0,
        buffer_limit_bytes: 262_144,
        age_s: 7200,
        datagrams_in: Some(7),
        datagrams_out: Some(1),
        quiet_s: Some(0),
    };
    let answer = [result(&SessionsResult { sessions: vec![session], ..SessionsResult::default() })];
    let (request, output) = fake.answer(&["sessions", "db"], &answer).await;
    assert_eq!(request, Request::Sessions { name: Some("db".into()) });
    let row = text(&output.stdout).lines().nth(1).unwrap();
    for word in ["7f3a09c1", "udp", "in", "10.88.0.2:5432", "chat 10.88.0.3:41022", "held 4m", "31 MiB", "2h"]
    {
        assert!(row.contains(word), "{word}: {row}");
    }
    let (_, output) = fake.answer(&["--json", "sessions"], &answer).await;
    assert_eq!(document(&output)["sessions"][0]["buffered_bytes"], 0);
}

#[tokio::test]
async fn preflight_exits_1_only_when_a_check_fails() {
    let fake = FakeSidecar::start();
    for (level, exit) in [(Level::Ok, 0), (Level::Warn, 0), (Level::Fail, 1)] {
        let check = CheckView {
            group: "link a→b".into(),
            code: "link/udp-blocked".into(),
            level,
            evidence: "no answer".into(),
            remedy: "open UDP 4433".into(),
        };
        let answer = [result(&PreflightResult { checks: vec![check], ..PreflightResult::default() })];
        let (request, output) = fake.answer(&["preflight", "db", "--to", "b"], &answer).await;
        assert_eq!(request, Request::Preflight { name: Some("db".into()), to: Some("b".into()) });
        assert_eq!(code(output.status), exit);
        assert!(text(&output.stdout).starts_with(&format!("link a→b  {level:<4}")));
        let (_, output) = fake.answer(&["preflight", "--json"], &answer).await;
        assert_eq!(code(output.status), exit);
        assert_eq!(document(&output)["checks"][0]["level"], level.as_str());
    }
}

#[tokio::test]
async fn alone_it_says_how_things_are_and_what_to_do() {
    let fake = FakeSidecar::start();
    let child = fake.spawn(&[]);
    let host = |name: &str, here| HostView { name: name.into(), here, ..HostView::default() };
    let (request, mut call) = fake.call().await;
    assert_eq!(request, Request::Hosts);
    let hosts = vec![host("a", true), host("b", false)];
    say(&mut call, &[result(&HostsResult { hosts, awaited: None })]).await;
    let (request, mut call) = fake.call().await;
    assert_eq!(request, Request::Ps { local: true });
    say(&mut call, &[result(&PsResult { capsules: vec![db()] })]).await;
    let output = ended(child).await;
    let text = text(&output.stdout);
    assert!(text.starts_with("host a: 1 capsule; other hosts: b") && text.contains("capsule run NAME"));
    assert!(text.lines().count() <= 12, "{text}");
}

#[tokio::test]
async fn hints_of_a_newer_sidecar_do_no_harm() {
    let fake = FakeSidecar::start();
    let child = fake.spawn(&["--json", "ps"]);
    let (_, mut call) = fake.call().await;
    let hint = admin_api::RawFrame { kind: 0xf0, payload: bytes::Bytes::from_static(b"?") };
    call.writer.write_raw(&hint).await.unwrap();
    let newer = json!({"capsules": [{"name": "x", "id": "1", "state": "dreaming", "generation": 1,
        "locators": [], "owner": "o", "created_at": "2026-11-23T19:16:00Z", "colour": "red"}]});
    say(&mut call, &[Frame::Result(Body::of(&newer))]).await;
    let output = ended(child).await;
    assert_eq!(document(&output)["capsules"][0]["state"], "unknown");
}

#[tokio::test]
async fn completion_and_man_need_no_sidecar() {
    for shell in ["bash", "zsh", "fish"] {
        let output = ended(capsule(&["completion", shell]).spawn().unwrap()).await;
        assert!(output.status.success() && text(&output.stdout).contains("preflight"));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("man").display().to_string();
    let output = ended(capsule(&["--json", "man", &path]).spawn().unwrap()).await;
    assert_eq!(document(&output), json!({"directory": path}));
    assert!(dir.path().join("man/capsule-move.1").exists());
}
