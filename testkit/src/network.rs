//! Network namespaces joined by a switch, made by `ip` without leaving anything in the machine's own namespace.

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::{io, thread};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip netns` keeps its names.
pub(crate) const NAMES: &str = "/run/netns";

/// A namespace with a bridge and nothing else.
#[derive(Debug)]
pub(crate) struct Switch {
    pub(crate) netns: String,
    mtu: u32,
}

impl Switch {
    #[track_caller]
    pub(crate) fn create(netns: String, mtu: u32) -> Switch {
        ip(&["netns", "add", &netns], "");
        ip(
            &["-n", &netns, "-batch", "-"],
            "link set lo up\nlink add name br0 type bridge\nlink set br0 up\n",
        );
        Switch { netns, mtu }
    }

    /// Makes a namespace with `eth0` plugged into the switch as port `pN`.
    #[track_caller]
    pub(crate) fn plug(&self, netns: &str, port: u8) {
        let mtu = self.mtu;
        ip(&["netns", "add", netns], "");
        let wire = format!(
            "link add p{port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {netns}\nlink set p{port} master br0 up\n"
        );
        ip(&["-n", &self.netns, "-batch", "-"], &wire);
        let (v4, v6) = addresses(port);
        let inside = format!(
            "link set lo up\naddr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\nlink set eth0 up\n"
        );
        ip(&["-n", netns, "-batch", "-"], &inside);
    }

    /// Gives the host in `netns` the addresses of another port in place of its own, at once.
    #[track_caller]
    pub(crate) fn readdress(netns: &str, from: u8, to: u8) {
        let ((old4, old6), (new4, new6)) = (addresses(from), addresses(to));
        let lines = format!(
            "addr del {old4}/24 dev eth0\naddr del {old6}/64 dev eth0\naddr add {new4}/24 dev eth0\naddr add {new6}/64 dev eth0 nodad\n"
        );
        ip(&["-n", netns, "-batch", "-"], &lines);
    }

    /// Takes a port down or up: the host at it sees its carrier go and come.
    #[track_caller]
    pub(crate) fn set_port(&self, port: u8, up: bool) {
        ip(&["-n", &self.netns, "link", "set", &format!("p{port}"), if up { "up" } else { "down" }], "");
    }
}

/// Documentation addresses (RFC 5737, RFC 3849): they mean nothing outside.
pub(crate) fn addresses(port: u8) -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(192, 0, 2, port), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, port.into()))
}

/// Path by which a named namespace can be entered.
pub(crate) fn path(netns: &str) -> PathBuf {
    PathBuf::from(NAMES).join(netns)
}

/// A command that will run inside the namespace, under its own pid.
pub(crate) fn command(netns: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", path(netns).display())).arg("--").arg(program);
    command
}

/// Runs a closure on a thread inside the namespace: sockets it opens belong there, also after it returned.
///
/// # Panics
/// When the namespace can't be entered, or the closure panics.
#[track_caller]
pub(crate) fn inside<T: Send>(netns: &str, closure: impl FnOnce() -> T + Send) -> T {
    let enter = || -> io::Result<()> {
        let file = File::open(path(netns))?;
        Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
    };
    let work = || {
        enter().unwrap_or_else(|error| panic!("can't enter {netns}: {error}"));
        closure()
    };
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(answer) => answer,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[track_caller]
fn ip(arguments: &[&str], input: &str) {
    let mut child = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("can't start ip (iproute2): {error}"));
    let mut stdin = child.stdin.take().expect("piped above");
    // An ip that failed before it read everything says why below.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("our own child");
    assert!(
        output.status.success(),
        "ip {} failed (are you root?): {}\n{input}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}
