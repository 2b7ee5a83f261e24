//! Datagrams in the name of capsules that are elsewhere, said to have been sent, or said to have been refused.

use bytes::Bytes;
use overlay_proto::{Datagram, DatagramBody, ReturnReason};
use tests::{tool, wait_logged};

use super::*;

fn datagram(source: &str, destination: &str, text: &'static str) -> Datagram {
    Datagram {
        source: source.parse().expect("an address"),
        destination: destination.parse().expect("an address"),
        traffic_class: 0,
        returned: None,
        returns: 0,
        tag: [3; 16],
        body: DatagramBody::Udp(Bytes::from_static(text.as_bytes())),
    }
}

fn send(evil: &Evil, wire: &Wire, datagram: &Datagram) {
    evil.run(async { wire.connection.send_datagram(datagram.encode()).expect("it fits") });
}

#[track_caller]
fn count(host: &Host, capsule: &str, name: &str) -> u64 {
    let counts = host.capsule(["--json", "inspect", capsule]).ok().json()["datagrams"].clone();
    counts[name].as_u64().unwrap_or_else(|| panic!("no {name} in {counts}"))
}

#[track_caller]
fn misplaced(host: &Host, capsule: &str, expected: u64) {
    wait_until(SOON, &format!("{expected} misplaced datagrams of {capsule}"), || {
        count(host, capsule, "lost_misplaced") == expected
    });
}

#[test]
fn it_sends_datagrams_only_as_its_own_capsules() {
    let mesh = Mesh::running("evil-udp", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    start(&a, "server", &[&tool("udp"), "echo", "[::]:7000"]);
    wait_logged(&a, "server", "bound");
    start(&b, "client", &["sleep", "600"]);
    let (server, client) = (locators(&a, "server").0, locators(&b, "client").0);
    let evil = Evil::join(&mesh, &[&a, &b]);
    let bait = evil.register("bait").locators.v4.to_string();
    let wire = evil.link(&a);
    let to_server = format!("{server}:7000");

    // Its own capsule may.
    send(&evil, &wire, &datagram(&format!("{bait}:5000"), &to_server, "hello"));
    wait_logged(&a, "server", &format!("[::ffff:{bait}]:5000"));
    // Another's may not, nor a capsule of the very host that it is sent to, nor a machine outside: it is no gateway.
    for source in [format!("{client}:5000"), to_server.clone(), "203.0.113.9:5000".to_owned()] {
        let before = count(&a, "server", "lost_misplaced");
        send(&evil, &wire, &datagram(&source, &to_server, "forged"));
        misplaced(&a, "server", before + 1);
    }

    // Host a does not send in its server's name what it never sent.
    let before = count(&a, "server", "lost_misplaced");
    let made_up = Datagram {
        returned: Some(ReturnReason::NotHere),
        returns: 1,
        ..datagram(&to_server, &format!("{client}:9"), "never sent")
    };
    send(&evil, &wire, &made_up);
    misplaced(&a, "server", before + 1);
    // Nor does it tell its server that somebody refused who is not on that host.
    send(&evil, &wire, &Datagram { returned: Some(ReturnReason::Denied), ..made_up });
    misplaced(&a, "server", before + 2);
    // An error about something between others.
    let mut quoted = vec![3, 3, 0, 0, 0, 0, 0, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
    for address in [&client, &server] {
        quoted.extend_from_slice(&address.parse::<std::net::Ipv4Addr>().expect("an address").octets());
    }
    quoted.extend_from_slice(&[0; 8]);
    let body = DatagramBody::Icmp(quoted.into());
    let error = Datagram { body, ..datagram(&format!("{bait}:0"), &format!("{server}:0"), "") };
    send(&evil, &wire, &error);
    misplaced(&a, "server", before + 3);

    assert_eq!(count(&b, "client", "received"), 0, "something of it went on to the client");
    let log = a.capsule(["logs", "server"]).ok().stdout;
    assert_eq!(log.matches("first_from").count(), 1, "{log}");
    end(mesh);
}
