//! The mesh: hosts on a switch, a directory, and their end.

mod logs;
mod sweeper;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use std::{env, fs, process, thread};

use crate::directory::Directory;
use crate::host::Host;
use crate::leftovers::{Leftovers, leftovers};
use crate::network::Switch;
use crate::relay::Relay;
use crate::sweep;
use sweeper::Sweeper;

const ETHERNET_MTU: u32 = 1500;
const DIRECTORY_PORT: u8 = 2;
const RELAY_PORT: u8 = 3;
const FIRST_HOST_PORT: u8 = 10;
/// A capsule that can't be removed in this time is removed by force, from below.
const REMOVAL_LIMIT: Duration = Duration::from_secs(10);

static MESHES: AtomicU32 = AtomicU32::new(0);

/// Hosts joined by a switch. Everything is removed when it is dropped.
#[derive(Debug)]
pub struct Mesh {
    prefix: String,
    dir: PathBuf,
    switch: Arc<Switch>,
    hosts: Mutex<Vec<Host>>,
    directory: OnceLock<Directory>,
    relay: OnceLock<Relay>,
    sweeper: Sweeper,
}

impl Mesh {
    /// Makes an empty mesh. `name` (letters, digits, dashes) shows in the names of its kernel objects.
    ///
    /// # Panics
    /// When namespaces or bridges can't be made: it needs root.
    #[track_caller]
    pub fn new(name: &str) -> Mesh {
        Mesh::with_mtu(name, ETHERNET_MTU)
    }

    /// As `new`, with cables that carry larger packets.
    #[track_caller]
    pub fn with_mtu(name: &str, mtu: u32) -> Mesh {
        let number = MESHES.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("cx-{name}-{}-{number}-", process::id());
        let dir = sweep::folder(&prefix);
        fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let sweeper = Sweeper::start(&prefix);
        let switch = Arc::new(Switch::create(format!("{prefix}switch"), mtu));
        Mesh {
            prefix,
            dir,
            switch,
            hosts: Mutex::default(),
            directory: OnceLock::new(),
            relay: OnceLock::new(),
            sweeper,
        }
    }

    /// Makes a mesh whose directory runs and whose hosts have joined and serve.
    #[track_caller]
    pub fn running(name: &str, hosts: &[&str]) -> Mesh {
        let mesh = Mesh::new(name);
        mesh.start(hosts);
        mesh
    }

    /// Starts the directory when it does not run yet, then joins and starts these hosts, all at once.
    #[track_caller]
    pub fn start(&self, names: &[&str]) {
        let directory = self.directory();
        if directory.pid().is_none() {
            directory.start();
        }
        let hosts: Vec<Host> = names.iter().map(|name| self.host(name)).collect();
        thread::scope(|scope| {
            for host in &hosts {
                scope.spawn(|| host.join_and_start(directory));
            }
        });
    }

    /// The host of this name, made when it is first asked for; nothing runs in it then.
    #[track_caller]
    pub fn host(&self, name: &str) -> Host {
        let mut hosts = self.lock();
        if let Some(host) = hosts.iter().find(|host| host.name() == name) {
            return host.clone();
        }
        let port = u8::try_from(hosts.len()).ok().and_then(|count| FIRST_HOST_PORT.checked_add(count));
        let port = port.expect("a mesh has at most 245 hosts");
        let host = Host::create(name, &self.prefix, &self.dir, &self.switch, port);
        hosts.push(host.clone());
        host
    }

    /// The directory, on a host of its own; not started by this.
    #[track_caller]
    pub fn directory(&self) -> &Directory {
        self.directory.get_or_init(|| {
            Directory::new(Host::create("directory", &self.prefix, &self.dir, &self.switch, DIRECTORY_PORT))
        })
    }

    /// A relay on a host of its own, made when it is first asked for. It carries the hosts that it is told to.
    #[track_caller]
    pub fn relay(&self) -> &Relay {
        self.relay.get_or_init(|| {
            Relay::start(Host::create("relay", &self.prefix, &self.dir, &self.switch, RELAY_PORT))
        })
    }

    /// With what the names of all its kernel objects begin.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Its folder, removed with it: free for files of the test.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Removes everything, and says what could not be removed.
    pub fn end(self) -> Leftovers {
        let prefix = self.prefix.clone();
        drop(self);
        leftovers(&prefix)
    }

    /// Prints the last lines of every log to stderr.
    pub fn show_logs(&self) {
        logs::show(&self.dir);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Host>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The polite way first, so that a test also sees that removal works.
    fn remove_capsules(&self) {
        for host in self.lock().iter().filter(|host| host.sidecar_pid().is_some()) {
            let listed = host.capsule_within(REMOVAL_LIMIT, ["ps", "--local", "--json"]);
            let Ok(listed) = serde_json::from_str::<serde_json::Value>(&listed.stdout) else { continue };
            for capsule in listed["capsules"].as_array().into_iter().flatten() {
                let name = capsule["name"].as_str().unwrap_or_default();
                host.capsule_within(REMOVAL_LIMIT, ["rm", "--force", name]);
            }
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if thread::panicking() {
            logs::show(&self.dir);
            logs::keep(&self.dir, &self.prefix);
        } else {
            self.remove_capsules();
        }
        for host in self.lock().iter() {
            if thread::panicking() { host.kill_sidecar() } else { host.stop_sidecar() }
        }
        if let Some(directory) = self.directory.get() {
            directory.kill();
        }
        drop(self.relay.take());
        if env::var_os("TESTKIT_KEEP").is_some() {
            logs::keep(&self.dir, &self.prefix);
        }
        for failure in sweep::sweep(&self.prefix) {
            eprintln!("testkit: {failure}");
        }
        self.sweeper.dismiss();
    }
}
