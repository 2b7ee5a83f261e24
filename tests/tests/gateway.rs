//! A gateway: machines without a sidecar reach capsules by it, through moves, a suspend, and sidecars that are killed.

use std::time::Duration;

use serde_json::Value;
use testkit::{Host, Process, wait_until};
use tests::{
    Ended, Peer, capsule_file, checked, end, ended, exec, game_went_on, mesh_configured, mesh_with_gateway,
    move_to, publish, published, redis_clients, replace_sidecar, resume, run, start, start_redis, suspend,
    tool, wait_logged,
};

/// The locators of the gateway, IPv4 first.
#[track_caller]
fn gateway_locators(host: &Host) -> [String; 2] {
    let known = host.capsule(["--json", "resolve", "gateway-g"]).ok().json();
    [0, 1].map(|at| known["locators"][at].as_str().expect("an address").to_owned())
}

/// Lets a program end by itself, and looks at the JSON that it printed.
#[track_caller]
fn summary(mut program: Process, limit: Duration) -> Ended {
    program.wait(limit).into()
}

/// A stream of which every byte is checked comes in from outside while the capsule moves, and while every sidecar on its
/// way is killed.
#[test]
fn a_stream_from_outside_goes_on_through_moves_and_kills() {
    let (mesh, outsider) = mesh_with_gateway("gw-stream");
    let (a, b, g) = (mesh.host("a"), mesh.host("b"), mesh.host("g"));
    let amount = ["--send", "24M", "--receive", "24M", "--rate", "2M"];
    Peer::listen(&a, "server", &amount);
    let answer = publish(&a, &["server", "7000:17000"]);
    assert_eq!((&answer["port"], &answer["gateway"]), (&17000.into(), &"g".into()));
    let place = format!("{}:17000", g.address());
    let peer = tool("stream-peer");
    let client = outsider.spawn([&[peer.as_str(), "--connect", &place], &amount[..]].concat());
    wait_logged(&a, "server", "connected");
    assert_eq!(published(&b)[0]["connections"], 1);
    move_to(&a, "server", "b");
    replace_sidecar(&g);
    move_to(&a, "server", "a");
    replace_sidecar(&a);
    move_to(&b, "server", "b");
    replace_sidecar(&g);
    g.run([
        tool("capsule-sidecar").as_str(),
        "upgrade",
        "--shims",
        "--data",
        &g.data().display().to_string(),
    ])
    .ok();
    let amount = 24 << 20;
    checked(&summary(client, Duration::from_secs(60)), amount, amount);
    checked(&ended(&a, "server", Duration::from_secs(10)), amount, amount);
    wait_until(Duration::from_secs(5), "the gateway forgets it", || published(&b)[0]["connections"] == 0);
    end(mesh);
}

/// The counting client of `examples/db` keeps one connection for its life, and each answer must be the next one.
#[test]
fn a_published_redis_is_counted_over_both_families_while_it_moves() {
    let (mesh, outsider) = mesh_with_gateway("gw-redis");
    let (a, g) = (mesh.host("a"), mesh.host("g"));
    start_redis(&a, "redis");
    publish(&a, &["redis", "6379"]);
    let places = [format!("{}:6379", g.address()), format!("[{}]:6379", g.address6())];
    let counting = places.map(|place| {
        let name = if place.starts_with('[') { "v6" } else { "v4" };
        outsider.spawn([
            tool("db-client").as_str(),
            "--redis",
            &place,
            "--name",
            name,
            "--seconds",
            "12",
            "--json",
        ])
    });
    wait_until(Duration::from_secs(10), "both connections", || redis_clients(&a, "redis").len() == 2);
    // The program sees the gateway's locators.
    let [v4, v6] = gateway_locators(&a);
    let seen: Vec<String> = redis_clients(&a, "redis").into_iter().map(|client| client.address).collect();
    for locator in [v4, format!("[{v6}]")] {
        assert!(seen.iter().any(|address| address.starts_with(&locator)), "{locator} in {seen:?}");
    }
    for (to, then) in [("b", "g"), ("g", "a"), ("a", "b")] {
        move_to(&a, "redis", to);
        replace_sidecar(&mesh.host(then));
    }
    for client in counting {
        let said = summary(client, Duration::from_secs(30)).json();
        assert_eq!(
            (&said["ok"], &said["wrong"], &said["reconnects"]),
            (&true.into(), &0.into(), &0.into()),
            "{said}"
        );
        assert!(said["operations"].as_u64() > Some(1000), "no load: {said}");
    }
    end(mesh);
}

