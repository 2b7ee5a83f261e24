//! Carries events out, and sees to it that the mesh is whole again afterwards.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::{Host, Mesh, program};

use crate::schedule::{Event, HOSTS, Schedule};

/// What a verb may take while everything else goes wrong.
const VERB_LIMIT: Duration = Duration::from_secs(60);
/// Time in which everything must be where it belongs after the last event.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Tries and successes by kind.
pub(crate) type Counts = BTreeMap<&'static str, (u64, u64)>;

/// The mesh and what is done to it.
pub(crate) struct Mishaps {
    pub(crate) mesh: Mesh,
    files: Mutex<BTreeMap<String, PathBuf>>,
    suspends: AtomicU64,
    addresses: [AtomicU64; HOSTS.len()],
    pub(crate) counts: Mutex<Counts>,
}

impl Mishaps {
    pub(crate) fn new(mesh: Mesh) -> Self {
        Self {
            mesh,
            files: Mutex::default(),
            suspends: AtomicU64::default(),
            addresses: Default::default(),
            counts: Mutex::default(),
        }
    }

    /// Any host: every verb may be given to each.
    pub(crate) fn anyone(&self) -> Host {
        self.mesh.host(HOSTS[0])
    }

    /// Carries out a schedule; `name_of` gives the full name of a capsule.
    pub(crate) fn carry_out(&self, schedule: &Schedule, name_of: &(dyn Fn(&str) -> String + Sync)) {
        let began = Instant::now();
        thread::scope(|scope| {
            for (begins, event) in &schedule.events {
                scope.spawn(move || {
                    thread::sleep(begins.saturating_sub(began.elapsed()));
                    let worked = self.happen(event, name_of);
                    let mut counts = self.counts.lock().expect("no panics under this lock");
                    let (tried, done) = counts.entry(event.kind()).or_default();
                    *tried += 1;
                    *done += u64::from(worked);
                });
            }
        });
    }

    /// Whether it worked; a verb that fails because something else went wrong is no fault.
    fn happen(&self, event: &Event, name_of: &(dyn Fn(&str) -> String + Sync)) -> bool {
        match event {
            Event::Move { capsule, to } => self.verb(to, &["move", &name_of(capsule), "--to", to]),
            Event::Kill { host, down } => {
                let host = self.mesh.host(host);
                host.kill_sidecar();
                thread::sleep(*down);
                host.start_sidecar();
                true
            }
            Event::Upgrade { host } => {
                let host = self.mesh.host(host);
                let data = host.data().display().to_string();
                let sidecar = program("capsule-sidecar").display().to_string();
                host.run([sidecar.as_str(), "upgrade", "--data", &data]).code == 0
            }
            Event::Directory { down } => {
                self.mesh.directory().kill();
                thread::sleep(*down);
                self.mesh.directory().start();
                true
            }
            Event::Cut { host, down } => {
                let host = self.mesh.host(host);
                host.cut();
                thread::sleep(*down);
                host.join();
                true
            }
            Event::Readdress { host } => {
                let at = HOSTS.iter().position(|name| name == host).unwrap_or_default();
                let times = self.addresses[at].fetch_add(1, Ordering::Relaxed);
                self.mesh.host(host).readdress(u8::try_from(times % 3).unwrap_or_default() + 1);
                true
            }
            Event::Suspend { capsule, lies, on } => {
                let name = name_of(capsule);
                let number = self.suspends.fetch_add(1, Ordering::Relaxed);
                let file = self.mesh.dir().join(format!("{name}-{number}.capsule"));
                let path = file.display().to_string();
                self.files.lock().expect("no panics under this lock").insert(name.clone(), file);
                let suspended = self.verb(on, &["suspend", &name, "--to", &path]);
                thread::sleep(*lies);
                suspended && self.verb(on, &["resume", &path, "--to", on])
            }
        }
    }

    fn verb(&self, host: &str, words: &[&str]) -> bool {
        self.mesh.host(host).capsule_within(VERB_LIMIT, words).code == 0
    }

    /// Waits until each of `names` runs, or has ended, at exactly one host.
    ///
    /// # Panics
    /// When that does not come to be.
    pub(crate) fn settle(&self, names: &[String]) {
        let began = Instant::now();
        loop {
            let wrong = self.out_of_place(names);
            let Some(wrong) = wrong else { return };
            assert!(began.elapsed() < SETTLE_LIMIT, "not settled: {wrong}");
            thread::sleep(LOOK_AGAIN);
        }
    }

    fn out_of_place(&self, names: &[String]) -> Option<String> {
        let listed = self.listed(&self.anyone(), &["--json", "ps"])?;
        let mut here: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for host in HOSTS {
            for capsule in self.listed(&self.mesh.host(host), &["--json", "ps", "--local"])? {
                if matches!(capsule["state"].as_str(), Some("running" | "stopped")) {
                    here.entry(text(&capsule["name"])).or_default().push(host);
                }
            }
        }
        for name in names {
            let Some(record) = listed.iter().find(|capsule| capsule["name"] == name.as_str()) else {
                return Some(format!("{name} is not listed"));
            };
            let (state, host) = (text(&record["state"]), text(&record["host"]));
            if state == "suspended" {
                self.resume(name);
            }
            let at = here.get(name).cloned().unwrap_or_default();
            if !matches!(state.as_str(), "running" | "stopped") || at != [host.as_str()] {
                return Some(format!("{name} is {state} at {host}, and at {at:?} by the hosts' own lists"));
            }
            if !self.verb(HOSTS[0], &["inspect", name]) {
                return Some(format!("{host} can't be asked for {name}"));
            }
        }
        None
    }

    fn resume(&self, name: &str) {
        let file = self.files.lock().expect("no panics under this lock").get(name).cloned();
        if let Some(file) = file {
            self.verb(HOSTS[0], &["resume", &file.display().to_string()]);
        }
    }

    fn listed(&self, host: &Host, words: &[&str]) -> Option<Vec<Value>> {
        let output = host.capsule_within(VERB_LIMIT, words);
        let listed: Value = serde_json::from_str(&output.stdout).ok()?;
        listed["capsules"].as_array().cloned()
    }
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
