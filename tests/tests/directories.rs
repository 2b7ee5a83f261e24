//! Two directories on one etcd, and hosts that know both.

use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use testkit::{Host, Mesh, Process, program, wait_until};
use tests::{Peer, checked, end, ended, place};

const UP: Duration = Duration::from_secs(30);

/// The processes that serve the mesh; the mesh ends them.
struct Directories {
    _etcd: Process,
    one: Process,
    _other: Process,
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
    let _etcd = etcd(&keeper);
    let data = one.data().display().to_string();
    one.run(line(program("capsule-directory"), &["init", "--data", &data, "--zone", "capsule.internal"]))
        .ok();
    std::fs::create_dir_all(other.data()).expect("a folder for the second directory");
    for file in ["mesh.json", "ca.pem", "issuer.key", "issuer.pem", "token.key", "dnssec.json"] {
        std::fs::copy(one.data().join(file), other.data().join(file)).expect("a key file is copied");
    }
    Directories { _etcd, one: serve(&one, &keeper), _other: serve(&other, &keeper) }
}

/// Joins at the first directory, with a token that the other one made.
fn join(mesh: &Mesh, name: &str) -> Host {
    let (host, one, other) = (mesh.host(name), mesh.host("d1"), mesh.host("d2"));
    let data = other.data().display().to_string();
    let token =
        other.run(line(program("capsule-directory"), &["token", "--data", &data, "--host", name])).ok();
    let (data, api) = (host.data().display().to_string(), format!("{}:4400", one.address()));
    let arguments = ["join", "--data", &data, "--token", token.stdout.trim(), "--directory", &api];
    host.run(line(program("capsule-sidecar"), &arguments)).ok();
    host.start_sidecar();
    host
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
