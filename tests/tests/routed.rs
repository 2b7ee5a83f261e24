//! A machine without a sidecar that routes the locators to a gateway: it reaches every capsule that the policy lets it reach
//! by locator and name, with its own address, through moves, a suspend, and sidecars that are killed.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use testkit::{Host, Mesh, Output, wait_until};
use tests::{
    Ended, Peer, capsule_file, checked, end, ended, game_went_on, locators, move_to, redis_clients,
    replace_sidecar, resume, start, start_redis, suspend, tool, wait_logged,
};

const SOON: Duration = Duration::from_secs(10);

/// Hosts `a` and `b`, a gateway `g` that takes what `machine` routes there, and that machine.
fn mesh_with_router(name: &str, gateway: &str) -> (Mesh, Host) {
    let mesh = Mesh::new(name);
    let (g, machine) = (mesh.host("g"), mesh.host("machine"));
    g.be_gateway();
    let own = format!("{}/32\", \"{}/128", machine.address(), machine.address6());
    g.configure(&format!("gateway_routed = [\"{own}\"]\n{gateway}"));
    mesh.start(&["a", "b", "g"]);
    route(&g, &machine);
    let rules = || g.run(["nft", "list", "table", "inet", "capsule-gateway"]).code == 0;
    wait_until(SOON, "the gateway takes what is routed", rules);
    (mesh, machine)
}

/// Has a machine route all locators to the gateway.
fn route(g: &Host, machine: &Host) {
    machine.run(["ip", "route", "add", "10.88.0.0/16", "via", &g.address().to_string()]).ok();
    machine.run(["ip", "route", "add", "fd88::/64", "via", &g.address6().to_string()]).ok();
}

fn allow(host: &Host, words: &[&str]) {
    host.capsule([&["policy", "allow"], words].concat()).ok();
}

/// Runs a command of the machine with the directory as its name server.
#[track_caller]
fn with_names(mesh: &Mesh, machine: &Host, line: &str) -> Output {
    let file = mesh.dir().join("resolv.conf");
    std::fs::write(&file, format!("nameserver {}\n", mesh.directory().dns().ip())).expect("it is ours");
    let bind = format!("mount --bind {} /etc/resolv.conf && {line}", file.display());
    machine.run(["unshare", "--mount", "sh", "-c", &bind])
}

/// What became of a ping.
#[track_caller]
fn pinged(machine: &Host, address: &str, size: &str) -> String {
    let said = machine.run([tool("udp").as_str(), "ping", address, "--size", size]).ok().json();
    said["outcome"].as_str().unwrap_or_default().to_owned()
}

/// Addresses of a machine, IPv4 first, as they stand before a port.
fn own_addresses(machine: &Host) -> [String; 2] {
    [machine.address().to_string(), format!("[{}]", machine.address6())]
}

