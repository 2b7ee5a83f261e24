//! Who may connect to whom: by owner, by rule, wherever the capsules are, and while connections are open.

use std::time::Duration;

use serde_json::Value;
use testkit::{Host, Mesh, wait_for, wait_until};
use tests::{
    RedisClient, capsule_file, end, exec, locators, move_to, place, redis_clients, resume, run, suspend,
    tool, wait_logged,
};

/// Far less than a program would wait for a host that is merely away.
const AT_ONCE_MS: f64 = 2_000.0;
/// What a change may take to end the sessions that it forbids.
const SOON: Duration = Duration::from_secs(10);

/// Starts a Redis server that belongs to ann, and gives its IPv4 locator.
#[track_caller]
fn ann_serves(host: &Host) -> String {
    run(host, "redis", &["--owner", "ann"], &["redis-server", "--save", "", "--protected-mode", "no"]);
    wait_logged(host, "redis", "Ready to accept connections");
    locators(host, "redis").0
}

/// Starts a capsule from which connects are tried.
#[track_caller]
fn idle(host: &Host, name: &str, owner: &str) {
    run(host, name, &["--owner", owner], &["sleep", "600"]);
}

/// Starts a client of Redis that counts on one connection for as long as it stays open.
#[track_caller]
fn counter(host: &Host, name: &str, owner: &str) {
    let argv =
        [&tool("db-client"), "--redis", "redis:6379", "--name", name, "--rate", "50", "--seconds", "600"];
    run(host, name, &["--owner", owner], &argv);
}

/// Connects once: the word for what became of it.
#[track_caller]
fn probe(host: &Host, capsule: &str, place: &str) -> String {
    let answer = exec(host, capsule, &[&tool("probe"), "connect", place]).ok().json();
    let outcome = answer["outcome"].as_str().unwrap_or_default().to_owned();
    if outcome == "EHOSTUNREACH" {
        assert!(answer["ms"].as_f64().unwrap_or(f64::MAX) < AT_ONCE_MS, "denied late: {answer}");
    }
    outcome
}

#[track_caller]
fn policy(host: &Host, words: &[&str]) -> Value {
    host.capsule([&["--json", "policy"], words].concat()).ok().json()
}

/// What `policy test` says, which its exit code says too.
#[track_caller]
fn allowed(host: &Host, from: &str, to: &str, port: &str) -> bool {
    let output = host.capsule(["--json", "policy", "test", from, to, port]);
    let allowed = output.json()["allowed"].as_bool().unwrap_or_default();
    assert_eq!(output.code, i32::from(!allowed), "{output:?}");
    allowed
}

/// What `inspect` counts of the policy.
#[track_caller]
fn counts(host: &Host, capsule: &str) -> Value {
    host.capsule(["--json", "inspect", capsule]).ok().json()["policy"].clone()
}

/// Waits until Redis has so many clients, and gives them.
#[track_caller]
fn clients(host: &Host, number: usize) -> Vec<RedisClient> {
    wait_for(SOON, &format!("{number} clients"), || {
        Some(redis_clients(host, "redis")).filter(|clients| clients.len() == number)
    })
}

#[track_caller]
fn wait_ended(host: &Host, name: &str) {
    wait_until(SOON, &format!("{name}'s program to see its connection end"), || {
        place(host, name).state == "stopped"
    });
}

