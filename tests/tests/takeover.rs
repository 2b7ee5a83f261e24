//! Sidecars that are killed and started again: programs and their connections never notice.

use std::time::Duration;

use testkit::{Host, Mesh, program};
use tests::{Peer, Talk, checked, end, ended, move_to, place, start, tool, wait_logged};

/// Kills the sidecar of a host, and starts the next one.
#[track_caller]
fn replace(host: &Host) {
    host.kill_sidecar();
    host.start_sidecar();
}

/// Bytes both ways on a paced stream, while each sidecar is killed three times and both ends move in between.
#[test]
fn a_stream_survives_the_sidecars_of_both_ends() {
    let mesh = Mesh::running("takeover", &["a", "b", "c"]);
    let hosts = ["a", "b", "c"].map(|name| mesh.host(name));
    let flags = ["--send", "192M", "--receive", "192M", "--rate", "9M"];
    Peer::listen(&hosts[0], "sink", &flags);
    Peer::connect(&hosts[1], "source", "sink.capsule.internal:7000", &flags);
    for to in ["c", "a", "b"] {
        for host in &hosts {
            replace(host);
        }
        move_to(&hosts[0], "sink", to);
    }
    for name in ["sink", "source"] {
        assert_eq!(place(&hosts[0], name).state, "running", "the kills took longer than the stream");
    }
    for name in ["sink", "source"] {
        let summary = checked(&ended(&hosts[0], name, Duration::from_secs(60)), 192 << 20, 192 << 20);
        assert_eq!(summary["connections"][0]["same_addresses"], true, "{summary}");
    }
    end(mesh);
}

