//! A mesh with a gateway, and a machine outside it.

use std::time::Duration;

use serde_json::Value;
use testkit::{Host, Mesh, wait_until};

use crate::Ended;

/// Hosts `a` and `b`, a gateway `g`, and a machine without a sidecar.
#[track_caller]
pub fn mesh_with_gateway(name: &str) -> (Mesh, Host) {
    mesh_configured(name, "")
}

/// The same, with these settings of the gateway.
#[track_caller]
pub fn mesh_configured(name: &str, gateway: &str) -> (Mesh, Host) {
    let mesh = Mesh::new(name);
    mesh.host("g").be_gateway();
    mesh.host("g").configure(gateway);
    for host in ["a", "b"] {
        mesh.host(host).configure("outside_via = \"g\"");
    }
    mesh.start(&["a", "b", "g"]);
    let outsider = mesh.host("outsider");
    let serves = || mesh.host("a").capsule(["published", "--gateway", "g"]).code == 0;
    wait_until(Duration::from_secs(10), "the gateway serves", serves);
    (mesh, outsider)
}

/// Kills a sidecar, and starts the next one.
#[track_caller]
pub fn replace_sidecar(host: &Host) {
    host.kill_sidecar();
    host.start_sidecar();
}

/// Publishes a port; what the command answers.
#[track_caller]
pub fn publish(host: &Host, words: &[&str]) -> Value {
    host.capsule([&["--json", "publish"], words].concat()).ok().json()
}

/// What gateways publish.
#[track_caller]
pub fn published(host: &Host) -> Vec<Value> {
    let answer = host.capsule(["--json", "published"]).ok().json();
    answer["published"].as_array().expect("a list").clone()
}

/// Looks at what the player of a game of `seconds` saw while sidecars were killed so many times.
///
/// # Panics
/// When datagrams were damaged or came twice, or more are lost than kills cost.
#[track_caller]
pub fn game_went_on(seen: &Ended, seconds: u64, kills: u64) {
    let last = seen.stdout.lines().last().unwrap_or_default();
    let seen: Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error} in {seen:?}"));
    eprintln!("a game with {kills} kills: {seen}");
    let number = |name: &str| seen[name].as_u64().unwrap_or_else(|| panic!("no {name} in {seen}"));
    assert_eq!((number("damaged"), number("repeated")), (0, 0), "{seen}");
    assert!(number("sent") > seconds * 45, "{seen}");
    // What is on its way in sidecars: a third of a second's of sixty a second, for each.
    assert!(number("lost") <= kills * 20, "{seen}");
}
