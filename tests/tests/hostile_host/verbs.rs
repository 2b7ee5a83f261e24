//! Verbs that a host may only read by.

use super::*;

/// Whether a verb was refused because the host that passes it on may only read.
#[track_caller]
fn is_refused(answer: &Result<admin_api::Body, AskError>) -> bool {
    matches!(answer, Err(AskError::Refused(view)) if view.code == "admin/not-operator")
}

#[test]
fn a_host_without_operator_rights_only_reads() {
    let mesh = Mesh::running("rights", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    for (host, name) in [(&a, "near"), (&b, "far")] {
        start(host, name, &["sleep", "600"]);
    }
    let evil = Evil::join(&mesh, &[&a, &b]);
    let before = places(&a);
    let (id, wire) = (capsule_id(&a, "near"), evil.link(&a));
    let text = str::to_owned;
    // As passed on by itself, as if asked at a's own socket, and in the name of a host that may.
    for by in [Some("evil"), None, Some("b"), Some("a")] {
        for name in ["near", "far", "nobody"] {
            let run = Run { name: text(name), argv: vec![text("sleep"), text("1")], ..Run::default() };
            let inside = Exec { name: text(name), argv: vec![text("true")], ..Exec::default() };
            let acts = [
                Request::Run(run),
                Request::Exec(inside),
                Request::Start { name: text(name) },
                Request::Stop { name: text(name), timeout_s: 1 },
                Request::Rm { name: text(name), force: true, local: false },
                Request::Rm { name: text(name), force: false, local: false },
                Request::Move {
                    name: text(name),
                    to: text("b"),
                    memory: Memory::Auto,
                    keep_anchored: false,
                    dry_run: false,
                },
                Request::Follow { name: text(name), id: id.clone(), from_position: 0, signals: true },
            ];
            for request in acts {
                let answer = evil.ask(&wire, request.clone(), by);
                assert!(is_refused(&answer), "{request:?} by {by:?}: {answer:?}");
            }
        }
    }
    assert_eq!(places(&a), before);
    let reads = [
        Request::Ps { local: false },
        Request::Ps { local: true },
        Request::Hosts,
        Request::Resolve { name: text("far") },
        Request::Inspect { name: text("near") },
        Request::Logs { name: text("near") },
        Request::Sessions { name: None },
        Request::Sessions { name: Some(text("near")) },
        Request::Preflight { name: None, to: None },
        Request::Move {
            name: text("near"),
            to: text("b"),
            memory: Memory::Auto,
            keep_anchored: false,
            dry_run: true,
        },
    ];
    for request in reads {
        let answer = evil.ask(&wire, request.clone(), Some("evil"));
        assert!(answer.is_ok(), "{request:?}: {answer:?}");
    }
    for name in ["near", "far"] {
        exec(&b, name, &["true"]).ok();
    }
    assert_eq!(places(&a), before);
    [&a, &b].into_iter().for_each(is_well);
    end(mesh);
}
