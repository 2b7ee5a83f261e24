//! Servers of the web.

use crate::app::{App, Client, Port, Program};

/// Takes a large file slowly, and compares it with what the server says it is.
const DOWNLOAD: Client = Client {
    program: Program::Bash(
        "wanted=$(curl -sf http://server/sum)
        got=$(curl -sSf http://server/blob | $BIN/witness --rate $((96 / T + 1))M | sha256sum)
        [ \"$wanted\" = \"$got\" ] || { echo \"sha256 $got, $wanted expected\"; exit 1; }",
    ),
    lasting: 1,
    moves: true,
};

/// Many connections, one after the other.
const KNOCK: Client = Client {
    program: Program::Bash(
        "wanted=$(curl -sf http://server/sum); n=0; end=$((SECONDS + T))
        while [ $SECONDS -lt $end ]; do
            got=$(curl -sS -f http://server/sum); [ \"$got\" = \"$wanted\" ]; n=$((n + 1)); sleep 0.01
        done; echo note $n connections one after the other",
    ),
    lasting: 0,
    moves: true,
};

pub(super) const APPS: &[App] = &[
    App {
        name: "nginx, curl",
        needs: &["/usr/sbin/nginx", "/usr/bin/curl"],
        version: "nginx -v",
        server: Program::Bash(
            "mkdir -p /srv/www; head -c 96M /dev/urandom >/srv/www/blob; sha256sum </srv/www/blob >/srv/www/sum
            echo 'user root; worker_processes 2; daemon off; pid /tmp/pid; error_log stderr; events { }
                http { access_log off; server { listen 80; listen [::]:80; root /srv/www; } }' >/srv/conf
            exec nginx -c /srv/conf",
        ),
        listens: &[Port::Tcp(80)],
        clients: &[DOWNLOAD, KNOCK],
        checked: "SHA-256 of 96 MiB in one download; every one of many short connections",
    },
    App {
        name: "Node.js",
        needs: &["/usr/bin/node", "/usr/bin/curl"],
        version: "node --version",
        server: Program::Node(include_str!("../programs/server.js")),
        listens: &[Port::Tcp(80)],
        clients: &[
            DOWNLOAD,
            Client {
                program: Program::Bash("curl -sSfN http://server/ticks?seconds=$T | $BIN/witness --count"),
                lasting: 1,
                moves: true,
            },
            Client { program: Program::Node(include_str!("../programs/agent.js")), lasting: 1, moves: true },
        ],
        checked: "SHA-256 of 96 MiB; a stream of 100 numbers a second in order; a keep-alive agent of Node.js on one connection",
    },
    App {
        name: "Java (Tomcat)",
        needs: &["/usr/bin/java", "/usr/share/tomcat10/bin/bootstrap.jar", "/usr/bin/curl"],
        version: "java -cp /usr/share/tomcat10/lib/catalina.jar org.apache.catalina.util.ServerInfo | sed -n 's/^Server version: *//p'",
        server: Program::Bash(
            "mkdir -p /srv/base/conf /srv/base/temp /srv/base/webapps/ROOT /srv/base/work /srv/base/logs; cd /srv/base
            head -c 96M /dev/urandom >webapps/ROOT/blob; sha256sum <webapps/ROOT/blob >webapps/ROOT/sum
            cp /etc/tomcat10/web.xml conf/
            echo '<Server port=\"-1\"><Service name=\"s\"><Connector port=\"80\"/><Engine name=\"e\" defaultHost=\"h\">
                <Host name=\"h\" appBase=\"webapps\"/></Engine></Service></Server>' >conf/server.xml
            exec java -Xmx128m -Dcatalina.home=/usr/share/tomcat10 -Dcatalina.base=/srv/base -Djava.io.tmpdir=/srv/base/temp \
                -cp /usr/share/tomcat10/bin/bootstrap.jar:/usr/share/tomcat10/bin/tomcat-juli.jar \
                org.apache.catalina.startup.Bootstrap start",
        ),
        listens: &[Port::Tcp(80)],
        clients: &[DOWNLOAD, KNOCK],
        checked: "SHA-256 of 96 MiB in one download; every one of many short connections",
    },
];