/// While the capsule lies in a file the machine's kernel sees a window that shrinks to nothing, and goes on afterwards.
#[test]
fn a_machine_outside_waits_while_the_capsule_is_suspended() {
    let (mesh, outsider) = mesh_with_gateway("gw-suspend");
    let (a, b, g) = (mesh.host("a"), mesh.host("b"), mesh.host("g"));
    Peer::listen(&a, "server", &["--receive", "64M"]);
    publish(&a, &["server", "7000"]);
    let place = format!("{}:7000", g.address());
    let words = [&tool("stream-peer"), "--connect", &place, "--send", "64M", "--rate", "32M"];
    let mut client = outsider.spawn(words);
    wait_logged(&a, "server", "connected");
    let file = capsule_file(&a, "server");
    suspend(&a, "server", &file, &[]);
    let probed = || {
        let seen = outsider.run(["ss", "-tnoH", "dport", "=", ":7000"]).ok().stdout;
        seen.contains("timer:(persist")
    };
    wait_until(Duration::from_secs(20), "its kernel probes a window of nothing", probed);
    replace_sidecar(&g);
    assert!(client.is_running());
    std::fs::copy(&file, capsule_file(&b, "server")).expect("the file is there");
    resume(&b, &capsule_file(&b, "server"), &[]);
    checked(&summary(client, Duration::from_secs(60)), 64 << 20, 0);
    checked(&ended(&b, "server", Duration::from_secs(10)), 0, 64 << 20);
    end(mesh);
}

/// A machine outside reaches what is published, and nothing else; what is not there refuses.
#[test]
fn nothing_is_reachable_but_what_is_published() {
    let (mesh, outsider) = mesh_configured("gw-firewall", "gateway_machine_max = 3");
    let (a, b, g) = (mesh.host("a"), mesh.host("b"), mesh.host("g"));
    start_redis(&a, "redis");
    let address = g.address().to_string();
    let ping = |port: &str| outsider.run(["redis-cli", "-h", &address, "-p", port, "ping"]);
    assert!(ping("6379").stderr.contains("Connection refused"), "not published");
    publish(&b, &["redis", "6379:7001"]);
    assert_eq!(ping("7001").ok().stdout.trim(), "PONG");
    assert_eq!(publish(&b, &["redis", "6379:7001"])["already"], true);
    // Any port, and one that is taken.
    let any = publish(&b, &["redis", "6379:0"])["port"].to_string();
    assert_eq!(ping(&any).ok().stdout.trim(), "PONG");
    let taken = b.capsule(["--json", "publish", "redis", "80:7001"]).exits(1).json();
    assert_eq!(taken["error"]["code"], "publish/port-taken", "{taken}");
    let used = b.capsule(["--json", "publish", "redis", "6379:9100"]).exits(1).json();
    assert_eq!(used["error"]["code"], "publish/failed", "{used}");
    assert_eq!(
        b.capsule(["--json", "publish", "nobody", "80"]).exits(1).json()["error"]["code"],
        "capsule/unknown"
    );
    // Nobody listens at that port of the capsule.
    publish(&b, &["redis", "81:7002"]);
    assert!(ping("7002").stderr.contains("reset") || ping("7002").stderr.contains("closed"));
    // The policy of across owners: each publication allows its port alone.
    let rules = a.capsule(["--json", "policy", "show"]).ok().json();
    assert_eq!(rules["rules"].as_array().map(Vec::len), Some(2), "{rules}");
    // One machine has no more connections than it may.
    let quiet = ["redis-cli", "-h", &address, "-p", "7001", "BLPOP", "nothing", "0"];
    let waiting: Vec<Process> = (0..3).map(|_| outsider.spawn(quiet)).collect();
    let all_in = || published(&b).iter().any(|one| one["gateway_port"] == 7001 && one["connections"] == 3);
    wait_until(Duration::from_secs(10), "three connections", all_in);
    assert_ne!(ping("7001").code, 0, "a fourth one");
    drop(waiting);
    wait_until(Duration::from_secs(10), "they are gone", || ping("7001").code == 0);
    // What is unpublished ends, its rule too; the same port published twice stays while one is left.
    let mut open = outsider.spawn(quiet);
    let is_in = || published(&b).iter().any(|one| one["gateway_port"] == 7001 && one["connections"] == 1);
    wait_until(Duration::from_secs(10), "its connection", is_in);
    b.capsule(["unpublish", "redis", "6379:7001"]).ok();
    assert!(ping("7001").stderr.contains("Connection refused"));
    assert!(open.is_running(), "the other publication allows it");
    // Its port is free at once, though connections that came by it are there.
    for _ in 0..20 {
        publish(&b, &["redis", "6379:7001"]);
        publish(&b, &["redis", "53:7001/udp"]);
        b.capsule(["unpublish", "redis", "6379:7001"]).ok();
        b.capsule(["unpublish", "redis", "53:7001/udp"]).ok();
    }
    b.capsule(["unpublish", "redis"]).ok();
    open.wait(Duration::from_secs(10));
    let rules = a.capsule(["--json", "policy", "show"]).ok().json();
    assert_eq!(rules["rules"].as_array().map(Vec::len), Some(0), "{rules}");
    assert_eq!(published(&a), Vec::<Value>::new());
    // What is published is again after the sidecar, and after the shim.
    publish(&b, &["redis", "6379:7003"]);
    replace_sidecar(&g);
    assert_eq!(ping("7003").ok().stdout.trim(), "PONG");
    // A gateway is no capsule, and a host that is one no more publishes nothing.
    let removed = a.capsule(["--json", "rm", "--force", "gateway-g"]).exits(1).json();
    assert_eq!(removed["error"]["code"], "capsule/gateway", "{removed}");
    let own = a.capsule(["--json", "run", "mine", "--owner", "outside", "-d", "--", "true"]).exits(1).json();
    assert_eq!(own["error"]["code"], "run/arguments", "{own}");
    g.stop_sidecar();
    g.set_environment(&[("CAPSULE_GATEWAY", "false")]);
    g.start_sidecar();
    assert!(ping("7003").stderr.contains("Connection refused"));
    let forgotten = || a.capsule(["resolve", "gateway-g"]).code == 1;
    wait_until(Duration::from_secs(10), "the directory forgets it", forgotten);
    let none = a.capsule(["--json", "publish", "redis", "6379"]).exits(1).json();
    assert_eq!(none["error"]["code"], "gateway/none", "{none}");
    assert!(!g.data().join("gateway").exists());
    end(mesh);
}