/// By locator and name, over both families, and the program sees who asks; what the policy does not let it have, what does
/// not listen and what does not exist is told before a connection is made.
#[test]
fn a_machine_reaches_capsules_by_locator_and_name() {
    let (mesh, machine) = mesh_with_router("routed", "gateway_machine_max = 4");
    let (a, g) = (mesh.host("a"), mesh.host("g"));
    start_redis(&a, "redis");
    let (v4, v6) = locators(&a, "redis");
    let ping = |address: &str, port: &str| machine.run(["redis-cli", "-h", address, "-p", port, "ping"]);
    for address in [&v4, &v6] {
        assert!(ping(address, "6379").stderr.contains("No route to host"), "{:?}", ping(address, "6379"));
    }
    let inspected = a.capsule(["--json", "inspect", "redis"]).ok().json();
    assert!(inspected["policy"]["denied_in"].as_u64() >= Some(2), "{inspected}");
    allow(&a, &["outside/*", "root/redis", "6379"]);
    for address in [&v4, &v6] {
        wait_until(SOON, "the rule holds", || ping(address, "6379").stdout.trim() == "PONG");
    }
    assert!(ping(&v4, "6380").stderr.contains("No route to host"), "one port is allowed");
    allow(&a, &["outside/*", "root/redis"]);
    for address in [&v4, &v6] {
        let refused = || ping(address, "6380").stderr.contains("Connection refused");
        wait_until(SOON, "nobody listens there", refused);
    }
    for nobody in ["10.88.200.200", "fd88::dead:beef"] {
        assert!(ping(nobody, "6379").stderr.contains("No route to host"), "{:?}", ping(nobody, "6379"));
    }
    let named = with_names(&mesh, &machine, "redis-cli -h redis.capsule.internal ping");
    assert_eq!(named.ok().stdout.trim(), "PONG");
    // Who it is, and how many it may be.
    let quiet = [&v4, &v6].map(|to| machine.spawn(["redis-cli", "-h", to, "BLPOP", "nothing", "0"]));
    wait_until(SOON, "both are in", || redis_clients(&a, "redis").len() >= 2);
    let seen: Vec<String> = redis_clients(&a, "redis").into_iter().map(|client| client.address).collect();
    for own in own_addresses(&machine) {
        assert!(seen.iter().any(|address| address.starts_with(&own)), "{own} in {seen:?}");
    }
    let more: Vec<_> =
        (0..3).map(|_| machine.spawn(["redis-cli", "-h", &v4, "BLPOP", "nothing", "0"])).collect();
    wait_until(SOON, "all that it may have", || redis_clients(&a, "redis").len() >= 5);
    assert!(ping(&v4, "6379").stderr.contains("Connection refused"), "a fifth one: {:?}", ping(&v4, "6379"));
    drop((quiet, more));
    wait_until(SOON, "they are gone", || ping(&v4, "6379").stdout.trim() == "PONG");
    machine.run(["sh", "-c", "echo 0 0 > /proc/sys/net/ipv4/ping_group_range"]).ok();
    // Pings are answered by who is there, of any size.
    for address in [&v4, &v6] {
        for size in ["0", "56", "4000"] {
            assert_eq!(pinged(&machine, address, size), "answered", "{address} {size}");
        }
    }
    for nobody in ["10.88.200.200", "fd88::dead:beef"] {
        assert_eq!(pinged(&machine, nobody, "56"), "EHOSTUNREACH", "{nobody}");
    }
    // A machine that is in none of the networks gets nothing, and the gateway's own ports are not at locators.
    let stranger = mesh.host("stranger");
    route(&g, &stranger);
    let dials = |port: &str| stranger.run(["timeout", "2", "redis-cli", "-h", &v4, "-p", port, "ping"]);
    assert_eq!(dials("6379").code, 124, "{:?}", dials("6379"));
    assert!(ping(&v4, "9100").stderr.contains("Connection refused"), "{:?}", ping(&v4, "9100"));
    end(mesh);
}

/// Every byte of a stream over either family, through moves and a suspend of the capsule and a kill of each sidecar.
#[test]
fn streams_of_a_machine_go_on() {
    let (mesh, machine) = mesh_with_router("routed-go", "");
    let (a, b, g) = (mesh.host("a"), mesh.host("b"), mesh.host("g"));
    allow(&a, &["outside/*", "root/*"]);
    let amount = ["--send", "24M", "--receive", "24M", "--rate", "2M"];
    let servers = ["four", "six"];
    servers.iter().for_each(|name| Peer::listen(&a, name, &amount));
    let place = |name: &str| match locators(&a, name) {
        (v4, _) if name == "four" => format!("{v4}:7000"),
        (_, v6) => format!("[{v6}]:7000"),
    };
    let peer = tool("stream-peer");
    let clients = servers.map(|name| {
        let place = place(name);
        machine.spawn([&[peer.as_str(), "--connect", &place], &amount[..]].concat())
    });
    servers.iter().for_each(|name| wait_logged(&a, name, "connected"));
    for (from, to, then) in [(&a, "b", &g), (&b, "a", &a), (&a, "b", &g)] {
        servers.iter().for_each(|name| drop(move_to(from, name, to)));
        replace_sidecar(then);
    }
    let file = capsule_file(&b, "four");
    suspend(&b, "four", &file, &[]);
    replace_sidecar(&g);
    let moved = capsule_file(&a, "four");
    std::fs::copy(&file, &moved).expect("the file is there");
    resume(&a, &moved, &[]);
    for client in clients {
        let mut client = client;
        let ended: Ended = client.wait(Duration::from_secs(60)).into();
        checked(&ended, 24 << 20, 24 << 20);
    }
    for (host, name) in [(&a, "four"), (&b, "six")] {
        checked(&ended(host, name, Duration::from_secs(10)), 24 << 20, 24 << 20);
    }
    end(mesh);
}

