//! A real etcd for one test: a single member on loopback, with a folder of its own.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long etcd may take to come up on a busy machine.
const UP_TIME: Duration = Duration::from_secs(30);

/// An etcd process and its data, which go with it.
pub(crate) struct EtcdProcess {
    data: PathBuf,
    client: SocketAddr,
    peer: SocketAddr,
    health: SocketAddr,
    /// Flags by which it wants TLS, if it does.
    secured: Vec<String>,
    child: Option<Child>,
}

impl EtcdProcess {
    /// Starts one at free ports.
    pub(crate) fn start() -> Self {
        Self::start_with(Vec::new())
    }

    /// Starts one that is asked over TLS, as these flags say.
    #[allow(dead_code, reason = "not every test has certificates")]
    pub(crate) fn start_secured(flags: Vec<String>) -> Self {
        Self::start_with(flags)
    }

    fn start_with(secured: Vec<String>) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let data = std::env::temp_dir().join(format!("capsule-etcd-{}-{number}", std::process::id()));
        // Held together, so that they differ.
        let ports = [0, 1, 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let [client, peer, health] = ports.map(|port| port.local_addr().unwrap());
        let mut process = Self { data, client, peer, health, secured, child: None };
        process.run();
        process
    }

    /// Where it is reached.
    pub(crate) fn endpoint(&self) -> String {
        self.client.to_string()
    }

    /// As `--store` names it.
    #[allow(dead_code, reason = "not every test names it so")]
    pub(crate) fn address(&self) -> String {
        format!("etcd://{}", self.client)
    }

    /// Runs it, again if need be, on its data.
    pub(crate) fn run(&mut self) {
        let scheme = if self.secured.is_empty() { "http" } else { "https" };
        let (client, peer) = (format!("{scheme}://{}", self.client), format!("http://{}", self.peer));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(&self.data).args(["--name", "one", "--log-level", "error"]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("one={peer}")]);
        command.args(["--listen-metrics-urls", &format!("http://{}", self.health)]).args(&self.secured);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let spawned = command.spawn();
        self.child =
            Some(spawned.expect("etcd is not to be run: apt-get install etcd-server (scripts/setup)"));
        let begin = Instant::now();
        while !self.is_healthy() {
            assert!(begin.elapsed() < UP_TIME, "etcd did not come up at {}", self.client);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `kill -9`.
    #[allow(dead_code, reason = "not every test ends it")]
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn is_healthy(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(self.health)?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.contains("\"true\""))
    }
}

impl Drop for EtcdProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.data);
    }
}
