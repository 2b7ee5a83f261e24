//! Addresses of a namespace, and word of their change.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use kernel::changes::{Changes, Network, source_towards};
use kernel::netns::{Netns, Worker};

/// Runs `ip` in the namespace of the calling thread.
fn ip(line: &str) {
    let status = Command::new("ip").args(line.split(' ')).status().expect("iproute2 is there");
    assert!(status.success(), "ip {line}");
}

#[test]
fn a_change_is_told_and_read() {
    let netns = Netns::create().expect("needs root");
    Worker::start(&netns).expect("a thread").run(|| {
        let mut changes = Changes::listen().expect("a netlink socket");
        assert!(!changes.take().expect("a socket that works"));
        assert_eq!(Network::read().expect("netlink answers"), Network::default());
        ip("link set lo up");
        ip("link add one type veth peer name other");
        ip("addr add 192.0.2.7/24 dev one");
        ip("addr add 2001:db8::7/64 dev one nodad");
        ip("link set one up");
        assert!(changes.take().expect("a socket that works"), "nobody told of the addresses");
        let before = Network::read().expect("netlink answers");
        for address in ["127.0.0.1", "::1", "192.0.2.7", "2001:db8::7"] {
            let address: IpAddr = address.parse().expect("an address");
            assert!(before.addresses.contains(&address), "{address} is not in {before:?}");
        }
        // The other end of the cable comes up: nothing but the carrier changes.
        ip("link set other up");
        assert!(changes.take().expect("a socket that works"), "nobody told of the carrier");
        let plugged = Network::read().expect("netlink answers");
        assert!(plugged.carriers.len() > before.carriers.len(), "{before:?}, {plugged:?}");
        let far: SocketAddr = "192.0.2.9:4433".parse().expect("an address");
        assert_eq!(source_towards(far).expect("a route"), "192.0.2.7".parse::<IpAddr>().expect("an address"));
        // Another address in the place of the first.
        ip("addr del 192.0.2.7/24 dev one");
        assert!(source_towards(far).is_err());
        ip("addr add 192.0.2.8/24 dev one");
        assert!(changes.take().expect("a socket that works"), "nobody told of the new address");
        let after = Network::read().expect("netlink answers");
        let [old, new] = ["192.0.2.7", "192.0.2.8"].map(|text| text.parse::<IpAddr>().expect("an address"));
        assert!(!after.addresses.contains(&old) && after.addresses.contains(&new), "{after:?}");
        assert_eq!(source_towards(far).expect("a route"), new);
    });
}