/// One connection after the other while both sidecars are killed and started: each waits rather than fails.
#[test]
fn no_connect_of_a_machine_fails_while_sidecars_are_replaced() {
    let (mesh, machine) = mesh_with_router("routed-new", "");
    let (a, g) = (mesh.host("a"), mesh.host("g"));
    start_redis(&a, "redis");
    allow(&a, &["outside/*", "root/*"]);
    let (v4, _) = locators(&a, "redis");
    let line = format!("i=0; while [ $i -lt 400 ]; do redis-cli -h {v4} ping || exit 1; i=$((i+1)); done");
    let mut asking = machine.spawn(["sh", "-c", &line]);
    for _ in 0..3 {
        for host in [&g, &a] {
            sleep(Duration::from_millis(300));
            replace_sidecar(host);
        }
    }
    let said: Ended = asking.wait(Duration::from_secs(90)).into();
    assert_eq!((said.code, said.stdout.matches("PONG").count()), (0, 400), "{said:?}");
    end(mesh);
}

/// Datagrams of any size both ways, with the machine's own address; a game through moves and kills; a port where nobody is.
#[test]
fn datagrams_of_a_machine_go_both_ways() {
    let (mesh, machine) = mesh_with_router("routed-udp", "");
    let (a, g) = (mesh.host("a"), mesh.host("g"));
    allow(&a, &["outside/*", "root/*"]);
    start(&a, "game", &[&tool("udp"), "echo", "[::]:7000"]);
    wait_logged(&a, "game", "bound");
    let (v4, v6) = locators(&a, "game");
    let udp = |words: &[&str]| machine.run([&[tool("udp").as_str()], words].concat());
    let places = [format!("{v4}:7000"), format!("[{v6}]:7000")];
    let sizes =
        udp(&["sizes", &places[0], &places[1], "--sizes", "0,1,1200,1500,9000,65507", "--from", "7000"]);
    assert_eq!(sizes.ok().json()["exchanged"], 12);
    let log = a.capsule(["logs", "game"]).ok().stdout;
    for own in [format!("[::ffff:{}]:7000", machine.address()), format!("[{}]:7000", machine.address6())] {
        assert!(log.contains(&own), "{own} is not in {log}");
    }
    for place in [format!("{v4}:7001"), format!("[{v6}]:7001")] {
        assert_eq!(udp(&["once", &place]).ok().json()["outcome"], "ECONNREFUSED", "{place}");
    }
    assert_eq!(udp(&["once", "10.88.200.200:7000"]).ok().json()["outcome"], "EHOSTUNREACH");
    let players = places.map(|place| machine.spawn([tool("udp").as_str(), "flow", &place, "--seconds", "8"]));
    for (to, then) in [("b", "g"), ("a", "b")] {
        sleep(Duration::from_millis(700));
        move_to(&a, "game", to);
        replace_sidecar(&mesh.host(then));
    }
    for mut player in players {
        let seen: Ended = player.wait(Duration::from_secs(30)).into();
        game_went_on(&seen, 8, 2);
    }
    drop(g);
    end(mesh);
}

/// A host that is no gateway for machines any more leaves nothing of it in its network.
#[test]
fn what_is_switched_off_leaves_nothing() {
    let (mesh, machine) = mesh_with_router("routed-off", "");
    let (a, g) = (mesh.host("a"), mesh.host("g"));
    start_redis(&a, "redis");
    allow(&a, &["outside/*", "root/*"]);
    let (v4, _) = locators(&a, "redis");
    let ping = || machine.run(["timeout", "2", "redis-cli", "-h", &v4, "ping"]);
    wait_until(SOON, "the rule holds", || ping().stdout.trim() == "PONG");
    g.stop_sidecar();
    g.set_environment(&[("CAPSULE_GATEWAY_ROUTED", "[]")]);
    g.start_sidecar();
    let rules = || g.run(["nft", "list", "table", "inet", "capsule-gateway"]).code == 0;
    wait_until(SOON, "the rules are gone", || !rules());
    assert_ne!(ping().code, 0);
    for family in ["-4", "-6"] {
        let left = g.run(["ip", family, "rule"]).ok().stdout;
        assert!(!left.contains("0xc115"), "{left}");
    }
    assert!(Path::new(&g.data()).join("gateway").exists(), "it publishes as before");
    g.stop_sidecar();
    g.set_environment(&[]);
    g.start_sidecar();
    wait_until(SOON, "it takes what is routed again", || ping().stdout.trim() == "PONG");
    g.stop_sidecar();
    g.set_environment(&[("CAPSULE_GATEWAY", "false")]);
    g.start_sidecar();
    wait_until(SOON, "the rules are gone", || !rules());
    end(mesh);
}