#[test]
fn owners_are_apart_until_a_rule_says_otherwise() {
    let mesh = Mesh::running("policy", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let redis = format!("{}:6379", ann_serves(&a));
    idle(&b, "mate", "ann");
    idle(&b, "shell", "bob");
    idle(&a, "near", "bob");
    assert_eq!(probe(&b, "mate", &redis), "connected");
    assert!(allowed(&b, "mate", "redis", "6379") && !allowed(&b, "shell", "redis", "6379"));
    assert_eq!(counts(&a, "redis")["denied_in"], 0);
    for (host, capsule) in [(&b, "shell"), (&a, "near")] {
        assert_eq!(probe(host, capsule, &redis), "EHOSTUNREACH", "{capsule}");
        assert_eq!(counts(&b, capsule)["denied_out"], 1, "{capsule}");
    }
    let counted = counts(&b, "redis");
    assert_eq!(
        (&counted["denied_in"], &counted["last_denied"]["from"]),
        (&2.into(), &"near".into()),
        "{counted}"
    );
    assert_eq!(b.capsule(["--json", "sessions", "redis"]).ok().json()["policy"]["denied_in"], 2);
    let (_, metrics) = a.http("/metrics").unwrap();
    let told = "capsule_policy_denied_connects_total{direction=\"in\"} 2";
    assert!(metrics.contains(told), "{metrics}");

    // From the moment at which it is made, on every host; only what it names.
    policy(&b, &["allow", "bob/sh*", "redis", "6379"]);
    assert_eq!(probe(&b, "shell", &redis), "connected");
    assert_eq!(probe(&b, "shell", &redis.replace("6379", "6380")), "EHOSTUNREACH");
    assert_eq!(probe(&b, "mate", &redis.replace("6379", "6380")), "ECONNREFUSED");
    assert_eq!(probe(&a, "near", &redis), "EHOSTUNREACH");
    let listed = policy(&a, &["show", "shell"]);
    let rule = &listed["rules"][0];
    let said =
        ["effect", "from", "to", "ports", "set_by"].map(|field| rule[field].as_str().unwrap_or_default());
    assert_eq!(said, ["allow", "bob/sh*", "ann/redis", "6379", "b"], "{listed}");

    // Within an owner too a deny rule denies; a restart of the directory keeps it, and the sidecar's.
    policy(&a, &["deny", "mate", "ann/redis"]);
    mesh.directory().kill();
    mesh.directory().start();
    a.kill_sidecar();
    a.start_sidecar();
    assert_eq!(probe(&b, "mate", &redis), "EHOSTUNREACH");
    assert_eq!(probe(&b, "shell", &redis), "connected");
    assert_eq!(policy(&a, &["show"])["rules"].as_array().map(Vec::len), Some(2));
    let number = rule["id"].to_string();
    assert_eq!(policy(&a, &["remove", &number])["removed"], true);
    assert_eq!(policy(&a, &["remove", &number])["removed"], false);
    wait_until(SOON, "the removed rule to be gone", || probe(&b, "shell", &redis) == "EHOSTUNREACH");

    for words in [["allow", "nobody", "redis"], ["allow", "bob/x", "ann/"], ["deny", "a b/c", "redis"]] {
        a.capsule([&["policy"], &words[..]].concat()).exits(1);
    }
    end(mesh);
}

#[test]
fn a_change_ends_exactly_the_sessions_that_it_forbids() {
    let mesh = Mesh::running("policy-live", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    ann_serves(&a);
    policy(&a, &["allow", "bob/*", "ann/redis"]);
    counter(&b, "far", "bob");
    counter(&a, "near", "bob");
    counter(&b, "mate", "ann");
    let open = clients(&a, 3);
    let mate = locators(&a, "mate");
    let of_mate =
        |client: &&RedisClient| client.address.contains(&mate.0) || client.address.contains(&mate.1);
    let kept: Vec<_> = open.iter().filter(of_mate).cloned().collect();
    // A rule that forbids none of them ends none.
    policy(&b, &["deny", "bob/*", "ann/redis", "80"]);
    policy(&b, &["deny", "bob/*", "ann/redis"]);
    assert_eq!(clients(&a, 1), kept, "another one than ann's own is left");
    for name in ["far", "near"] {
        wait_ended(&a, name);
    }
    assert_eq!(counts(&b, "redis")["ended_sessions"], 2);
    let counted = || exec(&a, "redis", &["redis-cli", "get", "db-client:mate"]).ok().stdout;
    let before = counted();
    wait_until(SOON, "the allowed talk to go on", || counted() != before);
    assert_eq!(clients(&a, 1), kept);
    end(mesh);
}

#[test]
fn rules_follow_a_capsule_wherever_it_is() {
    let mesh = Mesh::running("policy-moves", &["a", "b", "c"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let redis = format!("{}:6379", ann_serves(&a));
    idle(&b, "shell", "bob");
    idle(&b, "other", "bob");
    policy(&a, &["allow", "shell", "redis"]);
    policy(&a, &["allow", "bob/held", "redis"]);
    counter(&b, "held", "bob");
    let open = clients(&a, 1);
    move_to(&a, "redis", "c");
    assert_eq!(clients(&a, 1), open, "the session that is allowed was not kept");
    assert_eq!(probe(&b, "shell", &redis), "connected");
    assert_eq!(probe(&b, "other", &redis), "EHOSTUNREACH");

    // While it lies in a file it can't say so itself.
    let file = capsule_file(&a, "redis");
    suspend(&a, "redis", &file, &[]);
    assert_eq!(probe(&b, "other", &redis), "EHOSTUNREACH");
    // A session that is held ends when the capsule is there again.
    let rules = policy(&b, &["show", "held"]);
    policy(&b, &["remove", &rules["rules"][0]["id"].to_string()]);
    resume(&a, &file, &["--to", "b"]);
    wait_ended(&b, "held");
    assert_eq!(clients(&b, 0), []);
    assert_eq!(probe(&b, "shell", &redis), "connected");
    assert_eq!(probe(&b, "other", &redis), "EHOSTUNREACH");
    end(mesh);
}
