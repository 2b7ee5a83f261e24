//! Two directories on one etcd, and hosts that know both.

use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use testkit::{Host, Mesh, Process, program, wait_until};
use tests::{Peer, Talk, checked, end, ended, exec, move_to, place, start};

const UP: Duration = Duration::from_secs(30);

/// What a verb may take with a directory dead, on a busy machine: far less than the ten seconds after which a call fails,
/// or than a lease.
const UNNOTICED: Duration = Duration::from_secs(6);

/// The processes that serve the mesh; the mesh ends them.
struct Directories {
    etcd: Process,
    one: Process,
    other: Process,
}

fn line(program: PathBuf, arguments: &[&str]) -> Vec<String> {
    std::iter::once(program.display().to_string())
        .chain(arguments.iter().map(|&word| word.to_owned()))
        .collect()
}

fn etcd(host: &Host) -> Process {
    let (client, peer) =
        (format!("http://{}:2379", host.address()), format!("http://{}:2380", host.address()));
    let data = host.dir().join("etcd").display().to_string();
    let cluster = format!("one={peer}");
    let arguments = [
        ["--name", "one"],
        ["--data-dir", &data],
        ["--log-level", "error"],
        ["--listen-client-urls", &client],
        ["--advertise-client-urls", &client],
        ["--listen-peer-urls", &peer],
        ["--initial-advertise-peer-urls", &peer],
        ["--initial-cluster", &cluster],
    ];
    let process = host.spawn(line("etcd".into(), arguments.as_flattened()));
    let address = (host.address(), 2379);
    wait_until(UP, "etcd", || host.inside(|| TcpStream::connect(address).is_ok()));
    process
}

fn serve(host: &Host, etcd: &Host) -> Process {
    let [api, dns] = [4400, 53].map(|port| format!("{}:{port}", host.address()));
    let (data, http) = (host.data().display().to_string(), format!("{}:9100", host.address()));
    let store = format!("etcd://{}:2379", etcd.address());
    let arguments =
        ["serve", "--data", &data, "--api", &api, "--dns", &dns, "--http", &http, "--store", &store];
    let process = host.spawn(line(program("capsule-directory"), &arguments));
    wait_until(UP, "a directory", || host.http("/readyz").is_ok_and(|(code, _)| code == 200));
    process
}

/// Both serve one mesh: the second one has a copy of the key files.
fn directories(mesh: &Mesh) -> Directories {
    let [keeper, one, other] = ["etcd", "d1", "d2"].map(|name| mesh.host(name));
    let etcd = etcd(&keeper);
    let data = one.data().display().to_string();
    one.run(line(program("capsule-directory"), &["init", "--data", &data, "--zone", "capsule.internal"]))
        .ok();
    std::fs::create_dir_all(other.data()).expect("a folder for the second directory");
    for file in ["mesh.json", "ca.pem", "issuer.key", "issuer.pem", "token.key", "dnssec.json"] {
        std::fs::copy(one.data().join(file), other.data().join(file)).expect("a key file is copied");
    }
    Directories { etcd, one: serve(&one, &keeper), other: serve(&other, &keeper) }
}

/// Joins at the first directory, with a token that the other one made.
fn join(mesh: &Mesh, name: &str) -> Host {
    join_at(&mesh.host(name), &[&mesh.host("d1")], &mesh.host("d2"))
}

/// Joins at whichever of these directories answers, with a token that another one made.
fn join_at(host: &Host, directories: &[&Host], of: &Host) -> Host {
    let data = of.data().display().to_string();
    let arguments = ["token", "--data", &data, "--host", host.name()];
    let token = of.run(line(program("capsule-directory"), &arguments)).ok();
    let api: Vec<_> = directories.iter().map(|directory| format!("{}:4400", directory.address())).collect();
    let (data, api) = (host.data().display().to_string(), api.join(","));
    let arguments = ["join", "--data", &data, "--token", token.stdout.trim(), "--directory", &api];
    host.run(line(program("capsule-sidecar"), &arguments)).ok();
    host.start_sidecar();
    host.clone()
}

/// Has something done, in a time in which nobody notices that anything is wrong.
fn unnoticed<T>(what: &str, done: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = done();
    let took = began.elapsed();
    eprintln!("{what}: {} ms", took.as_millis());
    assert!(took < UNNOTICED, "{what} took {took:?}");
    result
}

/// Asks the resolver inside a capsule for what no sidecar knows without a directory: where a host is.
fn resolves(host: &Host, capsule: &str, of: &str) {
    let name = format!("{of}.hosts.capsule.internal");
    let found = unnoticed("a name inside", || exec(host, capsule, &["getent", "hosts", &name])).ok();
    assert!(found.stdout.contains(&name), "{}", found.stdout);
}

/// Everything that needs a directory.
fn all_goes_on(hosts: &[Host; 3], round: usize) {
    let [a, b, c] = hosts;
    resolves(a, "asker", "c");
    let late = format!("late{round}");
    unnoticed("a start", || a.capsule(["run", late.as_str(), "--", "/bin/true"]).ok());
    resolves(a, "asker", "a");
    let (from, to) = if place(c, "redis").host == "a" { (a, b) } else { (b, a) };
    unnoticed("a move", || move_to(from, "redis", to.name()));
    unnoticed("an end", || a.capsule(["rm", late.as_str()]).ok());
    unnoticed("a rule", || c.capsule(["policy", "deny", "x/*", "y/*"]).ok());
    unnoticed("no rule", || c.capsule(["policy", "allow", "x/*", "y/*"]).ok());
}

