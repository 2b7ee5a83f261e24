//! Capsules whose host was removed from the mesh: any host with operator rights removes them, and nobody else.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Host, Mesh, wait_until};
use tests::{Talk, capsule_id, end, ended, nothing_left_of, place, places, start_redis};

/// What everybody together may take to agree, with a host that is away.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// Whether a host keeps a frozen copy of this capsule.
fn keeps_copy(host: &Host, id: &str) -> bool {
    let listed = host.capsule(["--json", "ps"]).ok().json();
    let all = listed["capsules"].as_array().cloned().unwrap_or_default();
    all.iter().any(|capsule: &Value| capsule["id"] == id && capsule["state"] == "superseded")
}

/// The directory's answer to a question for the addresses of a capsule, as `dig` shows it.
fn asked(host: &Host, mesh: &Mesh, name: &str) -> String {
    let server = format!("@{}", mesh.directory().host().address());
    host.run(["dig", "+tries=1", "+time=5", &server, &format!("{name}.capsule.internal"), "A"]).ok().stdout
}

/// Joins `guest` without operator rights.
fn join_guest(mesh: &Mesh) -> Host {
    let (directory, guest) = (mesh.directory(), mesh.host("guest"));
    let data = directory.host().data().display().to_string();
    let token = ["token", "--data", &data, "--host", "guest", "--no-operator"];
    guest.join_with(directory, directory.command(&token).ok().stdout.trim()).ok();
    guest.start_sidecar();
    guest
}

#[test]
fn capsules_of_a_removed_host_are_removed_by_another() {
    let mesh = Mesh::running("orphans", &["a", "b"]);
    let (a, b, guest) = (mesh.host("a"), mesh.host("b"), join_guest(&mesh));
    Talk::start(&a, &b);
    let id = capsule_id(&a, "redis");
    a.kill_sidecar();

    // A host that is silent may come back.
    let refused = b.capsule(["--json", "rm", "--force", "redis"]).exits(1).json();
    assert_eq!(refused["error"]["code"], "link/host-away", "{refused}");
    let next = refused["error"]["next"].as_str().unwrap_or_default();
    assert!(next.contains("capsule hosts remove a, then capsule rm redis"), "{refused}");
    assert!(places(&b).iter().any(|place| place.name == "redis"));

    b.capsule(["hosts", "remove", "a", "--force"]).ok();
    for host in [&b, &guest] {
        wait_until(SETTLED_WITHIN, "the loss of the capsule", || place(host, "redis").state == "lost");
    }
    assert_eq!(place(&b, "counter").state, "running", "its connection is held");
    let refused = guest.capsule(["--json", "rm", "redis"]).exits(1).json();
    assert_eq!(refused["error"]["code"], "rm/directory", "{refused}");
    assert_eq!(refused["error"]["next"], "run the command on a host with operator rights", "{refused}");
    assert!(asked(&b, &mesh, "redis").contains("status: NOERROR"));

    let removed = b.capsule(["--json", "rm", "redis"]).ok().json();
    assert_eq!((&removed["capsule"], &removed["id"]), (&"redis".into(), &id.as_str().into()), "{removed}");
    wait_until(SETTLED_WITHIN, "its end", || places(&b).iter().all(|place| place.name != "redis"));
    let answer = asked(&b, &mesh, "redis");
    assert!(answer.contains("status: NXDOMAIN"), "{answer}");
    // Its connection is reset, and its name is free.
    let client = ended(&b, "counter", SETTLED_WITHIN);
    assert!(client.code == 1 && client.stderr.contains("Connection reset by peer"), "{client:?}");
    start_redis(&b, "redis");
    assert_eq!(removal(&mesh), ["host b".into(), json!("b"), json!("redis")]);

    // Its host lives all the same, joins again, and keeps what it has until a person says otherwise.
    a.join_and_start(mesh.directory());
    wait_until(SETTLED_WITHIN, "the frozen copy", || keeps_copy(&a, &id));
    a.capsule(["rm", "--local", "redis"]).ok();
    nothing_left_of(&a, &id);
    assert_eq!(place(&b, "redis").state, "running");
    end(mesh);
}

/// Who removed a capsule, by the audit log: the host that asked, the host where it was typed, and the capsule.
fn removal(mesh: &Mesh) -> [Value; 3] {
    let data = mesh.directory().host().data().display().to_string();
    let told = mesh.directory().command(&["audit", "--json", "--data", &data]).ok().json();
    let entries = told["entries"].as_array().cloned().unwrap_or_default();
    let removed: Vec<_> = entries.iter().filter(|entry| entry["verb"] == "remove").collect();
    assert_eq!(removed.len(), 1, "{entries:?}");
    [removed[0]["by"].clone(), removed[0]["asked_by"]["host"].clone(), removed[0]["name"].clone()]
}
