//! One host of a mesh: a network namespace, a folder, and the processes in it.

mod sidecar;

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;
use std::{fs, io};

use crate::bounded;
use crate::network::{self, Switch};
use crate::process::{Output, Process};
use crate::sweep::Scope;
use crate::wait::poll;
use sidecar::Sidecar;

const RUN_LIMIT: Duration = Duration::from_secs(120);
const HTTP_LIMIT: Duration = Duration::from_secs(5);
const HTTP_PORT: u16 = 9100;
/// What the other addresses of a host lie apart.
const ADDRESSES_APART: u8 = 60;

/// A host. Clones are the same host.
#[derive(Clone, Debug)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    netns: String,
    port: u8,
    /// Which port's addresses it has.
    addressed: AtomicU8,
    dir: PathBuf,
    switch: Arc<Switch>,
    started: AtomicUsize,
    sidecar: Sidecar,
}

impl Host {
    #[track_caller]
    pub(crate) fn create(name: &str, prefix: &str, mesh_dir: &Path, switch: &Arc<Switch>, port: u8) -> Host {
        let netns = format!("{prefix}{name}");
        let dir = mesh_dir.join(name);
        fs::create_dir_all(dir.join("log")).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        switch.plug(&netns, port);
        let (switch, started, sidecar) = (switch.clone(), AtomicUsize::new(0), Sidecar::default());
        let (name, addressed) = (name.to_owned(), AtomicU8::new(port));
        Host(Arc::new(Inner { name, netns, port, addressed, dir, switch, started, sidecar }))
    }

    /// Its name, as the directory knows it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Name of its network namespace.
    pub fn netns(&self) -> &str {
        &self.0.netns
    }

    /// Its address on the switch.
    pub fn address(&self) -> Ipv4Addr {
        self.addresses().0
    }

    /// Its IPv6 address on the switch.
    pub fn address6(&self) -> Ipv6Addr {
        self.addresses().1
    }

    fn addresses(&self) -> (Ipv4Addr, Ipv6Addr) {
        network::addresses(self.0.addressed.load(Ordering::Relaxed))
    }

    /// Takes its addresses away and gives it others, which no host has or had: `number` (1 to 3) says which.
    ///
    /// # Panics
    /// When it has them already, or there is no such number.
    #[track_caller]
    pub fn readdress(&self, number: u8) {
        assert!((1..=3).contains(&number) && self.0.port < ADDRESSES_APART, "no such address");
        let to = self.0.port + number * ADDRESSES_APART;
        let from = self.0.addressed.swap(to, Ordering::Relaxed);
        assert_ne!(from, to, "host {} has that address", self.name());
        Switch::readdress(&self.0.netns, from, to);
    }

    /// Its folder, removed with the mesh: free for files of the test.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// The data directory of its sidecar or directory process.
    pub fn data(&self) -> PathBuf {
        self.0.dir.join("data")
    }

    /// Pulls its cable: the carrier goes, addresses and routes stay.
    #[track_caller]
    pub fn cut(&self) {
        self.0.switch.set_port(self.0.port, false);
    }

    /// Plugs its cable in again.
    #[track_caller]
    pub fn join(&self) {
        self.0.switch.set_port(self.0.port, true);
    }

    /// The host dies: cable pulled, then sidecar, shims, capsules and all other processes killed.
    #[track_caller]
    pub fn kill(&self) {
        self.cut();
        self.kill_sidecar();
        let remaining = Scope::host(&self.0.netns, &self.0.dir).kill();
        assert!(remaining.is_empty(), "processes of host {} can't be killed: {remaining:?}", self.name());
    }

    /// A command that will run in this host, under its own pid.
    pub fn command<A: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = A>) -> Command {
        let mut argv = argv.into_iter();
        let program = argv.next().expect("a command has a first word");
        let mut command = network::command(&self.0.netns, program);
        command.args(argv).env(crate::sweep::HOST_VARIABLE, &self.0.netns);
        command
    }

    /// Starts a process in this host. It is killed when the returned value is dropped.
    #[track_caller]
    pub fn spawn<A: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = A>) -> Process {
        let argv: Vec<OsString> = argv.into_iter().map(|word| word.as_ref().to_owned()).collect();
        let number = self.0.started.fetch_add(1, Ordering::Relaxed);
        let name = Path::new(&argv[0]).file_name().unwrap_or_default().to_string_lossy().into_owned();
        Process::start(self.command(&argv), &self.0.dir.join("log").join(format!("{name}-{number}")))
    }

    /// Runs a command in this host to its end, two minutes at most.
    #[track_caller]
    pub fn run<A: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = A>) -> Output {
        bounded::run(self.command(argv), RUN_LIMIT)
    }

    /// Runs a closure on a thread inside this host's namespace: sockets it opens belong to the host.
    #[track_caller]
    pub fn inside<T: Send>(&self, closure: impl FnOnce() -> T + Send) -> T {
        network::inside(&self.0.netns, closure)
    }

    /// Asks its process for `path` by HTTP on port 9100; gives status and body.
    ///
    /// # Errors
    /// When nobody answers, or not in HTTP.
    pub fn http(&self, path: &str) -> io::Result<(u16, String)> {
        let address = SocketAddr::new(IpAddr::V4(self.address()), HTTP_PORT);
        self.inside(|| http_get(address, path))
    }

    /// Starts a long-lived process of the mesh itself, whose log is shown when a test fails.
    #[track_caller]
    pub(crate) fn start_logged(&self, program: &Path, arguments: &[&str], name: &str) -> Process {
        let number = self.0.started.fetch_add(1, Ordering::Relaxed);
        let argv = std::iter::once(program.as_os_str()).chain(arguments.iter().map(OsStr::new));
        Process::start(self.command(argv), &self.0.dir.join("log").join(format!("{name}-{number}")))
    }

    /// Waits until the process serves `/readyz` and `also` holds.
    #[track_caller]
    pub(crate) fn wait_ready(
        &self,
        process: &mut Process,
        name: &str,
        limit: Duration,
        also: impl Fn() -> bool,
    ) {
        self.wait_for_page(process, name, "/readyz", limit, also);
    }

    #[track_caller]
    pub(crate) fn wait_for_page(
        &self,
        process: &mut Process,
        name: &str,
        page: &str,
        limit: Duration,
        also: impl Fn() -> bool,
    ) {
        let ready = poll(limit, || {
            if !process.is_running() {
                return Some(false);
            }
            let serves = self.http(page).is_ok_and(|(status, _)| status == 200);
            (serves && also()).then_some(true)
        });
        let state = match ready {
            Some(true) => return,
            Some(false) => "ended at once",
            None => "is not ready",
        };
        panic!("{name} of host {} {state} (limit {limit:?})\n{}", self.name(), process.stderr());
    }
}

fn http_get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, HTTP_LIMIT)?;
    stream.set_read_timeout(Some(HTTP_LIMIT))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let status =
        head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, body.to_owned()))
}
