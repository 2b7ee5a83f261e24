//! How long a change takes until every sidecar has seen it: hosts that joined, each with a QUIC connection of its own, a
//! watch, and a lease that it renews, in processes of their own; and changes at a steady pace.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use capsule_directory::data::Data;
use directory_api::{Change, Client, LeaseRequest, Membership, join};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use crate::measure::Server;

/// Connections, as many as there are hosts.
pub(crate) const WATCHERS: usize = 500;
/// Processes among which they are shared out.
const PROCESSES: usize = 2;
/// Changes that are timed.
const CHANGES: usize = 200;
/// How long after one change the next is made.
const PACE: Duration = Duration::from_millis(150);
/// How often each host renews its lease: as sidecars do by default.
const RENEWAL: Duration = Duration::from_secs(5);
/// Joins under way at once: the directory takes 64, but a crowded machine does not make as many handshakes in time.
const JOINS: usize = 8;
/// Longest time that a watcher waits for the last change.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was seen, milliseconds.
pub(crate) struct Delays {
    /// Until a watcher saw a change, of each watcher and change.
    pub(crate) each: Vec<f64>,
    /// Until all saw it, of each change.
    pub(crate) all: Vec<f64>,
    /// Until whoever made it was told that it holds, of each change.
    pub(crate) answered: Vec<f64>,
    /// CPU time of the directory for one change, all watchers and renewals of leases, milliseconds.
    pub(crate) cpu: f64,
}

/// The value below which this share of the values is.
pub(crate) fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(at.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

/// Has hosts join a running directory and times changes.
pub(crate) fn measure(data: &Path, directory: &Server, folder: &Path) -> Result<Delays> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        join_all(&Data::open(data)?, directory.api, folder).await?;
        let maker = Client::connect(vec![directory.api], Membership::load(&host(folder, 0))?.identity)?;
        maker.renew_lease(LeaseRequest { port: 1, advertise: None, capsules: vec![] }).await?;
        // As a sidecar that was there before: a snapshot of everything is another matter.
        let revision = maker.rules().await?.revision;
        let mut watchers = Watchers::start(directory.api, folder, revision)?;
        sleep(RENEWAL).await;
        let before = directory.cpu_us()?;
        let (mut made, mut answered) = (HashMap::new(), vec![]);
        let mut pace = interval(PACE);
        for number in 0..CHANGES {
            pace.tick().await;
            let (name, begin) = (format!("seen-{number:04}"), now_ns());
            maker.register(name.parse()?, "bench".parse()?).await?;
            answered.push(to_ms(now_ns() - begin));
            made.insert(name, begin);
        }
        let cpu = (directory.cpu_us()? - before) / 1e3 / CHANGES as f64;
        let seen = watchers.seen()?;
        let mut all: HashMap<&String, f64> = HashMap::new();
        let mut each = Vec::with_capacity(seen.len());
        for (name, at) in &seen {
            let begin = made.get(name).ok_or_else(|| anyhow!("a change that nobody made: {name}"))?;
            let delay = to_ms(at.saturating_sub(*begin));
            each.push(delay);
            let last = all.entry(name).or_default();
            *last = last.max(delay);
        }
        if each.len() != WATCHERS * CHANGES {
            bail!("{} sightings of {CHANGES} changes by {WATCHERS} watchers", each.len());
        }
        Ok(Delays { each, all: all.into_values().collect(), answered, cpu })
    })
}

/// The part of a process of watchers: watches as some of the hosts, and prints which change it saw when.
pub(crate) fn watch(api: SocketAddr, folder: &Path, revision: u64, first: usize, count: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut watchers = JoinSet::new();
        for number in first..first + count {
            let client = Client::connect(vec![api], Membership::load(&host(folder, number))?.identity)?;
            let port = u16::try_from(number + 1)?;
            client.renew_lease(LeaseRequest { port, advertise: None, capsules: vec![] }).await?;
            watchers.spawn(follow(client, port, revision));
        }
        println!("watching");
        let mut out = std::io::stdout().lock();
        while let Some(seen) = watchers.join_next().await {
            for (name, at) in seen?? {
                writeln!(out, "{name} {at}")?;
            }
        }
        Ok(())
    })
}

async fn follow(client: Client, port: u16, revision: u64) -> Result<Vec<(String, u64)>> {
    let mut changes = client.watch(revision);
    let mut renewal = interval(RENEWAL);
    // Not all in the same moment.
    renewal.reset_after(RENEWAL * u32::from(port) / u32::try_from(WATCHERS)?);
    let (mut seen, mut names) = (Vec::with_capacity(CHANGES), HashSet::new());
    while seen.len() < CHANGES {
        tokio::select! {
            change = timeout(PATIENCE, changes.recv()) => {
                let at = now_ns();
                if let Change::Capsule { record, .. } = change?.context("the watch ended")?
                    && record.name.as_str().starts_with("seen-")
                    && names.insert(record.name.clone())
                {
                    seen.push((record.name.to_string(), at));
                }
            }
            _ = renewal.tick() => {
                client.renew_lease(LeaseRequest { port, advertise: None, capsules: vec![] }).await?;
            }
        }
    }
    Ok(seen)
}

async fn join_all(data: &Data, api: SocketAddr, folder: &Path) -> Result<()> {
    let (turns, mut joins) = (std::sync::Arc::new(Semaphore::new(JOINS)), JoinSet::new());
    for number in 0..WATCHERS {
        let token = data.token(format!("watcher-{number:03}").parse()?, RENEWAL * 120, true, vec![])?;
        let (path, turns) = (host(folder, number), turns.clone());
        joins.spawn(async move {
            let _turn = turns.acquire().await?;
            let membership = join(api, &token).await?;
            Ok::<_, anyhow::Error>(membership.save(&path)?)
        });
    }
    while let Some(joined) = joins.join_next().await {
        joined??;
    }
    Ok(())
}

/// Processes of watchers, killed when they are dropped.
struct Watchers(Vec<(Child, BufReader<std::process::ChildStdout>)>);

impl Watchers {
    fn start(api: SocketAddr, folder: &Path, revision: u64) -> Result<Self> {
        let mut watchers = Self(vec![]);
        let count = WATCHERS / PROCESSES;
        for part in 0..PROCESSES {
            let mut child = Command::new(std::env::current_exe()?)
                .args(["watchers", "--api", &api.to_string(), "--revision", &revision.to_string()])
                .args(["--first", &(part * count).to_string(), "--count", &count.to_string(), "--folder"])
                .arg(folder)
                .stdout(Stdio::piped())
                .spawn()?;
            let out = BufReader::new(child.stdout.take().context("no output")?);
            watchers.0.push((child, out));
        }
        for (_, out) in &mut watchers.0 {
            let mut line = String::new();
            out.read_line(&mut line)?;
            if line.trim() != "watching" {
                bail!("a process of watchers did not start");
            }
        }
        Ok(watchers)
    }

    /// Waits until all have seen everything; gives what was seen when.
    fn seen(&mut self) -> Result<Vec<(String, u64)>> {
        let mut seen = vec![];
        for (_, out) in &mut self.0 {
            for line in out.lines() {
                let line = line?;
                let (name, at) = line.split_once(' ').context("a broken line of a watcher")?;
                seen.push((name.to_owned(), at.parse()?));
            }
        }
        Ok(seen)
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        for (child, _) in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn host(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("watcher-{number:03}"))
}

/// The clock that all processes of this machine share.
fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

fn to_ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}