/// Each directory in turn is killed, or its cable is pulled; a host joins at the other, sidecars are killed and come back,
/// programs ask for names, start, move and talk.
#[test]
fn each_directory_in_turn_is_gone_and_nobody_notices() {
    let mesh = Mesh::new("turns");
    let mut directories = directories(&mesh);
    let [keeper, d1, d2] = ["etcd", "d1", "d2"].map(|name| mesh.host(name));
    let hosts = ["a", "b", "c"].map(|name| join(&mesh, name));
    let [a, b, c] = &hosts;
    let mut talk = Talk::start(a, b);
    start(a, "asker", &["sleep", "600"]);

    // The one that all asked so far: its process is killed.
    directories.one.kill();
    all_goes_on(&hosts, 1);
    talk.goes_on();
    let d = unnoticed("a host that joins", || join_at(&mesh.host("d"), &[&d1, &d2], &d2));
    // Whoever begins asks the dead one first: it stands first in the list that was noted.
    for host in [a, c] {
        host.kill_sidecar();
        unnoticed("a sidecar that comes back", || host.start_sidecar());
    }
    all_goes_on(&hosts, 2);
    talk.goes_on();
    directories.one = serve(&d1, &keeper);

    // The other one, which all ask by now: nothing says that it is gone.
    d2.cut();
    resolves(a, "asker", "d");
    all_goes_on(&hosts, 3);
    talk.goes_on();
    a.kill_sidecar();
    unnoticed("a sidecar that comes back", || a.start_sidecar());
    unnoticed("a host that joins", || join_at(&mesh.host("e"), &[&d2, &d1], &d1));
    // It has not heard of what was done meanwhile, and hears of it.
    d2.join();
    let known = |host: &str| {
        let asked = exec(a, "asker", &["getent", "hosts", &format!("{host}.hosts.capsule.internal")]);
        asked.code == 0
    };
    wait_until(UP, "the directory to be back", || d2.http("/readyz").is_ok_and(|(code, _)| code == 200));
    directories.one.kill();
    assert!(known("e"), "what one directory was told the other one does not know");
    all_goes_on(&hosts, 4);
    talk.goes_on();
    assert_eq!(place(&d, "redis").state, "running");
    end(mesh);
}

/// Without a single directory and without etcd what runs goes on; with them back all is as before.
#[test]
fn a_mesh_without_directories_and_store_waits_for_them() {
    let mesh = Mesh::new("nodirs");
    let mut directories = directories(&mesh);
    let [keeper, d1] = ["etcd", "d1"].map(|name| mesh.host(name));
    let [a, b] = ["a", "b"].map(|name| join(&mesh, name));
    let mut talk = Talk::start(&a, &b);
    directories.etcd.kill();
    directories.other.kill();
    talk.goes_on();
    let refused = a.capsule(["run", "no", "--", "/bin/true"]);
    assert!(refused.code != 0 && refused.stderr.contains("etcd"), "{refused:?}");
    directories.one.kill();
    talk.goes_on();
    directories.etcd = etcd(&keeper);
    directories.one = serve(&d1, &keeper);
    a.capsule(["run", "yes", "--", "/bin/true"]).ok();
    move_to(&a, "redis", "b");
    talk.goes_on();
    end(mesh);
}

/// The directory that all hosts use is killed in the middle of a move: the move is made, and the mesh goes on.
#[test]
fn a_move_is_made_though_a_directory_is_killed_in_it() {
    let mesh = Mesh::new("dirs");
    let mut directories = directories(&mesh);
    let [a, b, c] = ["a", "b", "c"].map(|name| join(&mesh, name));
    for host in [&a, &b, &c] {
        let noted = std::fs::read_to_string(host.data().join("identity").join("join.json")).unwrap();
        for directory in ["d1", "d2"].map(|name| mesh.host(name)) {
            for port in [4400, 53] {
                let address = format!("{}:{port}", directory.address());
                assert!(noted.contains(&address), "{} does not know {address}: {noted}", host.name());
            }
        }
    }
    let flags = ["--send", "32M", "--receive", "32M", "--rate", "3M"];
    Peer::listen(&a, "sink", &flags);
    Peer::connect(&c, "source", "sink.capsule.internal:7000", &flags);
    let mut moving = a.spawn_capsule(["move", "sink", "--to", "b", "--json"]);
    // Some phase of it: which one depends on the machine, and each must bear it.
    std::thread::sleep(Duration::from_millis(300));
    directories.one.kill();
    let report = moving.wait(Duration::from_secs(60)).ok().json();
    assert_eq!(report["to"], "b", "{report}");
    assert_eq!(place(&c, "sink").host, "b");
    // What needs a directory goes on by the other one: names, new capsules, and back again.
    a.capsule(["run", "late", "--", "/bin/true"]).ok();
    b.capsule(["move", "sink", "--to", "a", "--json"]).ok();
    checked(&ended(&c, "source", Duration::from_secs(60)), 32 << 20, 32 << 20);
    checked(&ended(&a, "sink", Duration::from_secs(60)), 32 << 20, 32 << 20);
    end(mesh);
}
