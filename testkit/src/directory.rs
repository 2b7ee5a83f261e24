//! The directory process of a mesh.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use crate::host::Host;
use crate::process::{Output, Process};
use crate::programs::program;
use std::sync::Mutex;

const ZONE: &str = "capsule.internal";
const READY_WITHIN: Duration = Duration::from_secs(20);

/// `capsule-directory` on a host of its own (192.0.2.2).
#[derive(Debug)]
pub struct Directory {
    host: Host,
    config: Mutex<String>,
    process: Mutex<Option<Process>>,
}

impl Directory {
    pub(crate) fn new(host: Host) -> Directory {
        Directory { host, config: Mutex::default(), process: Mutex::new(None) }
    }

    /// The host it runs on: can be cut off and joined again.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Where sidecars reach it.
    pub fn api(&self) -> SocketAddr {
        self.at(4400)
    }

    /// Where it answers DNS.
    pub fn dns(&self) -> SocketAddr {
        self.at(53)
    }

    /// Where it serves metrics and readiness.
    pub fn http(&self) -> SocketAddr {
        self.at(9100)
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.host.address()), port)
    }

    /// The zone that it serves.
    pub fn zone(&self) -> &'static str {
        ZONE
    }

    /// Gives it settings (TOML), from its next start.
    pub fn configure(&self, config: &str) {
        *self.config.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = config.to_owned();
    }

    /// Starts it (the first time: makes its data), and waits until it is ready.
    ///
    /// # Panics
    /// When it runs already or does not become ready.
    #[track_caller]
    pub fn start(&self) {
        self.start_until("/readyz");
    }

    /// Starts it, and waits until it answers: one that was restored from a backup is not ready before it has heard every
    /// host.
    ///
    /// # Panics
    /// When it runs already or does not come up.
    #[track_caller]
    pub fn start_unsettled(&self) {
        self.start_until("/healthz");
    }

    #[track_caller]
    fn start_until(&self, page: &str) {
        let mut process = self.lock();
        assert!(process.as_mut().is_none_or(|process| !process.is_running()), "the directory runs already");
        if !self.host.data().exists() {
            self.command(&["init", "--data", &self.data(), "--zone", ZONE]).ok();
        }
        let (dns, api, http) = (self.dns().to_string(), self.api().to_string(), self.http().to_string());
        let config = self.host.dir().join("directory.toml");
        let settings = self.config.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        std::fs::write(&config, settings).unwrap_or_else(|error| panic!("{}: {error}", config.display()));
        let config = config.display().to_string();
        let data = self.data();
        let mut arguments = vec!["serve", "--data", &data, "--config", &config];
        arguments.extend(["--dns", &dns, "--api", &api, "--http", &http]);
        let mut started = self.host.start_logged(&program("capsule-directory"), &arguments, "directory");
        self.host.wait_for_page(&mut started, "directory", page, READY_WITHIN, || true);
        *process = Some(started);
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.lock().as_ref().map(Process::pid)
    }

    /// Kills it (SIGKILL); `start` brings it back with its data.
    pub fn kill(&self) {
        *self.lock() = None;
    }

    /// Makes a backup, also while it runs.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn backup(&self, to: &Path) {
        self.command(&["backup", "--data", &self.data(), "--to", &to.display().to_string()]).ok();
    }

    /// Kills it, destroys its data, and makes that anew from a backup; it does not run then.
    ///
    /// # Panics
    /// When the backup is not good.
    #[track_caller]
    pub fn lose(&self, backup: &Path) {
        self.kill();
        std::fs::remove_dir_all(self.host.data()).unwrap_or_else(|error| panic!("{}: {error}", self.data()));
        self.command(&["restore", "--from", &backup.display().to_string(), "--data", &self.data()]).ok();
    }

    /// Asks it for a one-time join token for a host.
    ///
    /// # Panics
    /// When it gives none.
    #[track_caller]
    pub fn token(&self, host: &str) -> String {
        let output = self.command(&["token", "--data", &self.data(), "--host", host]).ok();
        output.stdout.trim().to_owned()
    }

    /// Runs `capsule-directory` with these arguments on its host.
    #[track_caller]
    pub fn command(&self, arguments: &[&str]) -> Output {
        let program = program("capsule-directory");
        self.host.run(std::iter::once(program.as_os_str()).chain(arguments.iter().map(std::ffi::OsStr::new)))
    }

    fn data(&self) -> String {
        self.host.data().display().to_string()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
