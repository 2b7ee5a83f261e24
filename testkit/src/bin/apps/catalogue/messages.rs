//! Servers that push messages over connections which stay.

use crate::app::{App, Client, Port, Program};

/// The server of a page whose script talks with it.
const PAGE_AND_WEBSOCKETS: Program = Program::Python(concat!(
    "PAGE = r\"\"\"",
    include_str!("../programs/browser_page.html"),
    "\"\"\"\n",
    include_str!("../programs/browser_server.py")
));

pub(super) const APPS: &[App] = &[
    App {
        name: "websocket (python3-websockets)",
        needs: &["/usr/lib/python3/dist-packages/websockets/__init__.py"],
        version: "/usr/bin/python3 -c 'import websockets.version as v; print(v.version)'",
        server: Program::Python(include_str!("../programs/websocket_server.py")),
        listens: &[Port::Tcp(8765)],
        clients: &[Client {
            program: Program::Python(include_str!("../programs/websocket_client.py")),
            lasting: 20,
            moves: true,
        }],
        checked: "20 websockets: 50 messages a second on each come back in order; numbers pushed by the server in order",
    },
    App {
        name: "Chromium, python3-websockets",
        needs: &["/usr/bin/chromium", "/usr/lib/python3/dist-packages/websockets/__init__.py"],
        version: "chromium --version",
        server: PAGE_AND_WEBSOCKETS,
        listens: &[Port::Tcp(8765)],
        clients: &[Client {
            program: Program::Python(include_str!("../programs/browser.py")),
            lasting: 10,
            // CRIU of a browser is not tried: it stays where it is.
            moves: false,
        }],
        checked: "a page in a headless browser, which is not moved, has 10 websockets: 50 messages a second on each come back in order; \
            numbers pushed by the server in order; both sides compare every byte, and no socket is closed",
    },
    App {
        name: "Mosquitto (MQTT)",
        needs: &["/usr/sbin/mosquitto", "/usr/bin/mosquitto_pub", "/usr/bin/mosquitto_sub"],
        version: "mosquitto -h | head -1",
        server: Program::Bash(
            "printf 'listener 1883\\nallow_anonymous true\\nuser root\\n' >/srv/conf
            exec mosquitto -c /srv/conf",
        ),
        listens: &[Port::Tcp(1883)],
        clients: &[
            Client {
                program: Program::Bash(
                    "mosquitto_sub -h server -t n -q 1 -C $((T * 40)) | $BIN/witness --count",
                ),
                lasting: 1,
                moves: true,
            },
            Client {
                program: Program::Bash(
                    "sleep 1; for n in $(seq $((T * 40))); do echo $n; sleep 0.024; done | mosquitto_pub -h server -t n -q 1 -l",
                ),
                lasting: 1,
                moves: true,
            },
        ],
        checked: "every message of a publisher reaches the subscriber once, in order",
    },
];