/// Capsules reach what the gateway may reach, by the policy, and their connections go on when they move.
#[test]
fn capsules_reach_machines_outside_and_move() {
    let reach = "gateway_reach = [\"0.0.0.0/0\", \"::/0\"]";
    let (mesh, outsider) = mesh_configured("gw-out", reach);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let _server = outsider.spawn([
        "redis-server",
        "--port",
        "6379",
        "--bind",
        "*",
        "--protected-mode",
        "no",
        "--save",
        "",
    ]);
    let place = format!("{}:6379", outsider.address());
    let asked = format!("redis-cli -h {} ping", outsider.address());
    run(&a, "probe", &[], &["sleep", "1000"]);
    let ping = || exec(&a, "probe", &["sh", "-c", &asked]);
    assert!(ping().stderr.contains("No route to host"), "the policy does not allow it: {:?}", ping());
    a.capsule(["policy", "allow", "root/*", "outside/*", "6379"]).ok();
    wait_until(Duration::from_secs(10), "redis answers", || ping().stdout.trim() == "PONG");
    start(&a, "client", &[&tool("db-client"), "--redis", &place, "--seconds", "10", "--json"]);
    for (to, then) in [("b", "g"), ("a", "b"), ("b", "g")] {
        std::thread::sleep(Duration::from_millis(500));
        move_to(&a, "client", to);
        replace_sidecar(&mesh.host(then));
    }
    let said = ended(&b, "client", Duration::from_secs(30)).json();
    assert_eq!(
        (&said["ok"], &said["wrong"], &said["reconnects"]),
        (&true.into(), &0.into(), &0.into()),
        "{said}"
    );
    assert_eq!(said["same_addresses"], true, "{said}");
    // Nobody listens there, no such machine is to be reached, and the gateway's own locator is no way in.
    let refused =
        exec(&a, "probe", &["redis-cli", "-h", &outsider.address().to_string(), "-p", "6380", "ping"]);
    assert!(refused.stderr.contains("No route to host"), "the policy allows one port: {refused:?}");
    a.capsule(["policy", "allow", "root/*", "outside/*"]).ok();
    let refused =
        exec(&a, "probe", &["redis-cli", "-h", &outsider.address().to_string(), "-p", "6380", "ping"]);
    assert!(refused.stderr.contains("Connection refused"), "{refused:?}");
    for address in ["203.0.113.5", "127.0.0.2", gateway_locators(&a)[0].as_str()] {
        let refused = exec(&a, "probe", &["redis-cli", "-h", address, "-p", "9100", "ping"]);
        assert_ne!(refused.code, 0, "{address}");
    }
    end(mesh);
}

