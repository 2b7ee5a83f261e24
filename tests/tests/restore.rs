//! The directory's data is destroyed and comes back from a backup: what happened in between comes from the hosts.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use testkit::{Host, Mesh, wait_until};
use tests::{SOON, Talk, end, move_to, place, start};

/// What a restored directory may take to hear all hosts that live: they look each five seconds, and then each second.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);

fn backup_of(mesh: &Mesh) -> PathBuf {
    let file = mesh.dir().join("directory.backup");
    mesh.directory().backup(&file);
    file
}

/// The hosts that the directory waits for, as a host was told.
fn awaited(host: &Host) -> Option<Vec<String>> {
    let answer = host.capsule(["--json", "hosts"]).ok().json();
    let name = |name: &Value| name.as_str().unwrap_or_default().to_owned();
    answer["awaited"].as_array().map(|names| names.iter().map(name).collect())
}

fn ready(mesh: &Mesh) -> (u16, String) {
    mesh.directory().host().http("/readyz").unwrap_or_default()
}

#[test]
fn capsules_go_on_and_are_found_where_they_are() {
    let mesh = Mesh::running("restore", &["a", "b", "c"]);
    let (a, b, c) = (mesh.host("a"), mesh.host("b"), mesh.host("c"));
    let mut talk = Talk::start(&a, &b);
    talk.ask_at(&b);
    for name in ["kept", "gone"] {
        start(&a, name, &["sleep", "1000"]);
    }
    let backup = backup_of(&mesh);
    // A move, a new capsule, one that is no more, and a host that joins.
    move_to(&a, "redis", "c");
    let moved = place(&b, "redis");
    start(&b, "new", &["sleep", "1000"]);
    let new = place(&b, "new");
    a.capsule(["rm", "--force", "gone"]).ok();
    mesh.start(&["late"]);
    let late = mesh.host("late");

    // c is not heard for now; its capsules run on.
    c.kill_sidecar();
    mesh.directory().lose(&backup);
    mesh.directory().start_unsettled();
    wait_until(SETTLED_WITHIN, "all but c", || awaited(&a).is_some_and(|hosts| hosts == ["c"]));
    let (status, page) = ready(&mesh);
    assert!(status == 503 && page.contains("hold: c"), "{page}");
    let refused = a.capsule(["move", "kept", "--to", "b"]).exits(1);
    assert!(
        refused.stderr.contains("restored from a backup") && refused.stderr.contains("c."),
        "{}",
        refused.stderr
    );
    assert!(
        a.capsule(["run", "-d", "more", "--", "sleep", "9"])
            .exits(1)
            .stderr
            .contains("restored from a backup")
    );
    assert_eq!(place(&b, "new"), new, "what a host knew it knows");

    c.start_sidecar();
    wait_until(SETTLED_WITHIN, "the end of the restore", || ready(&mesh).0 == 200);
    talk.goes_on();
    wait_until(SOON, "everything in its place", || {
        awaited(&a).is_none() && place(&a, "redis") == moved && place(&late, "new") == new
    });
    assert_eq!((place(&a, "kept").host.as_str(), place(&a, "kept").state.as_str()), ("a", "running"));
    assert_eq!(place(&a, "gone").state, "lost", "nobody has it");
    a.capsule(["rm", "gone"]).ok();
    // All is as before: it moves, also the new one, to the host that the backup did not know.
    move_to(&a, "redis", "a");
    talk.goes_on();
    move_to(&b, "new", "late");
    start(&c, "more", &["sleep", "1000"]);
    assert!(![&moved, &new].iter().any(|old| old.locators == place(&c, "more").locators));

    // Once more, with a host that does not come back. The newest move is one of those that are forgotten.
    move_to(&a, "redis", "b");
    c.kill();
    mesh.directory().lose(&backup);
    mesh.directory().start_unsettled();
    wait_until(SETTLED_WITHIN, "all but c", || awaited(&b).is_some_and(|hosts| hosts == ["c"]));
    wait_until(SETTLED_WITHIN, "its removal", || a.capsule(["hosts", "remove", "c"]).code == 0);
    wait_until(SETTLED_WITHIN, "the end of the restore", || ready(&mesh).0 == 200);
    wait_until(SOON, "everything in its place", || {
        place(&a, "redis").host == "b" && place(&a, "new").host == "late"
    });
    talk.goes_on();
    move_to(&a, "redis", "a");
    talk.goes_on();
    end(mesh);
}
