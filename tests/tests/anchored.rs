//! Without a gateway capsules reach machines outside from the host where they are, and such connections are bound to it: they
//! outlive its sidecar, and end at a move unless the host is to carry them on.

use std::time::Duration;

use serde_json::Value;
use testkit::{Host, Mesh, Process, wait_until};
use tests::{
    Ended, FaultySidecar, SOON, capsule_file, checked, end, ended, exec, move_to, place, resume, run, start,
    suspend, tool, wait_logged,
};

/// The sessions of a capsule, as the host where it is tells them.
#[track_caller]
fn sessions(host: &Host, name: &str) -> Vec<Value> {
    let answer = host.capsule(["--json", "sessions", name]).ok().json();
    answer["sessions"].as_array().expect("a list").clone()
}

/// Where the only session of a capsule is bound.
#[track_caller]
fn anchor(host: &Host, name: &str) -> Value {
    let all = sessions(host, name);
    assert_eq!(all.len(), 1, "{all:?}");
    all[0]["anchored"].clone()
}

/// A server on a machine without a sidecar, which has a byte-checked talk with one client.
#[track_caller]
fn serve(outsider: &Host, flags: &[&str]) -> (Process, String) {
    let place = format!("{}:7000", outsider.address());
    let mut server = outsider.spawn([&[tool("stream-peer").as_str(), "--listen", &place], flags].concat());
    wait_until(SOON, "the server outside", || {
        assert!(server.is_running(), "{}", server.stderr());
        server.stderr().contains("listening")
    });
    (server, place)
}

#[track_caller]
fn connect(host: &Host, name: &str, place: &str, flags: &[&str]) {
    start(host, name, &[&[tool("stream-peer").as_str(), "--connect", place], flags].concat());
    wait_logged(host, name, "connected");
}

#[track_caller]
fn moved(host: &Host, name: &str, to: &str, flags: &[&str]) -> Value {
    host.capsule([&["--json", "move", name, "--to", to], flags].concat()).ok().json()
}

#[test]
fn connections_leave_from_the_host_where_the_capsule_is() {
    let mesh = Mesh::new("anchor-out");
    mesh.host("b").configure("outside_reach = []");
    mesh.start(&["a", "b"]);
    let (a, b, outsider) = (mesh.host("a"), mesh.host("b"), mesh.host("outsider"));
    let server =
        ["redis-server", "--port", "6379", "--bind", "*", "-::*", "--protected-mode", "no", "--save", ""];
    let _server = outsider.spawn(server);
    for host in [&a, &b] {
        run(host, &format!("on-{}", host.name()), &[], &["sleep", "1000"]);
    }
    let redis = |host: &Host, name: &str, address: &str, port: &str, words: &[&str]| {
        let to = ["timeout", "10", "redis-cli", "-h", address, "-p", port];
        exec(host, name, &[&to[..], words].concat())
    };
    let [v4, v6] = [outsider.address().to_string(), outsider.address6().to_string()];
    let ready = || redis(&a, "on-a", &v4, "6379", &["ping"]).stdout.trim() == "PONG";
    wait_until(SOON, "redis answers", ready);
    for (address, own) in [(&v4, a.address().to_string()), (&v6, format!("[{}]", a.address6()))] {
        let clients = redis(&a, "on-a", address, "6379", &["client", "list"]).stdout;
        assert!(clients.contains(&format!(" addr={own}:")), "{own} in {clients}");
        let refused = redis(&a, "on-a", address, "6380", &["ping"]);
        assert!(refused.stderr.contains("Connection refused"), "{refused:?}");
        let switched_off = redis(&b, "on-b", address, "6379", &["ping"]);
        assert!(switched_off.stderr.contains("No route to host"), "{switched_off:?}");
    }
    // Nobody's locator, the outlet's own, and what means another machine everywhere.
    let outlet = a.capsule(["--json", "resolve", "outlet-a"]).ok().json();
    let outlet = outlet["locators"][0].as_str().expect("an address").to_owned();
    for address in ["10.88.200.200", "fd88::dead:beef", &outlet, "169.254.169.254"] {
        let nobody = redis(&a, "on-a", address, "6379", &["ping"]);
        assert!(nobody.stderr.contains("No route to host"), "{address}: {nobody:?}");
    }
    // A rule that denies it wins.
    let rule = a.capsule(["--json", "policy", "deny", "root/*", "host/outlet-a", "6379"]).ok().json();
    let denied = || redis(&a, "on-a", &v4, "6379", &["ping"]).stderr.contains("No route to host");
    wait_until(SOON, "the rule holds", denied);
    a.capsule(["policy", "remove", &rule["rule"]["id"].to_string()]).ok();
    // It is no capsule, and nobody else's; the next sidecar finds it, and a new shim takes the place of one that is gone.
    assert!(!a.capsule(["ps"]).ok().stdout.contains("outlet"));
    let removed = a.capsule(["--json", "rm", "--force", "outlet-a"]).exits(1).json();
    assert_eq!(removed["error"]["code"], "capsule/outlet", "{removed}");
    let own = a.capsule(["--json", "run", "mine", "--owner", "host", "-d", "--", "true"]).exits(1).json();
    assert_eq!(own["error"]["code"], "run/arguments", "{own}");
    a.kill_sidecar();
    let shim = std::fs::read_to_string(a.data().join("outlet/shim.pid")).expect("the shim has noted it");
    a.run(["kill", "-9", shim.trim()]).ok();
    a.start_sidecar();
    wait_until(SOON, "redis answers again", ready);
    let same = a.capsule(["--json", "resolve", "outlet-a"]).ok().json();
    assert_eq!(same["locators"][0], outlet.as_str(), "{same}");
    end(mesh);
}

