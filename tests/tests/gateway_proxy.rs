//! The PROXY protocol at a gateway: programs are told which machine a connection comes from, once, as its first bytes,
//! through moves and sidecars that are killed.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use testkit::{Host, wait_until};
use tests::{
    Peer, checked, end, ended, mesh_with_gateway, move_to, publish, published, replace_sidecar, start,
    start_redis, tool, wait_logged,
};

const SOON: Duration = Duration::from_secs(20);

/// An nginx that takes nothing but connections with a PROXY header, and answers with what it said.
#[track_caller]
fn start_nginx(host: &Host) {
    let script = r#"mkdir -p /srv; echo 'user root; worker_processes 2; daemon off; pid /tmp/pid; error_log stderr; events { }
        http { access_log off; server { listen 80 proxy_protocol; listen [::]:80 proxy_protocol; location / {
        return 200 "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port\n"; } } }' >/srv/conf
        nginx -t -c /srv/conf && echo ready; exec nginx -c /srv/conf"#;
    start(host, "web", &["bash", "-c", script]);
    wait_logged(host, "web", "ready");
}

/// A connection of a machine outside.
struct Browser {
    stream: TcpStream,
}

impl Browser {
    #[track_caller]
    fn connect(outsider: &Host, place: SocketAddr) -> Self {
        let stream = outsider.inside(|| TcpStream::connect(place)).expect("the gateway listens");
        stream.set_read_timeout(Some(SOON)).expect("a time");
        Self { stream }
    }

    /// Asks, and reads what nginx says of the connection: it must be the truth.
    #[track_caller]
    fn ask(&mut self) {
        self.stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").expect("the connection is open");
        let mut answer = String::new();
        let mut bytes = [0; 1024];
        while !answer.ends_with('\n') || !answer.contains("\r\n\r\n") {
            let count = self.stream.read(&mut bytes).expect("an answer");
            assert_ne!(count, 0, "it ended after {answer:?}");
            answer.push_str(std::str::from_utf8(&bytes[..count]).expect("text"));
        }
        let (own, dialled) = (self.stream.local_addr(), self.stream.peer_addr());
        let mut truth = String::new();
        for address in [own, dialled].map(|address| address.expect("it is open")) {
            let _ = write!(truth, "{} {} ", address.ip(), address.port());
        }
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.trim());
        assert_eq!(body, Some(truth.trim()), "{answer}");
    }
}

/// nginx is told the machine's own address, over both families: on new connections while sidecars are killed right at the
/// connect, and on those that stay open through kills and moves.
#[test]
fn nginx_is_told_which_machine_it_is() {
    let (mesh, outsider) = mesh_with_gateway("gw-nginx");
    let (a, b, g) = (mesh.host("a"), mesh.host("b"), mesh.host("g"));
    start_nginx(&a);
    publish(&a, &["web", "80:8080", "--proxy-protocol"]);
    let addresses = [IpAddr::from(g.address()), IpAddr::from(g.address6())];
    let places = addresses.map(|address| SocketAddr::new(address, 8080));
    let connect = || places.map(|place| Browser::connect(&outsider, place));
    let mut open = Vec::from(connect());
    open.iter_mut().for_each(Browser::ask);
    for (host, to) in [(&g, &b), (&a, &a), (&b, &b), (&g, &a)] {
        // One that nobody has accepted yet, one that is anywhere, and one that has said nothing so far.
        open.extend(connect());
        host.kill_sidecar();
        open.extend(connect());
        host.start_sidecar();
        open.extend(connect());
        open.iter_mut().for_each(Browser::ask);
        open.extend(connect());
        if a.capsule(["--json", "resolve", "web"]).ok().json()["host"] != to.name() {
            move_to(&a, "web", to.name());
        }
        open.iter_mut().for_each(Browser::ask);
    }
    drop(open);
    end(mesh);
}

