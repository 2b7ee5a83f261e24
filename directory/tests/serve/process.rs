//! A directory that runs for one test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use directory_api::{CapsuleRecord, Client, LeaseRequest, Membership, join};
use overlay_proto::{ClaimKey, HostName, OfferId};

use super::etcd::EtcdProcess;

const BINARY: &str = env!("CARGO_BIN_EXE_capsule-directory");

/// A directory process and its data, which go with it.
pub(super) struct Directory {
    data: PathBuf,
    child: Option<Child>,
    pub(super) api: SocketAddr,
    pub(super) dns: SocketAddr,
    pub(super) http: SocketAddr,
    /// DNS over TLS and over QUIC, where the settings ask for them.
    pub(super) dot: Option<SocketAddr>,
    pub(super) doq: Option<SocketAddr>,
    config: &'static str,
    environment: Vec<(String, String)>,
}

/// A host that joined.
pub(super) struct Host {
    pub(super) name: HostName,
    pub(super) membership: Membership,
    pub(super) client: Client,
}

impl Directory {
    /// Makes a mesh and serves it on free ports.
    pub(super) fn start() -> Self {
        Self::start_with("")
    }

    /// As [`Directory::start`], with settings.
    pub(super) fn start_with(config: &'static str) -> Self {
        Self::start_by(config, None)
    }

    /// As [`Directory::start`], with the root's key under a passphrase.
    pub(super) fn start_sealed(passphrase: &str) -> Self {
        Self::start_by("", Some(passphrase))
    }

    /// As [`Directory::start`], with the facts in etcd.
    pub(super) fn start_on(etcd: &EtcdProcess, config: &str) -> Self {
        Self::start_with(with_store(etcd, config))
    }

    /// Another directory of the same mesh, which has the same keys.
    pub(super) fn start_beside(&self, etcd: &EtcdProcess, config: &str) -> Self {
        let mut directory = self.beside(with_store(etcd, config));
        directory.serve();
        directory
    }

    /// The same, not served yet.
    pub(super) fn beside(&self, config: &'static str) -> Self {
        let directory = Self::prepare(config);
        std::fs::create_dir_all(&directory.data).unwrap();
        for file in ["mesh.json", "ca.pem", "issuer.key", "issuer.pem", "token.key", "dnssec.json"] {
            std::fs::copy(self.data.join(file), directory.data.join(file)).unwrap();
        }
        directory
    }

    /// Serves from etcd the next time.
    pub(super) fn move_to(&mut self, etcd: &EtcdProcess) {
        self.config = with_store(etcd, "");
    }

    /// Serves with other settings the next time.
    pub(super) fn set_config(&mut self, config: &'static str) {
        self.config = config;
    }

    fn start_by(config: &'static str, passphrase: Option<&str>) -> Self {
        let mut directory = Self::made(config, passphrase);
        directory.serve();
        directory
    }

    fn prepare(config: &'static str) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let data = std::env::temp_dir().join(format!("capsule-serve-{}-{number}", std::process::id()));
        let unbound: SocketAddr = "127.0.0.1:0".parse().unwrap();
        Self {
            data,
            child: None,
            api: unbound,
            dns: unbound,
            http: unbound,
            dot: None,
            doq: None,
            config,
            environment: Vec::new(),
        }
    }

    /// A mesh that is not served yet.
    pub(super) fn made(config: &'static str, passphrase: Option<&str>) -> Self {
        let directory = Self::prepare(config);
        let file = directory.data.with_extension("key");
        let mut init = vec!["init", "--zone", "capsule.internal"];
        let name = file.display().to_string();
        if let Some(passphrase) = passphrase {
            std::fs::write(&file, passphrase).unwrap();
            init.extend(["--ca-passphrase-file", &name]);
        }
        let made = directory.run(&init);
        let _ = std::fs::remove_file(&file);
        assert!(made.status.success(), "{made:?}");
        directory
    }

    /// Runs a verb to its end.
    pub(super) fn run(&self, arguments: &[&str]) -> std::process::Output {
        let (verb, rest) = arguments.split_first().unwrap();
        Command::new(BINARY).arg(verb).arg("--data").arg(&self.data).args(rest).output().unwrap()
    }

    /// Runs a command to its end, as it is.
    pub(super) fn command(&self, arguments: &[&str]) -> std::process::Output {
        Command::new(BINARY).args(arguments).output().unwrap()
    }

    /// Sets variables of the environment for the next start.
    pub(super) fn set_environment(&mut self, variables: &[(&str, &str)]) {
        let owned = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.environment = owned.collect();
    }

