//! What owners add to the zone, as people see it.

use std::fs;

use serde_json::{Value, json};
use testkit::Mesh;
use tests::{end, run, start};

#[test]
fn inspect_shows_what_an_owner_added_to_the_zone() {
    let mesh = Mesh::new("records");
    let file = mesh.dir().join("ann.key");
    let key = mesh.directory().command(&["key", "--name", "ann"]).ok();
    fs::write(&file, key.stdout).expect("the mesh's folder is ours");
    mesh.directory().configure(&format!(
        "[[updaters]]\nowner = 'ann'\nkey_name = 'ann'\nkey_file = '{}'\n",
        file.display()
    ));
    mesh.directory().start();
    mesh.start(&["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    run(&a, "db", &["--owner", "ann"], &["sleep", "600"]);
    start(&a, "plain", &["sleep", "600"]);

    let script = mesh.dir().join("update");
    let lines = [
        &format!("server {}", mesh.directory().dns().ip()),
        "zone capsule.internal",
        "update add _postgres._tcp.db.capsule.internal 60 SRV 0 5 5432 db.capsule.internal.",
        "update add db.capsule.internal 30 TXT \"say \\\"hello\\\"\"",
        "send",
        "",
    ];
    fs::write(&script, lines.join("\n")).expect("the mesh's folder is ours");
    b.run(["nsupdate", "-k", &file.display().to_string(), &script.display().to_string()]).ok();

    let inspected = |name: &str| -> Value {
        let mut records = b.capsule(["--json", "inspect", name]).ok().json()["records"].take();
        if let Some(all) = records.as_array_mut() {
            all.sort_by_key(|record| record["name"].to_string());
        }
        records
    };
    let expected = json!([
        { "name": "_postgres._tcp.db.capsule.internal", "ttl_s": 60, "type": "SRV", "data": "0 5 5432 db.capsule.internal." },
        { "name": "db.capsule.internal", "ttl_s": 30, "type": "TXT", "data": "\"say \\\"hello\\\"\"" },
    ]);
    assert_eq!(inspected("db"), expected);
    assert_eq!(inspected("plain"), json!([]));
    let shown = b.capsule(["inspect", "db"]).ok().stdout;
    assert!(
        shown.contains("_postgres._tcp.db.capsule.internal 60 SRV 0 5 5432 db.capsule.internal."),
        "{shown}"
    );

    // All the rest is shown without a directory.
    mesh.directory().kill();
    assert_eq!(inspected("db"), Value::Null);
    mesh.directory().start();
    end(mesh);
}
