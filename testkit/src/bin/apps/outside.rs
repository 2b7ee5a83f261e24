//! Clients on a machine without a sidecar, which reach the server by a gateway.

use std::fs;
use std::time::Duration;

use testkit::{Host, Mesh, Output, Process, wait_until};

use crate::app::{Port, Program};

/// What a gateway may take until it serves.
const SERVES_WITHIN: Duration = Duration::from_secs(20);

/// Publishes what a server listens at, at the same ports of the gateway.
pub(crate) fn publish(host: &Host, gateway: &str, server: &str, ports: &[Port]) {
    let serves = || host.capsule(["published", "--gateway", gateway]).code == 0;
    wait_until(SERVES_WITHIN, "the gateway to serve", serves);
    for port in ports {
        let port = match port {
            Port::Tcp(number) => number.to_string(),
            Port::Udp(number) => format!("{number}/udp"),
        };
        host.capsule(["publish", server, &port, "--gateway", gateway]).ok();
    }
}

/// A client at work there.
pub(crate) struct Outsider {
    name: String,
    process: Process,
}

impl Outsider {
    /// Starts it over the machine's files, of which it changes none: `/srv`, `/tmp` and `/root` are its own, and the name
    /// `server` is the gateway.
    pub(crate) fn start(
        mesh: &Mesh,
        gateway: &Host,
        name: &str,
        program: &Program,
        environment: &[String],
    ) -> Outsider {
        let machine = mesh.host("outside");
        let folder = machine.dir().join(name);
        fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let hosts = folder.join("hosts");
        let names = format!("127.0.0.1 localhost\n{} server\n", gateway.address());
        fs::write(&hosts, names).unwrap_or_else(|error| panic!("{}: {error}", hosts.display()));
        let alone = format!(
            "mount --bind {hosts} /etc/hosts
            private=$(mktemp -d {folder}/private.XXXX); mount -t tmpfs tmpfs $private
            mkdir $private/root $private/root.work $private/tmp $private/tmp.work
            for over in root tmp; do
                mount -t overlay overlay -o lowerdir=/$over,upperdir=$private/$over,workdir=$private/$over.work /$over
            done
            mount -t tmpfs tmpfs /srv; cd /; exec \"$@\"",
            hosts = hosts.display(),
            folder = folder.display(),
        );
        let line = ["env".to_owned()].into_iter().chain(environment.iter().cloned());
        let line = line.chain(["unshare", "--mount", "/bin/bash", "-euc", &alone, name].map(str::to_owned));
        let line = line.chain(program.argv().into_iter().map(str::to_owned));
        Outsider { name: name.to_owned(), process: machine.spawn(line) }
    }

    /// What it has printed.
    pub(crate) fn said(&self) -> String {
        format!("{}: {}{}", self.name, self.process.stdout(), self.process.stderr())
    }

    /// Waits for its end.
    pub(crate) fn end(mut self, limit: Duration) -> (String, Output) {
        let output = self.process.wait(limit);
        (self.name, output)
    }
}
