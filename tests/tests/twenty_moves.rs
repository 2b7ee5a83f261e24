//! Twenty moves in a row of a server and of its client, under load, on one connection; one over each family.

use std::time::Duration;

use testkit::{Host, Mesh};
use tests::{end, ended, locators, move_to, place, redis_clients, start, start_redis, tool};

const MOVES: usize = 20;
/// All moves must fit into it: it is checked that the client still counts after the last one.
const SECONDS: u64 = 50;

/// Starts a client that counts as fast as it can for `SECONDS`, moves `who` twenty times, and looks at both ends.
fn twenty_moves(mesh: &Mesh, place_of_server: &str, who: &str, route: [&str; 2]) {
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let (client, seconds) = (tool("db-client"), SECONDS.to_string());
    start(&b, "client", &[&client, "--redis", place_of_server, "--seconds", &seconds, "--json"]);
    let before = wait_connected(&a);
    let mut longest_ms = 0.0_f64;
    let first_generation = place(&a, who).generation;
    for number in 0..MOVES {
        let moved = move_to(&a, who, route[number % 2]);
        longest_ms = longest_ms.max(moved["blackout_ms"].as_f64().unwrap_or(f64::MAX));
        assert_eq!(redis_clients(&a, "redis"), std::slice::from_ref(&before), "after move {number}");
    }
    assert_eq!(place(&a, "client").state, "running", "the moves took longer than the load");
    assert!(place(&a, who).generation >= first_generation + MOVES as u64);
    let summary = ended(&a, "client", Duration::from_secs(SECONDS)).json();
    eprintln!("longest pause {longest_ms} ms; {summary}");
    assert_eq!(summary["ok"], true, "{summary}");
    assert_eq!((&summary["wrong"], &summary["reconnects"]), (&0.into(), &0.into()), "{summary}");
    assert_eq!(summary["same_addresses"], true, "{summary}");
    // What the client's kernel says is what Redis says.
    assert_eq!((&summary["local"], &summary["peer"]), (&before.address.into(), &before.local.into()));
    assert!(summary["operations"].as_u64() > Some(1000), "no load: {summary}");
}

#[track_caller]
fn wait_connected(host: &Host) -> tests::RedisClient {
    testkit::wait_for(Duration::from_secs(10), "the client's connection", || {
        let clients = redis_clients(host, "redis");
        (clients.len() == 1).then(|| clients[0].clone())
    })
}

#[test]
fn of_a_redis_server() {
    let mesh = Mesh::running("server20", &["a", "b", "c"]);
    start_redis(&mesh.host("a"), "redis");
    let (_, v6) = locators(&mesh.host("a"), "redis");
    twenty_moves(&mesh, &format!("[{v6}]:6379"), "redis", ["c", "a"]);
    end(mesh);
}

#[test]
fn of_its_client() {
    let mesh = Mesh::running("client20", &["a", "b", "c"]);
    start_redis(&mesh.host("a"), "redis");
    let (v4, _) = locators(&mesh.host("a"), "redis");
    twenty_moves(&mesh, &format!("{v4}:6379"), "client", ["c", "b"]);
    end(mesh);
}
