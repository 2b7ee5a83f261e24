//! The client against a real Redis and a real PostgreSQL on another host, without anything of Capsule in between.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use testkit::{Host, Mesh, Output, Process, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
const CLIENT: &str = env!("CARGO_BIN_EXE_db-client");

fn client(host: &Host, arguments: &str) -> Output {
    host.run([CLIENT, "--json"].into_iter().chain(arguments.split_whitespace()))
}

fn redis(host: &Host) -> Process {
    let (dir, address) = (host.dir().display().to_string(), host.address().to_string());
    let arguments =
        ["redis-server", "--save", "", "--protected-mode", "no", "--dir", &dir, "--bind", &address];
    let server = host.spawn(arguments);
    wait_until(LIMIT, "redis", || server.stdout().contains("Ready to accept connections"));
    server
}

/// Debian's PostgreSQL of whatever version, with a fresh cluster, as the user it insists on.
fn postgres(host: &Host) -> Process {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("postgresql is installed (make setup)");
    let programs: PathBuf =
        versions.flatten().map(|entry| entry.path()).max().expect("a version").join("bin");
    let data = host.dir().join("postgres").display().to_string();
    let as_user = |command: &str| {
        format!(
            "exec setpriv --reuid postgres --regid postgres --clear-groups {}/{command}",
            programs.display()
        )
    };
    let make = format!(
        "mkdir -m 700 {data} && chown postgres: {data} && cd {data} && {}",
        as_user(&format!("initdb --no-sync -A trust -U postgres -D {data}"))
    );
    host.run(["sh", "-c", &make]).ok();
    let rules = format!("{data}/pg_hba.conf");
    fs::write(&rules, "host all all all trust\n").expect("just made");
    let serve =
        format!("cd {data} && {}", as_user(&format!("postgres -D {data} -h {} -k ''", host.address())));
    let server = host.spawn(["sh", "-c", &serve]);
    wait_until(LIMIT, "postgres", || server.stderr().contains("ready to accept connections"));
    server
}

#[test]
fn redis_counts() {
    let mesh = Mesh::new("db-redis");
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut server = redis(&a);
    let at = format!("--redis {}:6379", a.address());
    let summary = client(&b, &format!("{at} --count 500")).ok().json();
    assert_eq!((summary["operations"].as_u64(), summary["wrong"].as_u64()), (Some(500), Some(0)));
    assert_eq!((summary["first"].as_u64(), summary["last"].as_u64()), (Some(1), Some(500)));
    assert_eq!(summary["peer"], format!("{}:6379", a.address()));
    let summary = client(&b, &format!("{at} --seconds 0.5 --rate 100")).ok().json();
    assert!((30..=52).contains(&summary["operations"].as_u64().expect("a number")), "{summary}");
    assert_eq!(summary["first"], 501);

    let mut running =
        b.spawn([CLIENT, "--json", "--redis", &format!("{}:6379", a.address()), "--seconds", "30"]);
    std::thread::sleep(Duration::from_millis(300));
    server.kill();
    let summary = running.wait(LIMIT).exits(1).json();
    assert!(summary["operations"].as_u64() > Some(0) && summary["error"].is_string(), "{summary}");
    let refused = client(&b, &at).exits(1);
    assert!(refused.stderr.contains("connecting to redis"), "{}", refused.stderr);
}

#[test]
fn somebody_else_who_counts_is_noticed() {
    let mesh = Mesh::new("db-two");
    let a = mesh.host("a");
    let _server = redis(&a);
    let line = format!("--redis {}:6379 --seconds 1 --rate 200", a.address());
    let mut other = a.spawn([CLIENT].into_iter().chain(line.split_whitespace()));
    let summary = client(&a, &line).exits(1).json();
    assert!(summary["wrong"].as_u64() > Some(0), "{summary}");
    other.wait(LIMIT);
}

#[test]
fn postgres_counts_with_and_without_a_long_transaction() {
    let mesh = Mesh::new("db-postgres");
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let _server = postgres(&a);
    let at = format!("--postgres postgres://postgres@{}/postgres", a.address());
    let summary = client(&b, &format!("{at} --count 100")).ok().json();
    assert_eq!((summary["operations"].as_u64(), summary["last"].as_u64()), (Some(100), Some(100)));
    let summary = client(&b, &format!("{at} --transaction --count 50 --rate 100")).ok().json();
    assert_eq!((summary["first"].as_u64(), summary["last"].as_u64()), (Some(101), Some(150)));
    assert!(
        client(&b, "--postgres postgres://postgres@192.0.2.10:1/postgres")
            .exits(1)
            .stderr
            .contains("192.0.2.10:1")
    );
}
