//! Sessions between capsules that stay where they are.

use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::{Host, Mesh, wait_for};
use tests::{
    Peer, checked, end, ended, exec, locators, place, redis_clients, run, start, start_redis, tool,
    wait_logged,
};

/// Less than the second after which a kernel repeats a lost SYN; the first connect makes a link, too.
const AT_ONCE_MS: f64 = 800.0;

#[track_caller]
fn probe(host: &Host, capsule: &str, place: &str, flags: &[&str]) -> Value {
    exec(host, capsule, &[&[tool("probe").as_str(), "connect", place], flags].concat()).ok().json()
}

#[track_caller]
fn counts(host: &Host, server: &str, name: &str, place: &str) {
    let client = tool("db-client");
    let argv = [client.as_str(), "--redis", place, "--count", "300", "--json", "--name", name];
    start(host, &format!("{name}-client"), &argv);
    let summary = ended(host, &format!("{name}-client"), Duration::from_secs(20)).json();
    assert_eq!(summary["operations"], 300, "{summary}");
    let (own4, own6) = locators(host, &format!("{name}-client"));
    let (server4, server6) = locators(host, server);
    let (local, peer) = (summary["local"].to_string(), summary["peer"].to_string());
    let by4 = local.contains(&format!("{own4}:")) && peer.contains(&format!("{server4}:6379"));
    let by6 = local.contains(&format!("[{own6}]:")) && peer.contains(&format!("[{server6}]:6379"));
    assert!(by4 || by6, "the client's socket has other addresses than the capsules: {summary}");
}