/// Datagrams of any size come in over both families, and the answers go back from the address that was asked; a game goes on
/// through moves of its server and kills of the gateway's sidecar.
#[test]
fn a_game_from_outside_goes_on_through_moves_and_kills() {
    const SECONDS: u64 = 16;
    let (mesh, outsider) = mesh_with_gateway("gw-game");
    let (a, g) = (mesh.host("a"), mesh.host("g"));
    start(&a, "game", &[&tool("udp"), "echo", "[::]:7000"]);
    wait_logged(&a, "game", "bound");
    assert_eq!(publish(&a, &["game", "7000:17000/udp"])["protocol"], "udp");
    let play = |place: String| {
        outsider.spawn([tool("udp").as_str(), "flow", &place, "--seconds", &SECONDS.to_string()])
    };
    let players = [play(format!("{}:17000", g.address())), play(format!("[{}]:17000", g.address6()))];
    for (to, then) in [("b", "g"), ("a", "b"), ("b", "g")] {
        std::thread::sleep(Duration::from_millis(700));
        move_to(&a, "game", to);
        replace_sidecar(&mesh.host(then));
    }
    for player in players {
        let seen = summary(player, Duration::from_secs(30));
        game_went_on(&seen, SECONDS, 3);
    }
    // The program has seen one address of each player, whatever was killed.
    let listed = mesh.host("b").capsule(["--json", "sessions", "game"]).ok().json();
    let flows = listed["sessions"].as_array().map(Vec::len);
    assert_eq!(flows, Some(2), "{listed}");
    end(mesh);
}

/// What a machine said before it went away is heard, though the capsule was in a file all that time.
#[test]
fn what_was_said_to_a_suspended_capsule_is_heard() {
    let (mesh, outsider) = mesh_with_gateway("gw-late");
    let (a, g) = (mesh.host("a"), mesh.host("g"));
    Peer::listen(&a, "server", &["--receive", "100K", "--linger", "2"]);
    publish(&a, &["server", "7000"]);
    let file = capsule_file(&a, "server");
    suspend(&a, "server", &file, &[]);
    let place = format!("{}:7000", g.address());
    outsider.run([&tool("stream-peer"), "--connect", &place, "--send", "100K", "--close", "exit"]).ok();
    replace_sidecar(&g);
    resume(&a, &file, &[]);
    checked(&ended(&a, "server", Duration::from_secs(20)), 0, 100 << 10);
    end(mesh);
}

/// One connection after the other while the gateway's sidecar and the capsule's are killed and started: each waits rather
/// than fails.
#[test]
fn no_connect_fails_while_sidecars_are_replaced() {
    let (mesh, outsider) = mesh_with_gateway("gw-connects");
    let (a, g) = (mesh.host("a"), mesh.host("g"));
    start_redis(&a, "redis");
    publish(&a, &["redis", "6379"]);
    let line = format!(
        "i=0; while [ $i -lt 800 ]; do redis-cli -h {} ping || exit 1; i=$((i+1)); done",
        g.address()
    );
    let asking = outsider.spawn(["sh", "-c", &line]);
    for _ in 0..4 {
        for host in [&g, &a] {
            std::thread::sleep(Duration::from_millis(300));
            replace_sidecar(host);
        }
    }
    let said = summary(asking, Duration::from_secs(60));
    assert_eq!((said.code, said.stdout.matches("PONG").count()), (0, 800), "{said:?}");
    // Nor does one that waits behind others whose machines have reset them.
    g.kill_sidecar();
    let (peer, place) = (tool("stream-peer"), format!("{}:6379", g.address()));
    for _ in 0..3 {
        outsider.run([peer.as_str(), "--connect", &place, "--send", "1", "--close", "reset"]);
    }
    let waiting = outsider.spawn(["redis-cli", "-h", &g.address().to_string(), "ping"]);
    wait_until(Duration::from_secs(10), "its connection", || {
        !outsider.run(["ss", "-tnH", "state", "established", "dport", "=", ":6379"]).stdout.is_empty()
    });
    g.start_sidecar();
    assert_eq!(summary(waiting, Duration::from_secs(20)).stdout.trim(), "PONG");
    end(mesh);
}

