//! Settings: defaults, then the file, then `CAPSULE_…` variables, then flags.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use kernel::limits::SYN_HELD_MAX;
use overlay_proto::HostName;
use serde::{Deserialize, Serialize};

use crate::capsule::resolver::NameServer;
use crate::command::Serve;
use crate::limits::{
    BUFFER_BYTES_MIN, BUFFER_CAPSULE_PART, BUFFER_HOST_PART, BUFFER_SESSION_BYTES, DATAGRAM_WAIT_MS,
    GATEWAY_MACHINE_CONNECTIONS, UPSTREAM_SERVERS,
};
use crate::session::BufferLimits;

/// The settings of a sidecar.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where to take links of other hosts (UDP).
    pub listen: SocketAddr,
    /// Where others reach this host, if not where its requests to the directory come from.
    pub advertise: Option<SocketAddr>,
    /// The socket that `capsule` talks to.
    pub admin: PathBuf,
    /// Where to serve /metrics, /healthz and /readyz.
    pub http: SocketAddr,
    /// The root that capsules on this host see below their private files.
    pub base: PathBuf,
    /// Further paths of the base that capsules must not see.
    pub masks: Vec<PathBuf>,
    /// What is read as the CPU's features when a capsule of this host is to move.
    pub cpuinfo: PathBuf,
    /// The owner of capsules that are run without `--owner`.
    pub owner: String,
    /// UDP payload that links begin with, in bytes; every path between the hosts must take it.
    pub mtu_initial_bytes: u16,
    /// Seconds without a sign of life after which a link is given up.
    pub link_idle_s: u64,
    /// Milliseconds that a move waits at most for peers to agree on amounts.
    pub hold_ms_max: u64,
    /// Seconds that a session waits at most for a peer that is away, suspended or unreachable; then its program's
    /// connection is reset. 0: for as long as it takes.
    pub hold_max_s: u64,
    /// Milliseconds that a datagram waits for a capsule that is on the move, in a file or unreachable; 0: it is dropped.
    pub datagram_wait_ms: u64,
    /// What becomes of new connections to a suspended capsule.
    pub suspended_connects: SuspendedConnects,
    /// Whether a connect waits until the far program answered; otherwise, and where the kernel has no queues, it is
    /// accepted first, and capsules have no ICMP.
    pub hold_connects: bool,
    /// Connects that are held at once in one capsule.
    pub held_connects_max: u32,
    /// What becomes of one more.
    pub held_connects_full: HeldConnectsFull,
    /// DNS servers that capsules' names outside of the zone are asked at; none: those of `/etc/resolv.conf`, followed when
    /// it changes.
    pub upstream_dns: Vec<NameServer>,
    /// Bytes of memory that the receive buffer of one session may take.
    pub buffer_session_bytes: u64,
    /// The same of all sessions of one capsule; 0: half of the host's.
    pub buffer_capsule_bytes: u64,
    /// The same of all sessions on this host; 0: a part of its memory.
    pub buffer_host_bytes: u64,
    /// Whether this host is a gateway: machines without a sidecar reach by it what `capsule publish` says, and capsules
    /// the networks of `gateway_reach`.
    pub gateway: bool,
    /// Of a gateway: networks outside that capsules may reach by it, where the policy allows it too.
    pub gateway_reach: Vec<IpNet>,
    /// Of a gateway: networks outside whose machines may route locators to it, and reach by that what the policy lets them.
    pub gateway_routed: Vec<IpNet>,
    /// Of a gateway: connections that one machine outside may have at once.
    pub gateway_machine_max: usize,
    /// Networks outside that capsules of this host reach from it, without a gateway.
    pub outside_reach: Vec<IpNet>,
    /// The gateway by which capsules of this host reach machines outside instead.
    pub outside_via: Option<HostName>,
    /// Logs as `text` or `json`.
    pub log: LogFormat,
}

/// What becomes of new connections to a suspended capsule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SuspendedConnects {
    /// They wait as long as the program's own kernel does, and time out then.
    #[default]
    Wait,
    /// They fail at once: the host is unreachable.
    Refuse,
}

