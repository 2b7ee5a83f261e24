//! Starts servers, loads them, and reads what that cost.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

/// How long one turn of dnsperf takes, seconds.
const TURN_S: u64 = 5;
/// An answer with a signature has more bytes than this: 64 of the signature alone.
const SIGNED_BYTES_MIN: f64 = 120.0;
/// Longest start that is waited for.
const START_MAX: Duration = Duration::from_secs(120);

/// A server process, killed when it is dropped.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    /// Where the directory takes requests.
    pub(crate) api: SocketAddr,
}

/// One turn.
pub(crate) struct Load {
    pub(crate) queries_per_s: f64,
    pub(crate) cpu_us_per_query: f64,
    pub(crate) lost: u64,
}

impl Server {
    /// The directory with one DNS thread; gives how long it took from start to serving.
    pub(crate) fn directory(data: &Path, folder: &Path) -> Result<(Self, Duration)> {
        let config = folder.join("directory.toml");
        fs::write(&config, "dns_threads = 1\ndns_answers_per_second = 0\nlease_seconds = 3600\n")?;
        let begin = Instant::now();
        let child = Command::new(built("capsule-directory")?)
            .args([
                "serve",
                "--dns",
                "127.0.0.1:0",
                "--api",
                "127.0.0.1:0",
                "--http",
                "127.0.0.1:0",
                "--config",
            ])
            .arg(config)
            .arg("--data")
            .arg(data)
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("log"))?)
            .spawn()?;
        let mut server = Self { child, address: free_address()?, api: free_address()? };
        let listening = data.join("serve.json");
        while !listening.exists() {
            if begin.elapsed() > START_MAX || server.child.try_wait()?.is_some() {
                bail!("the directory did not start: {}", fs::read_to_string(folder.join("log"))?);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let took = begin.elapsed();
        let listening: serde_json::Value = serde_json::from_str(&fs::read_to_string(listening)?)?;
        let address = |name: &str| {
            let text = listening[name].as_str();
            Ok::<SocketAddr, anyhow::Error>(text.context("serve.json is not whole")?.parse()?)
        };
        (server.address, server.api) = (address("dns")?, address("api")?);
        Ok((server, took))
    }

    /// Stock hickory with one worker.
    pub(crate) fn stock() -> Result<(Self, Duration)> {
        let (begin, address) = (Instant::now(), free_address()?);
        let mut child = Command::new(std::env::current_exe()?)
            .args(["stock", "--dns", &address.to_string()])
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().context("no output")?;
        let server = Self { child, address, api: address };
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        if line.trim() != "serving" {
            bail!("stock hickory did not start");
        }
        Ok((server, begin.elapsed()))
    }

    /// One turn of dnsperf.
    pub(crate) fn load(&self, queries: &Path, signed: bool) -> Result<Load> {
        let before = self.cpu_us()?;
        let mut dnsperf = Command::new("dnsperf");
        dnsperf.args(["-s", "127.0.0.1", "-p", &self.address.port().to_string(), "-c", "8", "-q", "200"]);
        dnsperf.args(["-l", &TURN_S.to_string(), "-d"]).arg(queries);
        if signed {
            dnsperf.arg("-D");
        }
        let output = dnsperf.output().context("cannot start dnsperf (package dnsperf)")?;
        let cpu_us = self.cpu_us()? - before;
        let text = String::from_utf8_lossy(&output.stdout);
        let figure = |name: &str| {
            let line = text.lines().find(|line| line.trim_start().starts_with(name));
            let word = line.and_then(|line| line.split_whitespace().nth(name.split(' ').count()));
            word.and_then(|word| word.parse::<f64>().ok())
                .ok_or_else(|| anyhow!("dnsperf says no `{name}`: {text}"))
        };
        let completed = figure("Queries completed:")?;
        if !text.contains("NOERROR") || text.contains("SERVFAIL") || completed < 1.0 {
            bail!("wrong answers: {text}");
        }
        let bytes = text
            .split("response ")
            .nth(1)
            .and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        if signed && bytes.is_none_or(|bytes| bytes < SIGNED_BYTES_MIN) {
            bail!("answers without signatures: {text}");
        }
        Ok(Load {
            queries_per_s: figure("Queries per second:")?,
            cpu_us_per_query: cpu_us / completed,
            lost: figure("Queries lost:")? as u64,
        })
    }

    /// CPU time of all its threads, user and system, microseconds.
    pub(crate) fn cpu_us(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // proc(5): behind the name in brackets, fields 14 and 15.
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: f64 = fields
            .get(11..13)
            .context("a short stat line")?
            .iter()
            .filter_map(|word| word.parse::<f64>().ok())
            .sum();
        Ok(ticks * 1e6 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// `VmRSS`.
    pub(crate) fn resident_mib(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.split_whitespace().nth(1).context("no VmRSS")?.parse()?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn free_address() -> Result<SocketAddr> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?)
}

/// A program of the workspace: one folder above the examples.
fn built(name: &str) -> Result<std::path::PathBuf> {
    let examples = std::env::current_exe()?;
    let release = examples.parent().and_then(Path::parent).context("this program stands in no folder")?;
    let path = release.join(name);
    if !path.exists() {
        bail!("{} is missing: make build", path.display());
    }
    Ok(path)
}