/// Queues are full on both sides when the sidecars die, and both are away at once.
#[test]
fn full_queues_survive_both_sidecars_at_once() {
    let mesh = Mesh::running("takefull", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let flags = ["--send", "48M", "--receive", "48M", "--read-rate", "6M"];
    Peer::listen(&a, "sink", &flags);
    Peer::connect(&b, "source", "sink.capsule.internal:7000", &flags);
    for _ in 0..3 {
        a.kill_sidecar();
        b.kill_sidecar();
        std::thread::sleep(Duration::from_millis(300));
        b.start_sidecar();
        a.start_sidecar();
        std::thread::sleep(Duration::from_millis(300));
    }
    for name in ["sink", "source"] {
        checked(&ended(&a, name, Duration::from_secs(60)), 48 << 20, 48 << 20);
    }
    end(mesh);
}

/// A talk of two capsules on one host, and then on two; the sidecar ends on request as well as by force.
#[test]
fn a_talk_survives_its_sidecar_wherever_its_ends_are() {
    let mesh = Mesh::running("taketalk", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut talk = Talk::start(&a, &a);
    replace(&a);
    talk.goes_on();
    move_to(&a, "redis", "b");
    for host in [&a, &b] {
        host.stop_sidecar();
        host.start_sidecar();
        talk.goes_on();
        replace(host);
        talk.goes_on();
    }
    move_to(&a, "counter", "b");
    talk.goes_on();
    end(mesh);
}

/// Connections that are being opened when a sidecar dies come to be: the program waits a little, and nothing more.
#[test]
fn connects_in_the_making_survive() {
    let mesh = Mesh::running("takeopen", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let connects = tool("connects");
    start(&a, "server", &[&connects, "--listen", "[::]:9000"]);
    wait_logged(&a, "server", "listening on");
    let to = ["--connect", "server.capsule.internal:9000", "--parallel", "4", "--seconds", "20"];
    start(&b, "clients", &[&[connects.as_str()], &to[..]].concat());
    for _ in 0..3 {
        for host in [&a, &b] {
            std::thread::sleep(Duration::from_millis(700));
            replace(host);
        }
    }
    let summary = ended(&a, "clients", Duration::from_secs(60)).json();
    eprintln!("{summary}");
    assert_eq!(summary["failed"], 0, "{summary}");
    assert!(summary["connections"].as_u64() > Some(500), "{summary}");
    end(mesh);
}

/// A program that says everything, and ends while there is no sidecar: its peer gets all of it, and the end.
#[test]
fn last_words_survive() {
    let mesh = Mesh::running("takelast", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    Peer::listen(&a, "sink", &["--receive", "4M", "--read-rate", "2M"]);
    Peer::connect(&b, "source", "sink.capsule.internal:7000", &["--send", "4M"]);
    a.kill_sidecar();
    b.kill_sidecar();
    std::thread::sleep(Duration::from_secs(1));
    a.start_sidecar();
    b.start_sidecar();
    checked(&ended(&a, "sink", Duration::from_secs(30)), 0, 4 << 20);
    end(mesh);
}

/// Has the program on disk take over on a host.
#[track_caller]
fn upgrade(host: &Host, flags: &[&str]) {
    let before = host.sidecar_pid();
    let (sidecar, data) = (program("capsule-sidecar"), host.data());
    let argv = [sidecar.as_os_str(), "upgrade".as_ref(), "--data".as_ref(), data.as_os_str()];
    host.run(argv.into_iter().chain(flags.iter().map(AsRef::as_ref))).ok();
    assert_eq!(host.sidecar_pid(), before, "the process is another");
}

/// Sidecars and then their shims are replaced by the programs on disk, while bytes flow, output is followed and a capsule
/// moves; what the shim is for works afterwards: output, moves, exit status.
#[test]
fn an_upgrade_is_not_noticed() {
    let mesh = Mesh::running("upgrade", &["a", "b"]);
    let hosts = ["a", "b"].map(|name| mesh.host(name));
    let flags = ["--send", "96M", "--receive", "96M", "--rate", "8M"];
    Peer::listen(&hosts[0], "sink", &flags);
    Peer::connect(&hosts[1], "source", "sink.capsule.internal:7000", &flags);
    let count = "for i in $(seq 1 80); do echo $i; sleep 0.1; done; exit 7";
    let mut counted = hosts[0].spawn_capsule(["run", "count", "--", "sh", "-c", count]);
    for flags in [&[][..], &["--shims"]] {
        for host in &hosts {
            upgrade(host, flags);
        }
        move_to(&hosts[0], "sink", "b");
        move_to(&hosts[0], "sink", "a");
    }
    assert_eq!(place(&hosts[0], "sink").state, "running", "the upgrades took longer than the stream");
    let output = counted.wait(Duration::from_secs(30));
    assert_eq!(output.code, 7, "{output:?}");
    let lines: Vec<String> = output.stdout.lines().map(str::to_owned).collect();
    assert_eq!(lines, (1..=80).map(|number| number.to_string()).collect::<Vec<_>>());
    for name in ["sink", "source"] {
        checked(&ended(&hosts[0], name, Duration::from_secs(60)), 96 << 20, 96 << 20);
    }
    end(mesh);
}

/// A second sidecar for the same data directory is refused, and an upgrade without a sidecar too.
#[test]
fn one_sidecar_for_a_data_directory() {
    let mesh = Mesh::running("takelock", &["a"]);
    let a = mesh.host("a");
    let (sidecar, data) = (program("capsule-sidecar").display().to_string(), a.data().display().to_string());
    let second = a.run(
        [
            &sidecar,
            "serve",
            "--data",
            &data,
            "--listen",
            "127.0.0.1:4499",
            "--admin",
            "/tmp/cx-second.sock",
            "--http",
            "127.0.0.1:9199",
        ]
        .map(String::from),
    );
    assert_ne!(second.code, 0);
    assert!(second.stderr.contains("serves") && second.stderr.contains("already"), "{}", second.stderr);
    a.stop_sidecar();
    let nobody = a.run([sidecar.as_str(), "upgrade", "--data", &data]);
    assert_ne!(nobody.code, 0);
    assert!(nobody.stderr.contains("no sidecar serves"), "{}", nobody.stderr);
    a.start_sidecar();
    end(mesh);
}