/// What becomes of a connect that finds as many held as there may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeldConnectsFull {
    /// It waits: its SYN is dropped, and its program's kernel sends it again a second later.
    #[default]
    Wait,
    /// It is accepted, and reset if the far program does not take it.
    Accept,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 4433)),
            advertise: None,
            admin: "/run/capsule/admin.sock".into(),
            http: SocketAddr::from(([127, 0, 0, 1], 9100)),
            base: "/".into(),
            masks: Vec::new(),
            cpuinfo: "/proc/cpuinfo".into(),
            owner: "root".into(),
            mtu_initial_bytes: 1452,
            link_idle_s: 8,
            hold_ms_max: 2000,
            hold_max_s: 0,
            datagram_wait_ms: DATAGRAM_WAIT_MS,
            suspended_connects: SuspendedConnects::default(),
            hold_connects: true,
            held_connects_max: SYN_HELD_MAX,
            held_connects_full: HeldConnectsFull::default(),
            upstream_dns: Vec::new(),
            buffer_session_bytes: BUFFER_SESSION_BYTES,
            buffer_capsule_bytes: 0,
            buffer_host_bytes: 0,
            gateway: false,
            gateway_reach: Vec::new(),
            gateway_routed: Vec::new(),
            gateway_machine_max: GATEWAY_MACHINE_CONNECTIONS,
            outside_reach: vec![Ipv4Net::default().into(), Ipv6Net::default().into()],
            outside_via: None,
            log: LogFormat::Text,
        }
    }
}

/// Variables of the environment that are no settings: they belong to `capsule`, to logging and to fault points.
const NOT_SETTINGS: [&str; 4] = ["admin", "log", "fault", "fault_file"];

impl Config {
    /// Composes the settings and checks them.
    ///
    /// # Errors
    /// Settings are unknown or have no sense; the message says which and where, a line each.
    pub fn load(flags: &Serve) -> anyhow::Result<Self> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(file) = &flags.config {
            std::fs::metadata(file).with_context(|| format!("reading settings from {}", file.display()))?;
            figment = figment.merge(Toml::file_exact(file));
        }
        figment = figment.merge(Env::prefixed("CAPSULE_").ignore(&NOT_SETTINGS));
        figment = merge_flag(figment, "listen", flags.listen.as_ref());
        figment = merge_flag(figment, "advertise", flags.advertise.as_ref());
        figment = merge_flag(figment, "admin", flags.admin.as_ref());
        figment = merge_flag(figment, "http", flags.http.as_ref());
        figment = merge_flag(figment, "gateway", flags.gateway.then_some(&true));
        settings::read(&figment, Self::faults).context("settings")
    }

    /// What receive buffers may take on a host with so much memory.
    pub fn buffer_limits(&self, memory_bytes: u64) -> BufferLimits {
        let or = |configured: u64, otherwise: u64| if configured > 0 { configured } else { otherwise };
        let host_bytes = or(self.buffer_host_bytes, memory_bytes / BUFFER_HOST_PART);
        BufferLimits {
            session_bytes: self.buffer_session_bytes,
            capsule_bytes: or(self.buffer_capsule_bytes, host_bytes / BUFFER_CAPSULE_PART),
            host_bytes,
        }
    }

    fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        let mut check = |good: bool, key: &'static str, what: String| {
            if !good {
                faults.push((key, what));
            }
        };
        let (base, mtu) = (&self.base, self.mtu_initial_bytes);
        check(base.is_absolute(), "base", format!("{base:?} is not an absolute path"));
        check(is_directory(base), "base", format!("{base:?} is not a directory"));
        check(
            (1200..=6500).contains(&mtu),
            "mtu_initial_bytes",
            format!("{mtu} is not between 1200 and 6500"),
        );
        check(
            self.buffer_session_bytes >= BUFFER_BYTES_MIN,
            "buffer_session_bytes",
            format!("{} is below {BUFFER_BYTES_MIN}, which every session has", self.buffer_session_bytes),
        );
        check(
            self.upstream_dns.len() <= UPSTREAM_SERVERS,
            "upstream_dns",
            format!("{} servers are more than {UPSTREAM_SERVERS}", self.upstream_dns.len()),
        );
        check(
            (1..=SYN_HELD_MAX).contains(&self.held_connects_max),
            "held_connects_max",
            format!("{} is not between 1 and {SYN_HELD_MAX}", self.held_connects_max),
        );
        check(self.link_idle_s >= 2, "link_idle_s", format!("{} is below 2", self.link_idle_s));
        faults
    }
}

fn is_directory(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

fn merge_flag<T: Serialize>(figment: Figment, key: &str, value: Option<&T>) -> Figment {
    match value {
        Some(value) => figment.merge(Serialized::default(key, value)),
        None => figment,
    }
}

#[cfg(test)]
mod tests;