/// What can't be served when a sidecar starts, after the gateway's shim has gone too, is served when it is published again.
#[test]
fn what_was_published_is_served_again_when_its_port_is_free() {
    let (mesh, outsider) = mesh_with_gateway("gw-again");
    let (a, g) = (mesh.host("a"), mesh.host("g"));
    start_redis(&a, "redis");
    publish(&a, &["redis", "6379:7003"]);
    let (address, place) = (g.address().to_string(), format!("{}:7003", g.address()));
    let ping = || outsider.run(["redis-cli", "-h", &address, "-p", "7003", "ping"]);
    assert_eq!(ping().ok().stdout.trim(), "PONG");
    g.kill_sidecar();
    let shim = std::fs::read_to_string(g.data().join("gateway/shim.pid")).expect("the shim has noted it");
    g.run(["kill", "-9", shim.trim()]).ok();
    let other = g.spawn([tool("stream-peer").as_str(), "--listen", &place]);
    wait_until(Duration::from_secs(10), "another program has the port", || {
        other.stderr().contains("listening")
    });
    g.start_sidecar();
    let gateway_serves = || a.capsule(["published", "--gateway", "g"]).code == 0;
    wait_until(Duration::from_secs(10), "the gateway serves", gateway_serves);
    let taken = a.capsule(["--json", "publish", "redis", "6379:7003"]).exits(1).json();
    assert_eq!(taken["error"]["code"], "publish/failed", "{taken}");
    drop(other);
    assert_eq!(publish(&a, &["redis", "6379:7003"])["already"], true);
    assert_eq!(ping().ok().stdout.trim(), "PONG");
    assert_eq!(published(&a).len(), 1);
    end(mesh);
}

/// Datagrams of any size go out from a port of the gateway's host, the same for all that one port of a program sends, through
/// moves and kills; nobody is heard who was not sent anything.
#[test]
fn datagrams_of_capsules_reach_machines_outside() {
    const SECONDS: u64 = 8;
    let reach = "gateway_reach = [\"0.0.0.0/0\", \"::/0\"]";
    let (mesh, outsider) = mesh_configured("gw-udp-out", reach);
    let (a, g) = (mesh.host("a"), mesh.host("g"));
    let other = mesh.host("other");
    let echoes = [&outsider, &other].map(|host| host.spawn([tool("udp").as_str(), "echo", "[::]:7000"]));
    let places = [format!("{}:7000", outsider.address()), format!("[{}]:7000", outsider.address6())];
    run(&a, "probe", &[], &["sleep", "1000"]);
    let udp = |words: &[&str]| exec(&a, "probe", &[&[tool("udp").as_str()], words].concat());
    assert_eq!(udp(&["once", &places[0]]).json()["outcome"], "EHOSTUNREACH", "the policy does not allow it");
    a.capsule(["policy", "allow", "root/*", "outside/*", "7000"]).ok();
    wait_until(Duration::from_secs(10), "an answer", || {
        udp(&["once", &places[0]]).json()["outcome"] == "answered"
    });
    let sizes = ["sizes", &places[0], &places[1], "--sizes", "0,1,1200,1500,9000,65507", "--from", "7000"];
    assert_eq!(udp(&sizes).ok().json()["exchanged"], 12);
    // What the network says of them is heard.
    a.capsule(["policy", "allow", "root/*", "outside/*", "7001"]).ok();
    let dead = [format!("{}:7001", outsider.address()), format!("[{}]:7001", outsider.address6())];
    for place in &dead {
        let refused = || udp(&["once", place]).json()["outcome"] == "ECONNREFUSED";
        wait_until(Duration::from_secs(10), "nobody is there", refused);
    }
    let nowhere = udp(&["once", "198.51.100.7:7000"]).json();
    assert_eq!(nowhere["outcome"], "EHOSTUNREACH", "{nowhere}");
    // To another machine from the same port; to nobody but these two it is there.
    let second = format!("{}:7000", other.address());
    assert_eq!(udp(&["sizes", &second, "--sizes", "100", "--from", "7000"]).ok().json()["exchanged"], 1);
    let seen_at = |echo: &Process| {
        let log = echo.stdout() + &echo.stderr();
        let from = format!("[::ffff:{}]:", g.address());
        let at = log.rfind(&from).unwrap_or_else(|| panic!("{from} is not in {log}"));
        let port: String = log[at + from.len()..].chars().take_while(char::is_ascii_digit).collect();
        port
    };
    let port = seen_at(&echoes[1]);
    let stranger = mesh.host("stranger");
    let there = format!("{}:{port}", g.address());
    let said = stranger.run([tool("udp").as_str(), "once", &there]).ok().json();
    assert_eq!(said["outcome"], "nothing", "{said}");
    // A game whose player is a capsule.
    let players = places.map(|place| {
        let name = if place.starts_with('[') { "six" } else { "four" };
        start(&a, name, &[&tool("udp"), "flow", &place, "--seconds", &SECONDS.to_string()]);
        name
    });
    for (to, then) in [("b", "g"), ("a", "b"), ("b", "g")] {
        std::thread::sleep(Duration::from_millis(500));
        players.iter().for_each(|player| drop(move_to(&a, player, to)));
        replace_sidecar(&mesh.host(then));
    }
    for player in players {
        let seen = ended(&mesh.host("b"), player, Duration::from_secs(30));
        game_went_on(&seen, SECONDS, 3);
    }
    end(mesh);
}

