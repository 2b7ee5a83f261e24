//! Names and throughput.

use crate::app::{App, Client, Port, Program};

/// Prints what an iperf3 client's report says, and fails where bytes are missing.
macro_rules! iperf3 {
    ($arguments:literal) => {
        concat!(
            "import json, os, subprocess\narguments = '",
            $arguments,
            "'\n",
            include_str!("../programs/iperf3.py")
        )
    };
}

pub(super) const APPS: &[App] = &[
    App {
        name: "unbound, dnsperf, dig (UDP)",
        needs: &["/usr/sbin/unbound", "/usr/bin/dnsperf", "/usr/bin/dig"],
        version: "unbound -V",
        server: Program::Bash(
            "{ echo 'server:
                interface: 0.0.0.0@5300
                access-control: 0.0.0.0/0 allow
                username: \"\"
                chroot: \"\"
                directory: /tmp
                pidfile: \"\"
                do-daemonize: no
                use-syslog: no
                local-zone: test. static'
            for n in $(seq 100); do echo \" local-data: \\\"n$n.test. A 198.51.100.$n\\\"\"; done; } >/srv/conf
            exec unbound -d -c /srv/conf",
        ),
        listens: &[Port::Tcp(5300), Port::Udp(5300)],
        clients: &[
            Client {
                // A wait with a time limit that a move interrupts returns EINTR, after which dnsperf ends.
                program: Program::Bash(
                    "for n in $(seq 100); do echo n$n.test A; done >/tmp/names
                    at=$(getent ahostsv4 server | awk '{ print $1; exit }')
                    dnsperf -s $at -p 5300 -d /tmp/names -l $T -Q 400 -t 10 >/tmp/said; cat /tmp/said
                    # What is on its way to a host whose sidecar is killed is lost: a tenth of a second of them.
                    grep -Eq 'Queries completed: +[0-9]+ \\((100|99\\.[5-9])' /tmp/said
                    sed -n 's/ *Queries lost: *\\([0-9]*\\).*/note \\1 lost/p; s/.*max \\([0-9.]*\\)).*/gap_s \\1/p' /tmp/said |
                        awk '$1 == \"gap_s\" { print \"gap_ms\", $2 * 1000; next } { print }'",
                ),
                lasting: 0,
                moves: false,
            },
            Client {
                program: Program::Bash(
                    "n=0; end=$((SECONDS + T)); at=$(getent ahostsv4 server | awk '{ print $1; exit }')
                    while [ $SECONDS -lt $end ]; do n=$((n % 100 + 1))
                        got=$(dig +short +tries=3 +time=2 +notcp -p 5300 @$at n$n.test) || true
                        [ \"${got##*$'\\n'}\" = 198.51.100.$n ] || { echo \"n$n: $got\"; exit 1; }
                        got=$(dig +short +tries=1 +time=10 +tcp -p 5300 @$at n$n.test) || true
                        [ \"$got\" = 198.51.100.$n ] || { echo \"n$n by TCP: $got\"; exit 1; }
                    done",
                ),
                lasting: 0,
                moves: true,
            },
        ],
        checked: "dnsperf with 400 queries a second over UDP, of which at most 0.5 % may be lost; dig over UDP, asking again after 2 s as resolvers do, and TCP: not one without its answer",
    },
    App {
        name: "iperf3 both ways",
        needs: &["/usr/bin/iperf3"],
        version: "iperf3 --version",
        server: Program::Bash("iperf3 -s -p 5201 & iperf3 -s -p 5202 & wait"),
        listens: &[Port::Tcp(5201), Port::Tcp(5202)],
        clients: &[
            Client { program: Program::Python(iperf3!("-p 5201")), lasting: 2, moves: true },
            Client { program: Program::Python(iperf3!("-p 5202 -R")), lasting: 2, moves: true },
        ],
        checked: "bytes received are the bytes sent, in both directions at once",
    },
];
