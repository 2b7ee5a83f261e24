//! The sockets inside a capsule, as its own kernel lists them: who listens, and which connections are established.

use std::collections::BTreeSet;

use testkit::Host;

use crate::app::Port;

/// States of TCP in `/proc/net/tcp` (`include/net/tcp_states.h`).
const ESTABLISHED: &str = "01";
const LISTEN: &str = "0A";

/// One socket: the local and the remote end as the kernel writes them, and its state.
#[derive(Debug)]
struct Socket {
    local: String,
    remote: String,
    state: String,
}

/// Whether somebody waits at this port of the capsule.
pub(crate) fn listens(host: &Host, capsule: &str, port: Port) -> bool {
    match port {
        Port::Tcp(number) => {
            list(host, capsule, "tcp").iter().any(|socket| socket.state == LISTEN && is_at(socket, number))
        }
        Port::Udp(number) => list(host, capsule, "udp").iter().any(|socket| is_at(socket, number)),
    }
}

/// The connections that a server in the capsule has at these ports: both ends of each.
pub(crate) fn connections(host: &Host, capsule: &str, ports: &[Port]) -> BTreeSet<String> {
    let served = |socket: &Socket| {
        ports.iter().any(|port| matches!(port, Port::Tcp(number) if is_at(socket, *number)))
    };
    list(host, capsule, "tcp")
        .into_iter()
        .filter(|socket| socket.state == ESTABLISHED && served(socket))
        .map(|socket| format!("{} {}", socket.local, socket.remote))
        .collect()
}

fn is_at(socket: &Socket, port: u16) -> bool {
    socket.local.ends_with(&format!(":{port:04X}"))
}

/// Both families. A capsule that is busy with something else for the moment has none.
fn list(host: &Host, capsule: &str, protocol: &str) -> Vec<Socket> {
    let (four, six) = (format!("/proc/net/{protocol}"), format!("/proc/net/{protocol}6"));
    let text = host.capsule(["exec", capsule, "--", "cat", &four, &six]).stdout;
    parse(&text)
}

fn parse(text: &str) -> Vec<Socket> {
    let words = |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
    let sockets =
        text.lines().map(words).filter(|words| words.first().is_some_and(|word| word.ends_with(':')));
    sockets
        .filter_map(|words| {
            let (local, remote) = (words.get(1)?.clone(), words.get(2)?.clone());
            Some(Socket { local, remote, state: words.get(3)?.clone() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_lists() {
        let text = "  sl  local_address rem_address   st tx_queue\n\
            0: 00000000:18EB 00000000:0000 0A 00000000:00000000 00:00000000\n\
            1: 0200580A:18EB 0300580A:A2C6 01 00000000:00000000 00:00000000\n";
        let sockets = parse(text);
        assert_eq!(sockets.len(), 2);
        assert!(sockets[0].state == LISTEN && is_at(&sockets[0], 6379) && !is_at(&sockets[0], 80));
        assert_eq!((sockets[1].state.as_str(), sockets[1].remote.as_str()), (ESTABLISHED, "0300580A:A2C6"));
    }
}
