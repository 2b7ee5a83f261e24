//! A real unbound that asks the directory.

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::rr::{DNSClass, RecordType};

use super::dns::question;
use super::process::Directory;

/// A resolver process and its files, which go with it.
pub(super) struct Unbound {
    child: Child,
    folder: PathBuf,
    pub(super) address: SocketAddr,
}

impl Unbound {
    /// Starts one that knows the zones' place and these trust anchors, and nothing else of the world.
    pub(super) fn start(directory: &Directory, zones: &[&str], anchors: &[String]) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = directory.data().join(format!("unbound-{number}"));
        std::fs::create_dir(&folder).unwrap();
        let address = free_address();
        let (ip, port) = (address.ip(), address.port());
        let mut config = format!(
            "server:\n interface: {ip}@{port}\n access-control: 127.0.0.0/8 allow\n do-daemonize: no\n chroot: \"\"\n \
             username: \"\"\n directory: \"{folder}\"\n pidfile: \"\"\n use-syslog: no\n logfile: \"{folder}/log\"\n \
             do-not-query-localhost: no\n module-config: \"validator iterator\"\n num-threads: 1\n \
             local-zone: \"10.in-addr.arpa.\" nodefault\n local-zone: \"d.f.ip6.arpa.\" nodefault\n",
            folder = folder.display()
        );
        config.extend(anchors.iter().map(|anchor| format!(" trust-anchor: \"{anchor}\"\n")));
        config.push_str("remote-control:\n control-enable: no\n");
        let (ip, port) = (directory.dns.ip(), directory.dns.port());
        config.extend(
            zones.iter().map(|zone| format!("stub-zone:\n name: \"{zone}\"\n stub-addr: {ip}@{port}\n")),
        );
        let file = folder.join("unbound.conf");
        std::fs::write(&file, config).unwrap();
        // A copy, since a profile of AppArmor for the installed one would keep it from this folder.
        let program = folder.join("unbound");
        std::fs::copy("/usr/sbin/unbound", &program).expect("unbound is there (package unbound)");
        let child = Command::new(&program)
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::null())
            .spawn()
            .expect("unbound starts");
        let unbound = Self { child, folder, address };
        unbound.wait();
        unbound
    }

    fn wait(&self) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        // What it answers by itself.
        let mut hello = question("version.bind.", RecordType::TXT);
        hello.queries[0].set_query_class(DNSClass::CH);
        let hello = hello.to_vec().unwrap();
        let begin = Instant::now();
        loop {
            socket.send_to(&hello, self.address).unwrap();
            if socket.recv(&mut [0; 512]).is_ok() {
                return;
            }
            let log = || std::fs::read_to_string(self.folder.join("log"));
            assert!(begin.elapsed() < Duration::from_secs(20), "unbound does not answer: {:?}", log());
        }
    }
}

impl Drop for Unbound {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address that nobody has at this moment, for UDP and TCP.
pub(super) fn free_address() -> SocketAddr {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