/// Every byte arrives once while the sidecar is killed, the capsule moves away and onwards, and lies in a file.
#[test]
fn what_is_kept_goes_on_over_the_old_host() {
    let mesh = Mesh::running("anchor-kept", &["a", "b", "c"]);
    let (a, b, c, outsider) = (mesh.host("a"), mesh.host("b"), mesh.host("c"), mesh.host("outsider"));
    let amount = ["--send", "24M", "--receive", "24M", "--rate", "1500K"];
    let (mut server, to) = serve(&outsider, &amount);
    connect(&a, "client", &to, &amount);
    assert_eq!(anchor(&a, "client"), "a");
    assert!(a.capsule(["sessions", "client"]).ok().stdout.contains("a (anchored)"));
    a.kill_sidecar();
    a.start_sidecar();
    for (flags, ends) in [(&[][..], true), (&["--keep-anchored"], false)] {
        let words = [&["--json", "move", "client", "--to", "b", "--dry-run"], flags].concat();
        let told = a.capsule(words).ok().json();
        assert_eq!(told["anchored"][0]["host"], "a", "{told}");
        assert_eq!(told["anchored"][0]["remote"], to.as_str(), "{told}");
        let checks = told["checks"].as_array().expect("a list");
        let check = checks.iter().find(|check| check["code"] == "move/anchored");
        let check = check.unwrap_or_else(|| panic!("{told}"));
        assert_eq!(check["level"], if ends { "warn" } else { "ok" }, "{check}");
    }
    let seen = a.capsule(["--json", "inspect", "client"]).ok().json();
    assert_eq!(seen["anchored"][0]["host"], "a", "{seen}");
    let kept = moved(&a, "client", "b", &["--keep-anchored"]);
    assert_eq!((&kept["anchored"], &kept["anchored_kept"]), (&1.into(), &true.into()), "{kept}");
    assert_eq!(kept["sessions"], kept["sessions_before"], "{kept}");
    assert_eq!(anchor(&b, "client"), "a");
    a.kill_sidecar();
    a.start_sidecar();
    // It is bound to neither host of this move, and stays where it is.
    let onwards = moved(&b, "client", "c", &[]);
    assert_eq!((&onwards["anchored"], &onwards["sessions"]), (&0.into(), &1.into()), "{onwards}");
    assert_eq!(anchor(&c, "client"), "a");
    let carried = sessions(&a, "outlet-a");
    assert_eq!(
        (&carried[0]["anchored"], &carried[0]["peer_host"]),
        (&"a".into(), &"c".into()),
        "{carried:?}"
    );
    let file = capsule_file(&c, "client");
    suspend(&c, "client", &file, &[]);
    assert!(server.is_running(), "it waits");
    let elsewhere = capsule_file(&b, "client");
    std::fs::copy(&file, &elsewhere).expect("the file is there");
    resume(&b, &elsewhere, &[]);
    assert_eq!(anchor(&b, "client"), "a");
    let bytes = 24 << 20;
    checked(&ended(&b, "client", Duration::from_secs(60)), bytes, bytes);
    let said: Ended = server.wait(Duration::from_secs(10)).into();
    checked(&said, bytes, bytes);
    wait_until(SOON, "the host forgets it", || sessions(&a, "outlet-a").is_empty());
    end(mesh);
}

