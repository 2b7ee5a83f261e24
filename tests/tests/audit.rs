//! Whose verb it was, from the admin socket of one host by way of another to the directory.

use serde_json::{Value, json};
use testkit::Mesh;
use tests::end;

#[test]
fn the_audit_log_names_who_typed_a_verb_and_where() {
    let mesh = Mesh::running("audit", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    a.capsule(["run", "-d", "db", "--", "sleep", "1000"]).ok();
    // Typed on b, carried out by a, which asks the directory.
    b.capsule(["move", "db", "--to", "b"]).ok();
    b.capsule(["policy", "deny", "*/*", "root/db"]).ok();
    a.capsule(["rm", "--force", "db"]).ok();
    let data = mesh.directory().host().data().display().to_string();
    let told = mesh.directory().command(&["audit", "--json", "--data", &data]).ok().json();
    let entries = told["entries"].as_array().unwrap().clone();
    let of = |verb: &str| {
        let found = entries.iter().find(|entry| entry["verb"] == verb);
        let entry: Value = found.unwrap_or_else(|| panic!("no {verb} in {entries:?}")).clone();
        (entry["by"].clone(), entry.get("asked_by").cloned())
    };
    // This test runs as root, whoever logged in before.
    let root_at = |host: &str, asked_by: Option<Value>| {
        let mut asked_by = asked_by.unwrap_or_default();
        asked_by.as_object_mut().map(|person| person.remove("login"));
        assert_eq!(asked_by, json!({"host": host, "uid": 0, "user": "root"}));
    };
    for (verb, by, typed_on) in [
        ("register", "host a", "a"),
        ("offer", "host a", "b"),
        ("set rule", "host b", "b"),
        ("remove", "host b", "a"),
    ] {
        let (asked, person) = of(verb);
        assert_eq!(asked, by, "{verb}");
        root_at(typed_on, person);
    }
    // Nobody types a claim.
    assert_eq!(of("claim"), (json!("host b"), None));
    end(mesh);
}