/// Each of many connections begins with its header and has no byte of it twice: the gateway's sidecar is killed while they
/// come in, the capsule's while they wait to be accepted, and the capsule moves, which dials them again.
#[test]
fn every_byte_behind_the_header_is_right() {
    const CONNECTIONS: u64 = 40;
    const EACH: u64 = 1 << 20;
    let (mesh, outsider) = mesh_with_gateway("gw-header");
    let (a, g) = (mesh.host("a"), mesh.host("g"));
    let (count, bytes) = (CONNECTIONS.to_string(), EACH.to_string());
    let both = ["--connections", &count, "--send", &bytes, "--receive", &bytes, "--rate", "400K"];
    Peer::listen(&a, "server", &[&both[..], &["--proxy-protocol", "--accept-after", "7"]].concat());
    publish(&a, &["server", "7000", "--proxy-protocol"]);
    let (peer, place) = (tool("stream-peer"), format!("{}:7000", g.address()));
    let words = [&[peer.as_str(), "--connect", &place][..], &both].concat();
    let mut client = outsider.spawn(words);
    wait_until(SOON, "the first of them", || published(&a)[0]["connections"].as_u64() > Some(0));
    replace_sidecar(&g);
    let sessions = || {
        let listed = a.capsule(["--json", "sessions", "server"]).ok().json();
        listed["sessions"].as_array().map_or(0, Vec::len) as u64
    };
    wait_until(SOON, "all of them", || sessions() == CONNECTIONS);
    replace_sidecar(&a);
    move_to(&a, "server", "b");
    assert!(!a.capsule(["logs", "server"]).ok().stdout.contains("connected"), "they waited to be accepted");
    wait_logged(&a, "server", "connected");
    for then in ["g", "b"] {
        replace_sidecar(&mesh.host(then));
    }
    move_to(&a, "server", "a");
    let sent = checked(&client.wait(Duration::from_secs(60)).into(), CONNECTIONS * EACH, CONNECTIONS * EACH);
    let said = checked(&ended(&a, "server", SOON), CONNECTIONS * EACH, CONNECTIONS * EACH);
    let all = |summary: &Value, key: &str| -> HashSet<String> {
        let connections = summary["connections"].as_array().expect("a list");
        connections.iter().map(|one| one[key].to_string()).collect()
    };
    let true_ones: HashSet<String> =
        all(&sent, "local").into_iter().map(|own| format!("[{own},\"{place}\"]")).collect();
    assert_eq!((all(&said, "proxied"), true_ones.len() as u64), (true_ones, CONNECTIONS));
    end(mesh);
}

/// How a port is published stays over restarts, is told, and is not changed by the way.
#[test]
fn a_port_is_published_in_one_way() {
    let (mesh, outsider) = mesh_with_gateway("gw-ways");
    let (a, g) = (mesh.host("a"), mesh.host("g"));
    start_redis(&a, "redis");
    assert_eq!(publish(&a, &["redis", "6379:7001"])["proxy_protocol"], false);
    assert_eq!(publish(&a, &["redis", "6379:7002", "--proxy-protocol"])["proxy_protocol"], true);
    replace_sidecar(&g);
    let ways = || -> Vec<_> { published(&a).iter().map(|one| one["proxy_protocol"].clone()).collect() };
    wait_until(SOON, "both are published again", || ways() == [false, true]);
    assert_eq!(publish(&a, &["redis", "6379:7002", "--proxy-protocol"])["already"], true);
    for words in [&["6379:7001", "--proxy-protocol"][..], &["6379:7002"]] {
        let refused = a.capsule([&["--json", "publish", "redis"], words].concat()).exits(1).json();
        assert_eq!(refused["error"]["code"], "publish/otherwise", "{refused}");
        let next = refused["error"]["next"].as_str().unwrap_or_default();
        assert!(next.contains(&format!("capsule unpublish redis {}", words[0])), "{refused}");
    }
    let datagrams = a.capsule(["--json", "publish", "redis", "53/udp", "--proxy-protocol"]).exits(1).json();
    assert_eq!(datagrams["error"]["code"], "publish/proxy-protocol", "{datagrams}");
    // What is published anew goes by the new way: redis knows no header.
    a.capsule(["unpublish", "redis", "6379:7002"]).ok();
    publish(&a, &["redis", "6379:7002"]);
    let pong = outsider.run(["redis-cli", "-h", &g.address().to_string(), "-p", "7002", "ping"]).ok();
    assert_eq!(pong.stdout.trim(), "PONG");
    end(mesh);
}
