//! The CA gets another root under a mesh that works.

use std::time::Duration;

use serde_json::Value;
use testkit::{Host, Mesh, Output, wait_until};
use tests::{Peer, Talk, checked, end, ended, move_to};

/// What a step may take until every host is ready for it: some leases of three seconds, and a busy machine.
const STEP_WITHIN: Duration = Duration::from_secs(60);

const STREAM_BYTES: u64 = 16 << 20;
const STREAM_ENDS_WITHIN: Duration = Duration::from_secs(60);

fn rotate_root(mesh: &Mesh, flags: &[&str]) -> Output {
    let data = mesh.directory().host().data().display().to_string();
    mesh.directory().command(&[&["rotate-root", "--data", &data], flags].concat())
}

/// Which link there is from one host to another, counted since the sidecar's start.
#[track_caller]
fn link_serial(from: &Host, to: &Host) -> u64 {
    let hosts = from.capsule(["--json", "hosts"]).ok().json();
    let all = hosts["hosts"].as_array().cloned().unwrap_or_default();
    let host = all.iter().find(|host: &&Value| host["name"] == to.name()).expect("it is listed");
    host["link"]["serial"].as_u64().expect("it has a link")
}

/// A file with certificates, without regard to where its lines end.
fn certificates(of: &Host, file: &str) -> String {
    let path = of.data().join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.split_whitespace().collect()
}

#[test]
fn connections_go_on_while_the_root_is_replaced() {
    let mesh = Mesh::new("newroot");
    mesh.directory().configure("lease_seconds = 3");
    mesh.directory().start();
    mesh.start(&["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut talk = Talk::start(&a, &b);
    let bytes = STREAM_BYTES.to_string();
    let flags = ["--send", &bytes, "--receive", &bytes, "--rate", "1M"];
    Peer::listen(&a, "sink", &flags);
    Peer::connect(&b, "source", "sink.capsule.internal:7000", &flags);
    let serials = || [link_serial(&a, &b), link_serial(&b, &a)];
    let (links, root) = (serials(), certificates(mesh.directory().host(), "ca.pem"));
    let own = [&a, &b].map(|host| certificates(host, "identity/cert.pem"));

    for step in ["the next root", "the next root to sign", "the last root to go"] {
        wait_until(STEP_WITHIN, step, || rotate_root(&mesh, &[]).code == 0);
        talk.goes_on();
    }
    let status = rotate_root(&mesh, &["--status"]).ok();
    assert!(status.stderr.contains("not being replaced"), "{status:?}");
    let fresh = certificates(mesh.directory().host(), "ca.pem");
    assert_ne!(fresh, root);
    for (host, own) in [&a, &b].into_iter().zip(own) {
        wait_until(STEP_WITHIN, "the last root to be forgotten", || {
            certificates(host, "identity/ca.pem") == fresh
        });
        assert_ne!(certificates(host, "identity/cert.pem"), own, "{} has its old certificate", host.name());
    }
    assert_eq!(serials(), links, "a link was made anew");
    talk.goes_on();

    // What is made anew is made by the new certificates: links, and a host.
    a.kill_sidecar();
    a.start_sidecar();
    talk.goes_on();
    mesh.start(&["c"]);
    move_to(&a, "redis", "c");
    talk.goes_on();
    for (host, name) in [(&b, "source"), (&a, "sink")] {
        checked(&ended(host, name, STREAM_ENDS_WITHIN), STREAM_BYTES, STREAM_BYTES);
    }
    end(mesh);
}