    /// Serves again, at the same addresses.
    pub(super) fn serve(&mut self) {
        let file = self.data.join("directory.toml");
        std::fs::write(&file, self.config).unwrap();
        let flags = [("--api", self.api), ("--dns", self.dns), ("--http", self.http)];
        // A limit on files is an error to it, and no signal that ends it: see `limit_files`.
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", BINARY]);
        command.arg("serve").arg("--data").arg(&self.data).arg("--config").arg(file);
        for (flag, address) in flags {
            command.arg(flag).arg(address.to_string());
        }
        command.envs(self.environment.iter().cloned());
        self.child = Some(command.stdout(Stdio::null()).spawn().unwrap());
        let listening = self.data.join("serve.json");
        let begin = Instant::now();
        while !listening.exists() {
            assert!(begin.elapsed() < Duration::from_secs(20), "the directory did not come up");
            std::thread::sleep(Duration::from_millis(5));
        }
        let listening: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(listening).unwrap()).unwrap();
        let address = |name: &str| listening[name].as_str().unwrap().parse().unwrap();
        let maybe = |name: &str| listening[name].as_str().map(|address| address.parse().unwrap());
        (self.dot, self.doq) = (maybe("dot"), maybe("doq"));
        (self.api, self.dns, self.http) = (address("api"), address("dns"), address("http"));
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        std::fs::remove_file(self.data.join("serve.json")).unwrap();
    }

    /// Kills it, destroys its data, and makes it anew from a backup; it does not serve then.
    pub(super) fn lose(&mut self, backup: &Path) {
        self.kill();
        std::fs::remove_dir_all(&self.data).unwrap();
        let output = self.run(&["restore", "--from", backup.to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
    }

    /// SIGTERM; gives the exit code.
    pub(super) fn stop(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let begin = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            if begin.elapsed() > Duration::from_secs(20) {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("the directory did not stop");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A token for a host, with more flags.
    pub(super) fn token(&self, host: &str, flags: &[&str]) -> String {
        let output = self.run(&[&["token", "--host", host], flags].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Has a host join, without a lease.
    pub(super) async fn joined(&self, name: &str, flags: &[&str]) -> Host {
        let membership = join(self.api, &self.token(name, flags)).await.unwrap();
        let client = Client::connect(membership.api.clone(), membership.identity.clone()).unwrap();
        Host { name: name.parse().unwrap(), membership, client }
    }

    /// Has a host join and come up at `PORT`.
    pub(super) async fn host(&self, name: &str, port: u16) -> Host {
        let host = self.joined(name, &[]).await;
        host.lease(port).await;
        host
    }

    /// One of the pages of the HTTP port, with its head.
    pub(super) fn page(&self, path: &str) -> String {
        use std::io::{Read as _, Write as _};
        let time = Duration::from_secs(10);
        let mut stream = std::net::TcpStream::connect_timeout(&self.http, time).unwrap();
        stream.set_read_timeout(Some(time)).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        page
    }

    /// Most bytes that files which the process writes may have from here on; `None` for no limit. What is over it fails
    /// as on a full disk.
    pub(super) fn limit_files(&self, bytes: Option<u64>) {
        use rustix::process::{Resource, Rlimit, prlimit};
        let pid = rustix::process::Pid::from_child(self.child.as_ref().unwrap());
        prlimit(Some(pid), Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
    }

    /// Waits until the zone shows so many keys.
    pub(super) fn wait_for_keys(&self, count: usize) {
        let begin = Instant::now();
        let question = super::dns::question("capsule.internal.", hickory_proto::rr::RecordType::DNSKEY);
        while super::dns::by_udp(self.dns, &question).answers.len() != count {
            assert!(begin.elapsed() < Duration::from_secs(20), "the zone does not show {count} keys");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(super) fn data(&self) -> &Path {
        &self.data
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

impl Host {
    pub(super) async fn lease(&self, port: u16) -> directory_api::Lease {
        self.client.renew_lease(LeaseRequest { port, advertise: None, capsules: vec![] }).await.unwrap()
    }

    pub(super) async fn register(&self, name: &str) -> CapsuleRecord {
        self.client.register(name.parse().unwrap(), "me".parse().unwrap()).await.unwrap()
    }

    pub(super) async fn offer(&self, record: &CapsuleRecord, number: u8, target: &Host) -> CapsuleRecord {
        let (generation, target) = (record.generation, target.name.clone());
        self.client.offer(record.id, generation, offer_id(number), target, key(number).hash()).await.unwrap()
    }

    pub(super) async fn claim(&self, record: &CapsuleRecord, number: u8) -> CapsuleRecord {
        self.client.claim(record.id, offer_id(number), key(number)).await.unwrap()
    }
}

fn with_store(etcd: &EtcdProcess, config: &str) -> &'static str {
    format!("store = '{}'\n{config}", etcd.address()).leak()
}

pub(super) fn offer_id(number: u8) -> OfferId {
    OfferId::from_bytes([number; 16])
}

pub(super) fn key(number: u8) -> ClaimKey {
    ClaimKey::from_bytes([number; 32])
}