/// A host that was removed from the mesh and joined again is a gateway again, which publishes what it published.
#[test]
fn a_gateway_that_was_removed_and_joins_again_serves_again() {
    let (mesh, outsider) = mesh_with_gateway("gw-rejoin");
    let (a, g) = (mesh.host("a"), mesh.host("g"));
    start_redis(&a, "redis");
    publish(&a, &["redis", "6379:7001"]);
    let address = g.address().to_string();
    let ping = || outsider.run(["redis-cli", "-h", &address, "-p", "7001", "ping"]);
    assert_eq!(ping().ok().stdout.trim(), "PONG");
    let mut waiting = outsider.spawn(["redis-cli", "-h", &address, "-p", "7001", "BLPOP", "nothing", "0"]);
    wait_until(Duration::from_secs(10), "its connection", || published(&a)[0]["connections"] == 1);
    g.kill_sidecar();
    a.capsule(["hosts", "remove", "g", "--force"]).ok();
    assert_eq!(a.capsule(["resolve", "gateway-g"]).code, 1, "it is gone with its host");
    std::fs::remove_dir_all(g.data().join("identity")).expect("it had joined");
    g.join_mesh(mesh.directory()).ok();
    g.start_sidecar();
    wait_until(Duration::from_secs(20), "redis answers again", || ping().stdout.trim() == "PONG");
    // Its session was one of a gateway that there is no more.
    waiting.wait(Duration::from_secs(10));
    end(mesh);
}

/// A download of 200 MiB by curl, as slow as it is told to be, goes on through moves of the server and kills, and every byte
/// is the right one.
#[test]
fn a_slow_download_goes_on() {
    let (mesh, outsider) = mesh_with_gateway("gw-curl");
    let (a, g) = (mesh.host("a"), mesh.host("g"));
    let script = r#"mkdir -p /srv; head -c 200M /dev/urandom >/srv/blob; echo sum $(sha256sum </srv/blob); echo 'user root;
        daemon off; pid /tmp/pid; error_log stderr; events { } http { access_log off; server { listen 80; root /srv; } }' >/srv/conf
        nginx -t -c /srv/conf && echo ready; exec nginx -c /srv/conf"#;
    start(&a, "web", &["bash", "-c", script]);
    wait_logged(&a, "web", "ready");
    publish(&a, &["web", "80:8080"]);
    let line = format!("curl -sSf --limit-rate 16M http://{}:8080/blob | sha256sum", g.address());
    let mut download = outsider.spawn(["bash", "-o", "pipefail", "-c", &line]);
    wait_until(Duration::from_secs(10), "its connection", || published(&a)[0]["connections"] == 1);
    for (to, then) in [("b", "g"), ("a", "b"), ("b", "a")] {
        move_to(&a, "web", to);
        replace_sidecar(&mesh.host(then));
    }
    assert!(download.is_running(), "the moves took longer than the download");
    let got = summary(download, Duration::from_secs(60));
    let log = a.capsule(["logs", "web"]).ok().stdout;
    let sum = log.lines().find_map(|line| line.split_once("sum ")).expect("it was told").1;
    let first = |text: &str| text.split_whitespace().next().map(str::to_owned);
    assert_eq!((got.code, first(&got.stdout)), (0, first(sum)), "{got:?}");
    end(mesh);
}
