//! Who changed what.

use std::sync::Arc;

use directory_api::Person;
use directory_api::policy::{Effect, Ports, Terms};

use super::process::Directory;

#[tokio::test]
async fn every_change_can_be_told_afterwards_and_by_whom() {
    let mut directory = Directory::start();
    let (a, b) = (directory.host("a", 1).await, directory.host("b", 2).await);
    let db = a.register("db").await;
    a.offer(&db, 1, &b).await;
    let db = b.claim(&db, 1).await;
    assert!(a.client.remove(db.id, db.generation).await.is_err(), "a refusal, which is no change");
    let terms = Terms {
        effect: Effect::Deny,
        from: "*/*".parse().unwrap(),
        to: "me/db".parse().unwrap(),
        ports: Ports::ALL,
    };
    // Somebody on c asked, as a says.
    let person =
        Person { host: Some("c".parse().unwrap()), uid: 1000, user: Some("ann".into()), login: None };
    a.client.asked_by(Some(Arc::new(person))).set_rule(terms).await.unwrap();
    a.client.remove_host(b.name.clone(), true).await.unwrap();
    // While it serves, and by another process after it was killed.
    let told = audited(&directory, &[]);
    directory.kill();
    assert_eq!(audited(&directory, &[]), told);
    let line = |verb: &str, name: &str| {
        let found = told.iter().find(|entry| entry["verb"] == verb && entry["name"] == name);
        found.unwrap_or_else(|| panic!("no {verb} of {name} in {told:?}")).clone()
    };
    for (verb, name, by, text) in [
        ("init", "capsule.internal", "operator", "10.88.0.0/16"),
        ("token", "a", "operator", "good for 3600 s"),
        ("join", "b", "joining b", "operator"),
        ("register", "db", "host a", "stopped at a, generation 1"),
        ("offer", "db", "host a", "offered to b"),
        ("claim", "db", "host b", "moving at b, generation 2"),
        ("remove host", "b", "host a", "removed"),
    ] {
        let entry = line(verb, name);
        assert_eq!(entry["by"], by, "{entry}");
        assert!(entry["text"].as_str().unwrap().contains(text), "{entry}");
    }
    assert!(!told.iter().any(|entry| entry["verb"] == "remove"), "{told:?}");
    assert!(told.iter().any(|entry| entry["verb"] == "set rule" && entry["text"] == "deny */* to me/db"));
    let rule = told.iter().find(|entry| entry["verb"] == "set rule").unwrap();
    assert_eq!(rule["by"], "host a");
    assert_eq!(rule["asked_by"], serde_json::json!({"host": "c", "uid": 1000, "user": "ann"}));
    assert!(line("claim", "db").get("asked_by").is_none(), "nobody was named");
    let uid = rustix::process::getuid().as_raw();
    assert_eq!(line("token", "a")["asked_by"]["uid"], uid, "who ran the command");
    let revisions: Vec<_> = told.iter().filter_map(|entry| entry["revision"].as_u64()).collect();
    assert!(revisions.is_sorted(), "{revisions:?}");

    assert_eq!(audited(&directory, &["--last", "2"]), told[told.len() - 2..]);
    let output = directory.run(&["audit"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), told.len());
    assert!(text.contains("  host a, for ann uid 1000 at c (it says)  set rule  "), "{text}");
    assert!(text.lines().last().unwrap().ends_with("host a  remove host  host b: removed"), "{text}");
}

fn audited(directory: &Directory, flags: &[&str]) -> Vec<serde_json::Value> {
    let output = directory.run(&[&["audit", "--json"], flags].concat());
    assert!(output.status.success(), "{output:?}");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    document["entries"].as_array().unwrap().clone()
}