/// Without the flag both sides see a reset once the move is committed, whoever is killed; a move that fails changes nothing.
#[test]
fn what_is_not_kept_ends_at_the_move() {
    let mesh = Mesh::running("anchor-ends", &["b"]);
    let (a, b, outsider) = (mesh.host("a"), mesh.host("b"), mesh.host("outsider"));
    let mut source = FaultySidecar::start(&a, mesh.directory());
    for (name, point) in [("first", None), ("second", Some("release")), ("third", Some("anchored-ended"))] {
        let (mut server, to) = serve(&outsider, &["--send", "1G", "--rate", "1M"]);
        connect(&a, name, &to, &["--expect", "reset"]);
        for point in ["restore", "claim"] {
            source.fail_at(point);
            let failed = a.capsule(["move", name, "--to", "b"]).exits(1);
            source.heal();
            assert!(failed.stderr.contains("stays on a and runs"), "{failed:?}");
        }
        let received = || sessions(&a, name)[0]["bytes_in"].as_u64().expect("a number");
        let before = received();
        wait_until(SOON, "bytes after the moves that failed", || received() > before + (1 << 20));
        assert!(server.is_running(), "{}", server.stderr());
        match point {
            None => {
                let told = moved(&a, name, "b", &[]);
                assert_eq!((&told["anchored"], &told["anchored_kept"]), (&1.into(), &false.into()), "{told}");
                assert_eq!(told["sessions"], 0, "{told}");
            }
            Some(point) => {
                source.die_at(point);
                let mut moving = a.spawn_capsule(["move", name, "--to", "b"]);
                source.died();
                source.restart();
                moving.wait(SOON);
            }
        }
        let client = ended(&b, name, SOON);
        let said = client.json();
        assert_eq!((client.code, &said["connections"][0]["end"]), (0, &"reset".into()), "{said}");
        let said: Value = serde_json::from_str(&server.wait(SOON).stdout).expect("its summary");
        let error = said["connections"][0]["send_error"].as_str().unwrap_or_default();
        assert!(error.contains("reset") || error.contains("pipe"), "{said}");
        assert_eq!(place(&b, name).host, "b");
        assert_eq!(sessions(&a, "outlet-a"), Vec::<Value>::new());
    }
    for name in ["first", "second", "third"] {
        b.capsule(["rm", "--force", name]).ok();
    }
    drop(source);
    end(mesh);
}

/// Datagrams leave from the host too, and their answers come back; after a move they leave from the other one. Who has nobody
/// at a port is told so, and so is who is nowhere.
#[test]
fn datagrams_leave_from_the_host_where_the_capsule_is() {
    let mesh = Mesh::running("anchor-udp", &["a", "b"]);
    let (a, b, outsider) = (mesh.host("a"), mesh.host("b"), mesh.host("outsider"));
    let echo = outsider.spawn([tool("udp").as_str(), "echo", "[::]:7000"]);
    wait_until(SOON, "it listens", || echo.stdout().contains("bound") || echo.stderr().contains("bound"));
    run(&a, "probe", &[], &["sleep", "1000"]);
    let places = [format!("{}:7000", outsider.address()), format!("[{}]:7000", outsider.address6())];
    let udp = |words: &[&str]| exec(&a, "probe", &[&[tool("udp").as_str()], words].concat()).ok().json();
    let seen_from = |host: &Host| {
        let log = echo.stdout() + &echo.stderr();
        log.contains(&format!("[::ffff:{}]:", host.address()))
            && log.contains(&format!("[{}]:", host.address6()))
    };
    for host in [&a, &b] {
        assert!(!seen_from(host));
        let sizes = ["sizes", &places[0], &places[1], "--sizes", "0,1,1200,9000,65507", "--from", "7000"];
        assert_eq!(udp(&sizes)["exchanged"], 10);
        assert!(seen_from(host), "{}", echo.stdout());
        for dead in [format!("{}:7001", outsider.address()), format!("[{}]:7001", outsider.address6())] {
            assert_eq!(udp(&["once", &dead])["outcome"], "ECONNREFUSED", "{dead}");
        }
        assert_eq!(udp(&["once", "198.51.100.7:53"])["outcome"], "EHOSTUNREACH");
        host.kill_sidecar();
        host.start_sidecar();
        assert_eq!(udp(&sizes)["exchanged"], 10);
        if place(&a, "probe").host == "a" {
            move_to(&a, "probe", "b");
        }
    }
    end(mesh);
}

/// A host that was removed from the mesh and joined again gets another outlet with the next connect.
#[test]
fn an_outlet_that_was_removed_with_its_host_is_made_anew() {
    let mesh = Mesh::running("anchor-rejoin", &["a", "b"]);
    let (a, b, outsider) = (mesh.host("a"), mesh.host("b"), mesh.host("outsider"));
    let talk = |name: &str| {
        let (mut server, to) = serve(&outsider, &["--receive", "1M"]);
        start(&a, name, &[&tool("stream-peer"), "--connect", &to, "--send", "1M"]);
        checked(&ended(&a, name, SOON), 1 << 20, 0);
        let said: Ended = server.wait(SOON).into();
        checked(&said, 0, 1 << 20);
    };
    talk("before");
    let locator = || b.capsule(["--json", "resolve", "outlet-a"]).json()["locators"][0].clone();
    let first = locator();
    assert!(first.is_string(), "{first}");
    a.kill_sidecar();
    b.capsule(["hosts", "remove", "a", "--force"]).ok();
    assert!(locator().is_null(), "it is gone with its host");
    std::fs::remove_dir_all(a.data().join("identity")).expect("it had joined");
    a.join_mesh(mesh.directory()).ok();
    a.start_sidecar();
    talk("after");
    assert!(locator().is_string() && locator() != first, "{}", locator());
    end(mesh);
}
