//! The sidecar of a host and the `capsule` command talking to it.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fs, mem};

use rustix::process::Signal;

use super::{HTTP_PORT, Host};
use crate::directory::Directory;
use crate::process::{Output, Process};
use crate::programs::program;
use crate::{bounded, sweep};

const READY_WITHIN: Duration = Duration::from_secs(20);
const STOPPED_WITHIN: Duration = Duration::from_secs(5);
const LISTEN_PORT: u16 = 4433;

#[derive(Debug, Default)]
pub(super) struct Sidecar(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    process: Option<Process>,
    config: String,
    flags: Vec<String>,
    environment: Vec<String>,
    everywhere: bool,
}

impl Sidecar {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    /// Adds lines of TOML to the sidecar's config file, for its next start.
    pub fn configure(&self, toml: &str) {
        let mut state = self.0.sidecar.lock();
        // Top-level keys must come before tables: the newest line goes first.
        let older = mem::take(&mut state.config);
        state.config = format!("{}\n{older}", toml.trim());
    }

    /// Sets the root that capsules on this host see, for the sidecar's next start.
    pub fn set_base(&self, base: &Path) {
        self.configure(&format!("base = {:?}", base.display().to_string()));
    }

    /// Adds flags to `capsule-sidecar serve`, for its next start (`--gateway`).
    pub fn add_flags(&self, flags: &[&str]) {
        self.0.sidecar.lock().flags.extend(flags.iter().map(|&flag| flag.to_owned()));
    }

    /// Makes it a gateway, from the sidecar's next start.
    pub fn be_gateway(&self) {
        self.configure("gateway = true");
    }

    /// Sets variables of the environment, for the sidecar's next start.
    pub fn set_environment(&self, variables: &[(&str, &str)]) {
        let assigned = variables.iter().map(|(name, value)| format!("{name}={value}"));
        self.0.sidecar.lock().environment = assigned.collect();
    }

    /// Makes the sidecar listen on all addresses of the host, from its next start; else it names the one that it has.
    pub fn listen_everywhere(&self) {
        self.0.sidecar.lock().everywhere = true;
    }

    /// Joins the mesh with a fresh token, and starts the sidecar.
    ///
    /// # Panics
    /// When it can't join or does not become ready.
    #[track_caller]
    pub fn join_and_start(&self, directory: &Directory) {
        self.join_mesh(directory).ok();
        self.start_sidecar();
    }

    /// Runs `capsule-sidecar join` with a fresh token.
    #[track_caller]
    pub fn join_mesh(&self, directory: &Directory) -> Output {
        let token = directory.token(self.name());
        self.join_with(directory, &token)
    }

    /// Runs `capsule-sidecar join` with this token.
    #[track_caller]
    pub fn join_with(&self, directory: &Directory, token: &str) -> Output {
        let (data, api) = (self.data().display().to_string(), directory.api().to_string());
        let program = program("capsule-sidecar");
        let arguments = ["join", "--data", &data, "--token", token, "--directory", &api];
        self.run(std::iter::once(program.as_os_str()).chain(arguments.iter().map(OsStr::new)))
    }

    /// Starts the sidecar of a host that has joined, and waits until it is ready.
    ///
    /// # Panics
    /// When it runs already or does not become ready.
    #[track_caller]
    pub fn start_sidecar(&self) {
        let mut state = self.0.sidecar.lock();
        assert!(
            state.process.as_mut().is_none_or(|process| !process.is_running()),
            "the sidecar of {} runs already",
            self.name()
        );
        let config = self.dir().join("sidecar.toml");
        fs::write(&config, &state.config).unwrap_or_else(|error| panic!("{}: {error}", config.display()));
        let (data, config, admin) = (text(self.data()), text(config), text(self.admin()));
        let address = if state.everywhere { Ipv4Addr::UNSPECIFIED } else { self.address() };
        let (listen, http) = (format!("{address}:{LISTEN_PORT}"), format!("{address}:{HTTP_PORT}"));
        let mut arguments = vec!["serve", "--data", &data, "--config", &config, "--listen", &listen];
        arguments.extend(["--admin", &admin, "--http", &http]);
        arguments.extend(state.flags.iter().map(String::as_str));
        // `env` becomes the sidecar: the process id is its own.
        let sidecar = text(program("capsule-sidecar"));
        let mut line: Vec<&str> = state.environment.iter().map(String::as_str).collect();
        line.push(&sidecar);
        line.extend(arguments);
        let mut process = self.start_logged(Path::new("/usr/bin/env"), &line, "sidecar");
        self.wait_ready(&mut process, "sidecar", READY_WITHIN, || UnixStream::connect(&admin).is_ok());
        state.process = Some(process);
    }

    /// Process id of the sidecar, while it runs.
    pub fn sidecar_pid(&self) -> Option<u32> {
        self.0.sidecar.lock().process.as_ref().map(Process::pid)
    }

    /// Kills the sidecar (SIGKILL); shims and capsules stay.
    pub fn kill_sidecar(&self) {
        self.0.sidecar.lock().process = None;
    }

    /// Ends the sidecar (SIGTERM), and kills it when that takes over five seconds.
    pub fn stop_sidecar(&self) {
        if let Some(mut process) = self.0.sidecar.lock().process.take() {
            process.signal(Signal::TERM);
            crate::wait::poll(STOPPED_WITHIN, || (!process.is_running()).then_some(()));
        }
    }

    /// Where the sidecar takes commands.
    pub fn admin(&self) -> PathBuf {
        self.data().join("admin.sock")
    }

    /// Runs `capsule` against this host's sidecar to its end, two minutes at most.
    #[track_caller]
    pub fn capsule<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Output {
        let output = self.run(self.capsule_line(arguments));
        sweep::note_capsules(self.netns(), self.dir());
        output
    }

    /// As `capsule`, killed after `limit`: the code is −1 then.
    #[track_caller]
    pub fn capsule_within<A: AsRef<OsStr>>(
        &self,
        limit: Duration,
        arguments: impl IntoIterator<Item = A>,
    ) -> Output {
        let output = bounded::run(self.command(self.capsule_line(arguments)), limit);
        sweep::note_capsules(self.netns(), self.dir());
        output
    }

    /// Starts `capsule` against this host's sidecar: a foreground `run`, `logs -f`, a `move` to be interrupted.
    #[track_caller]
    pub fn spawn_capsule<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Process {
        self.spawn(self.capsule_line(arguments))
    }

    fn capsule_line<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Vec<std::ffi::OsString> {
        let mut line = vec![program("capsule").into(), "--admin".into(), self.admin().into()];
        line.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        line
    }
}

fn text(path: PathBuf) -> String {
    path.display().to_string()
}