#[test]
fn redis_over_both_families_by_name_and_locator() {
    let mesh = Mesh::running("redis", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    start_redis(&a, "redis");
    let (v4, v6) = locators(&b, "redis");
    let places = [
        ("name", "redis.capsule.internal:6379".to_owned()),
        ("short", "redis:6379".to_owned()),
        ("four", format!("{v4}:6379")),
        ("six", format!("[{v6}]:6379")),
    ];
    for (name, place) in &places {
        counts(&b, "redis", name, place);
        counts(&a, "redis", &format!("{name}here"), place);
    }
    // Redis sees the client's own locator and port, not something in between.
    start(&b, "shell", &["sleep", "600"]);
    for (place, own) in [(&v4, 0), (&v6, 1)] {
        let argv = ["sh", "-c", &format!("(echo CLIENT LIST; sleep 1) | redis-cli -h {place}")];
        let seen = exec(&b, "shell", &argv).ok().stdout;
        let line = seen.lines().find(|line| line.starts_with("id=")).unwrap_or_else(|| panic!("{seen}"));
        let address = line.split(' ').find_map(|word| word.strip_prefix("addr=")).unwrap_or_default();
        let shell = [locators(&b, "shell").0, format!("[{}]", locators(&b, "shell").1)][own].clone();
        assert!(address.starts_with(&format!("{shell}:")), "{line}");
    }
    assert_eq!(redis_clients(&a, "redis"), [], "clients that ended are still connected");
    end(mesh);
}

#[test]
fn a_connect_tells_the_truth_at_once() {
    let mesh = Mesh::new("connect");
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    for host in [&a, &b] {
        host.configure("outside_reach = []");
    }
    mesh.start(&["a", "b"]);
    start_redis(&a, "redis");
    start(&b, "shell", &["sleep", "600"]);
    start(&a, "neighbour", &["sleep", "600"]);
    let (v4, v6) = locators(&a, "redis");
    for (host, capsule) in [(&b, "shell"), (&a, "neighbour")] {
        let (own4, own6) = locators(host, capsule);
        for (place, own) in [(v4.clone(), own4), (format!("[{v6}]"), format!("[{own6}]"))] {
            for flags in [&[][..], &["--nonblocking"]] {
                let asked = format!("{capsule} to {place} {flags:?}");
                let open = probe(host, capsule, &format!("{place}:6379"), flags);
                assert_eq!(open["outcome"], "connected", "{asked}: {open}");
                assert_eq!(open["peer"], format!("{place}:6379"), "{asked}: {open}");
                let local = open["local"].as_str().unwrap_or_default();
                assert!(local.starts_with(&format!("{own}:")), "{asked}: {open}");
                let shut = probe(host, capsule, &format!("{place}:6380"), flags);
                assert_eq!(shut["outcome"], "ECONNREFUSED", "{asked}: {shut}");
                for answer in [&open, &shut] {
                    assert!(answer["ms"].as_f64().unwrap_or(f64::MAX) < AT_ONCE_MS, "{asked}: {answer}");
                    if !flags.is_empty() {
                        assert_eq!(answer["at_first"], "EINPROGRESS", "{asked}: {answer}");
                        assert!(answer["first_ms"].as_f64().unwrap_or(f64::MAX) < 100.0, "{asked}: {answer}");
                    }
                }
            }
        }
        // Nobody's locator, and addresses outside the mesh.
        for place in ["10.88.200.200:80", "[fd88::dead:beef]:80", "192.0.2.10:4433", "198.51.100.7:80"] {
            let answer = probe(host, capsule, place, &[]);
            assert_eq!(answer["outcome"], "EHOSTUNREACH", "{capsule} to {place}: {answer}");
            let ms = answer["ms"].as_f64().unwrap_or(f64::MAX);
            assert!(ms < AT_ONCE_MS, "{capsule} to {place}: {answer}");
        }
    }
    // A capsule that was removed is nowhere.
    a.capsule(["rm", "--force", "redis"]).ok();
    let gone = probe(&b, "shell", &format!("{v4}:6379"), &[]);
    assert_eq!(gone["outcome"], "EHOSTUNREACH", "{gone}");
    end(mesh);
}

#[test]
fn fin_and_half_close_arrive_as_what_they_are() {
    let mesh = Mesh::running("ends", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    for (peer_host, tag) in [(&b, "far"), (&a, "near")] {
        // The connecting side ends its direction at once; what comes the other way still arrives, and then an end.
        let (server, client) = (format!("half-{tag}"), format!("half-{tag}-client"));
        let slow = ["--send", "8M", "--rate", "8M", "--receive", "64K", "--close", "half"];
        Peer::listen(&a, &server, &slow);
        let to = format!("{server}.capsule.internal:7000");
        Peer::connect(peer_host, &client, &to, &["--send", "64K", "--receive", "8M", "--close", "half"]);
        checked(&ended(peer_host, &client, Duration::from_secs(20)), 64 << 10, 8 << 20);
        checked(&ended(&a, &server, Duration::from_secs(20)), 8 << 20, 64 << 10);
        // The program ends after its last write: the reader gets everything and then the end.
        let (server, client) = (format!("exit-{tag}"), format!("exit-{tag}-client"));
        Peer::listen(&a, &server, &["--send", "4M", "--close", "exit"]);
        let to = format!("{server}.capsule.internal:7000");
        Peer::connect(peer_host, &client, &to, &["--receive", "4M", "--read-after", "2", "--linger", "4"]);
        assert_eq!(ended(&a, &server, Duration::from_secs(20)).code, 0);
        checked(&ended(peer_host, &client, Duration::from_secs(20)), 0, 4 << 20);
        // A reset by choice (SO_LINGER 0) is not an end.
        let (server, client) = (format!("reset-{tag}"), format!("reset-{tag}-client"));
        Peer::listen(&a, &server, &["--send", "1M", "--linger", "1", "--close", "reset"]);
        let to = format!("{server}.capsule.internal:7000");
        Peer::connect(peer_host, &client, &to, &["--receive", "1M", "--expect", "reset", "--linger", "4"]);
        assert_eq!(ended(&a, &server, Duration::from_secs(20)).code, 0);
        let seen = ended(peer_host, &client, Duration::from_secs(20));
        assert!(seen.stdout.contains("\"end\":\"reset\""), "{seen:?}");
        assert!(seen.stdout.contains(&format!("\"received\":{}", 1 << 20)), "{seen:?}");
    }
    end(mesh);
}

/// A program that is killed with unread data resets its connections: who waits in a write is woken.
#[test]
fn a_killed_program_wakes_a_blocked_writer() {
    let mesh = Mesh::running("killed", &["a", "b"]);
    wakes_a_writer(&mesh.host("a"), &mesh.host("b"), "far");
    wakes_a_writer(&mesh.host("a"), &mesh.host("a"), "near");
    end(mesh);
}

#[track_caller]
fn wakes_a_writer(a: &Host, host: &Host, tag: &str) {
    let (reader, writer) = (format!("reader-{tag}"), format!("writer-{tag}"));
    let peer = tool("stream-peer");
    let line = format!("{peer} --listen [::]:7000 --read-after 600 & echo $! > /tmp/pid; wait; sleep 600");
    start(a, &reader, &["sh", "-c", &line]);
    wait_logged(a, &reader, "listening on");
    Peer::connect(host, &writer, &format!("{reader}.capsule.internal:7000"), &["--send", "256M"]);
    // Until every queue on the way is full.
    let mut last = (0, Instant::now());
    wait_for(Duration::from_secs(20), "the writer to be blocked", || {
        let listed = host.capsule(["--json", "sessions", &writer]).ok().json();
        let sent = listed["sessions"][0]["bytes_out"].as_u64().unwrap_or(0);
        if sent != last.0 {
            last = (sent, Instant::now());
        }
        (sent > 0 && last.1.elapsed() > Duration::from_secs(1)).then_some(())
    });
    assert_eq!(place(host, &writer).state, "running");
    exec(a, &reader, &["sh", "-c", "kill -9 $(cat /tmp/pid)"]).ok();
    let killed = Instant::now();
    let seen = ended(host, &writer, Duration::from_secs(10));
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(2), "woken after {took:?}: {seen:?}");
    let told = ["reset by peer", "Broken pipe"].iter().any(|word| seen.stdout.contains(word));
    assert!(seen.code == 1 && told, "{seen:?}");
}

#[test]
fn names_resolve_inside_a_capsule() {
    let mesh = Mesh::running("names", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    start(&a, "server", &["sleep", "600"]);
    start(&b, "shell", &["sleep", "600"]);
    let (v4, v6) = locators(&b, "server");
    for name in ["server.capsule.internal", "server"] {
        let ahosts = |family: &str| exec(&b, "shell", &["getent", family, name]).ok().stdout;
        assert!(ahosts("ahostsv4").contains(&v4), "{name}");
        assert!(ahosts("ahostsv6").contains(&v6), "{name}");
        let hosts = ahosts("hosts");
        assert!(hosts.contains(&v4) || hosts.contains(&v6), "{name}: {hosts}");
    }
    // Its own name, without asking anybody.
    let own = exec(&b, "shell", &["getent", "hosts", "shell"]).ok().stdout;
    assert!(own.contains(&locators(&b, "shell").1) || own.contains(&locators(&b, "shell").0), "{own}");
    // Others are answered, one way or the other: the hosts of this mesh reach no other resolver.
    for (name, limit) in [("nobody.capsule.internal", 2), ("www.example.org", 25)] {
        let began = Instant::now();
        let output = exec(&b, "shell", &["getent", "ahostsv4", name]);
        assert_eq!(output.code, 2, "{name}: {output:?}");
        assert!(began.elapsed() < Duration::from_secs(limit), "{name} took {:?}", began.elapsed());
    }
    // A capsule that comes later is found at once, although its name was asked for before.
    run(&a, "nobody", &[], &["sleep", "600"]);
    let (late, _) = locators(&a, "nobody");
    let found = wait_for(Duration::from_secs(15), "the new name", || {
        let output = exec(&b, "shell", &["getent", "ahostsv4", "nobody.capsule.internal"]);
        output.stdout.contains(&late).then_some(output)
    });
    found.ok();
    end(mesh);
}
