//! Debian's PostgreSQL in a capsule, moved under an open transaction.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use testkit::{Host, Mesh};
use tests::{end, ended, exec, move_to, run, start, tool, wait_logged};

/// The newest of those that Debian installs side by side.
#[track_caller]
fn postgres_programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed by make setup");
    let mut folders: Vec<PathBuf> = versions.flatten().map(|entry| entry.path().join("bin")).collect();
    folders.sort();
    folders.pop().expect("a version of PostgreSQL")
}

/// A fresh data directory on the host, as its administrator would make it.
#[track_caller]
fn make_data(host: &Host, programs: &Path) -> String {
    let data = host.dir().join("pg").display().to_string();
    host.run(["install", "-d", "-o", "postgres", "-g", "postgres", "-m", "700", &data]).ok();
    let initdb = programs.join("initdb").display().to_string();
    let as_postgres = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"];
    let make = [initdb.as_str(), "-A", "trust", "-U", "postgres", "--no-sync", "-D", &data];
    host.run([&as_postgres[..], &make].concat()).ok();
    let rules = host.dir().join("pg/pg_hba.conf");
    let text = fs::read_to_string(&rules).expect("initdb makes it");
    fs::write(&rules, text + "host all all all trust\n").expect("root may");
    data
}

#[test]
fn an_open_transaction_commits_after_the_server_moved() {
    let mesh = Mesh::running("postgres", &["a", "b", "c"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let programs = postgres_programs();
    let data = make_data(&a, &programs);
    let (volume, server) = (format!("{data}:/srv/pg"), programs.join("postgres").display().to_string());
    let argv = [server.as_str(), "-D", "/srv/pg", "-h", "*", "-k", ""];
    run(&a, "db", &["--user", "postgres", "--volume", &volume], &argv);
    wait_logged(&a, "db", "ready to accept connections");
    // One psql for the whole test; between its two halves it waits for a file.
    let who = "select 'backend', pg_backend_pid(), inet_client_addr(), inet_client_port();";
    let script = format!(
        "(echo \"create table t (n int); begin; insert into t values (1); {who}\"; \
          while [ ! -e /tmp/go ]; do sleep 0.1; done; \
          echo \"insert into t values (2); {who} commit; select 'rows', count(*) from t;\") | \
         psql -h db.capsule.internal -U postgres -AtX -v ON_ERROR_STOP=1"
    );
    start(&b, "psql", &["sh", "-c", &script]);
    wait_logged(&b, "psql", "backend");
    let url = "postgres://postgres@db.capsule.internal/postgres";
    let load = [&tool("db-client"), "--postgres", url, "--transaction", "--seconds", "20", "--json"];
    start(&b, "clerk", &load);
    testkit::wait_until(Duration::from_secs(10), "the clerk's connection", || {
        exec(
            &a,
            "db",
            &[
                "psql",
                "-h",
                "127.0.0.1",
                "-U",
                "postgres",
                "-Atc",
                "select count(*) from pg_stat_activity where state like 'idle in%' or query like 'INSERT%'",
            ],
        )
        .stdout
        .trim()
        .parse::<u32>()
        .is_ok_and(|count| count >= 2)
    });
    move_to(&a, "db", "c");
    move_to(&a, "db", "a");
    move_to(&a, "psql", "c");
    assert_eq!(tests::place(&a, "clerk").state, "running", "the moves took longer than the load");
    exec(&b, "psql", &["touch", "/tmp/go"]).ok();
    let seen = ended(&b, "psql", Duration::from_secs(20));
    assert_eq!(seen.code, 0, "{seen:?}");
    let lines: Vec<&str> = seen.stdout.lines().filter(|line| line.contains('|')).collect();
    assert_eq!(lines.len(), 3, "{seen:?}");
    assert!(lines[0].starts_with("backend|") && lines[0] == lines[1], "another connection: {seen:?}");
    assert_eq!(lines[2], "rows|2", "{seen:?}");
    assert!(seen.stdout.contains("COMMIT"), "{seen:?}");
    let summary = ended(&b, "clerk", Duration::from_secs(40)).json();
    assert_eq!((&summary["ok"], &summary["wrong"]), (&true.into(), &0.into()), "{summary}");
    eprintln!("{summary}");
    end(mesh);
}
