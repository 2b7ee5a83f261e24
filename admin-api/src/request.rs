//! What a client asks for.

use std::{
    fmt::{self, Display},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The first frame of every stream: a request, and who passes it on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// What is asked for.
    pub request: Request,
    /// The host whose sidecar passes the verb on; `None` on the admin socket.
    /// A receiver that sees a host here never passes the call on again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarded_by: Option<String>,
    /// Who typed the verb, as the sidecar says that passes it on; on the admin socket the kernel says that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_by: Option<Asker>,
}

/// Somebody who typed a verb.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// The user number.
    pub uid: u32,
    /// Its name on that host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Who logged in, where that is another user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
}

impl Call {
    /// A call as a client makes it.
    pub fn new(request: Request) -> Self {
        Self { request, forwarded_by: None, asked_by: None }
    }

    /// The same call, passed on by the sidecar of `host` for `asker`.
    pub fn forwarded(self, host: impl Into<String>, asker: Option<Asker>) -> Self {
        Self { request: self.request, forwarded_by: Some(host.into()), asked_by: asker }
    }
}

/// One verb with its arguments. Names are checked by the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// Creates a capsule on this host and starts its program. Answered with
    /// [`RunResult`](crate::result::RunResult) when the program has started.
    Run(Run),
    /// Lists capsules: [`PsResult`](crate::result::PsResult).
    Ps {
        /// Only those on this host.
        #[serde(default)]
        local: bool,
    },
    /// Tells all about one capsule: [`InspectResult`](crate::result::InspectResult).
    Inspect {
        /// The capsule.
        name: String,
    },
    /// Sends the log as it is: Stdout, Stderr and Position frames, then
    /// [`LogsResult`](crate::result::LogsResult).
    Logs {
        /// The capsule.
        name: String,
    },
    /// Sends the log from a position on and goes on with it, until the program
    /// ended (`Exit`) or the capsule left this host (`Moved`). Signal frames go
    /// to the program if `signals` said so. A call for a capsule that is moving is answered when it
    /// has arrived.
    Follow {
        /// The capsule's name.
        name: String,
        /// Its id, so that a name used again is not taken for the same capsule.
        id: String,
        /// The position up to which the client has the output; 0 is the start.
        from_position: u64,
        /// Whether the client may send signals; without it a server ignores them.
        #[serde(default)]
        signals: bool,
    },
    /// Runs a program inside a running capsule. Stdin, StdinEnd and Signal
    /// frames go to it; its end is an `Exit`. When the client goes away, so does
    /// the program.
    Exec(Exec),
    /// Captures what the capsule sends and receives: Stdout frames that make one pcap file, then
    /// [`TapResult`](crate::result::TapResult) when the client said Cancel, or the capsule ended or left this host.
    Tap {
        /// The capsule.
        name: String,
        /// Which packets, as words of pcap-filter(7); empty: all.
        #[serde(default)]
        filter: Vec<String>,
    },
    /// Starts a stopped capsule again: [`RunResult`](crate::result::RunResult).
    Start {
        /// The capsule.
        name: String,
    },
    /// Asks the program to end, and ends it after a time:
    /// [`StopResult`](crate::result::StopResult).
    Stop {
        /// The capsule.
        name: String,
        /// How long the program may take after SIGTERM, in seconds.
        timeout_s: u64,
    },
    /// Removes a capsule for good: [`RmResult`](crate::result::RmResult).
    Rm {
        /// The capsule.
        name: String,
        /// Also when its program runs.
        #[serde(default)]
        force: bool,
        /// Only the superseded copy that this host keeps.
        #[serde(default)]
        local: bool,
    },
    /// Goes on with a capsule whose host is gone, from what is left of it elsewhere:
    /// [`RecoverResult`](crate::result::RecoverResult).
    Recover {
        /// The capsule.
        name: String,
        /// Whether the person says that the host is gone, though it may be heard of.
        #[serde(default)]
        host_is_gone: bool,
        /// The name of a capsule file to go back to. Its bytes follow as for a resume, and so do Progress frames and
        /// what a Cancel frame does.
        #[serde(default)]
        from: Option<String>,
    },
    /// Moves a capsule: Progress frames, then
    /// [`MoveResult`](crate::result::MoveResult). A Cancel frame undoes it as
    /// long as it is not committed. With `dry_run`:
    /// [`PreflightResult`](crate::result::PreflightResult).
    Move {
        /// The capsule.
        name: String,
        /// The host to move it to.
        to: String,
        /// How its memory goes.
        #[serde(default)]
        memory: Memory,
        /// The host that it leaves carries connections to machines outside on that are bound to it; otherwise they end.
        #[serde(default)]
        keep_anchored: bool,
        /// Only say what would happen.
        #[serde(default)]
        dry_run: bool,
    },
    /// Suspends a capsule to a file of the client: Progress and File frames, then FileEnd, which the client answers with
    /// FileEnd when the file is on disk, then [`SuspendResult`](crate::result::SuspendResult). A Cancel frame undoes it
    /// as long as it is not committed.
    Suspend {
        /// The capsule.
        name: String,
    },
    /// Resumes a capsule from a file of the client, who sends it as File frames and FileEnd:
    /// [`ResumeResult`](crate::result::ResumeResult). A Cancel frame undoes it as long as it is not committed.
    Resume {
        /// The host to resume it on; `None`: this one.
        #[serde(default)]
        to: Option<String>,
    },
    /// Lists sessions: [`SessionsResult`](crate::result::SessionsResult).
    Sessions {
        /// Those of one capsule, wherever it is; `None`: of every capsule on
        /// this host.
        #[serde(default)]
        name: Option<String>,
    },
    /// Lists hosts: [`HostsResult`](crate::result::HostsResult).
    Hosts,
    /// Ends a host's place in the mesh: [`RemoveHostResult`](crate::result::RemoveHostResult).
    RemoveHost {
        /// The host.
        name: String,
        /// Also when it is heard of.
        #[serde(default)]
        force: bool,
    },
    /// Lists the rules of who may connect to whom: [`PolicyResult`](crate::result::PolicyResult).
    PolicyShow {
        /// Only those that concern this capsule.
        #[serde(default)]
        name: Option<String>,
    },
    /// Makes a rule: [`RuleResult`](crate::result::RuleResult).
    PolicySet {
        /// Whether connects that fit are allowed; else they are denied.
        allow: bool,
        /// Who connects: a capsule, or `OWNER/NAME` with `*`.
        from: String,
        /// To whom, the same.
        to: String,
        /// A port or a range; `None`: every port.
        #[serde(default)]
        ports: Option<String>,
    },
    /// Ends a rule: [`RemoveRuleResult`](crate::result::RemoveRuleResult).
    PolicyRemove {
        /// Its number.
        id: u64,
    },
    /// Says what would become of a connect: [`PolicyTestResult`](crate::result::PolicyTestResult).
    PolicyTest {
        /// Who would connect: a capsule, or `OWNER/NAME`.
        from: String,
        /// To whom, the same.
        to: String,
        /// At which port.
        port: u16,
    },
    /// Publishes a port of a capsule at a gateway: [`PublishResult`](crate::result::PublishResult).
    Publish {
        /// The capsule.
        name: String,
        /// Its port.
        port: u16,
        /// The port of the gateway's host; 0: any; `None`: the same.
        #[serde(default)]
        host_port: Option<u16>,
        /// For datagrams; else for connections.
        #[serde(default)]
        udp: bool,
        /// Each connection begins with a header of the PROXY protocol, version 2.
        #[serde(default)]
        proxy_protocol: bool,
        /// The gateway's host; `None`: this one if it is a gateway, or the only one.
        #[serde(default)]
        gateway: Option<String>,
    },
    /// Ends what is published of a capsule: [`UnpublishResult`](crate::result::UnpublishResult).
    Unpublish {
        /// The capsule, which may be removed already.
        name: String,
        /// Only this port of it.
        #[serde(default)]
        port: Option<u16>,
        /// Only what is published at this port of the gateway's host.
        #[serde(default)]
        host_port: Option<u16>,
        /// For datagrams; else for connections.
        #[serde(default)]
        udp: bool,
        /// The gateway's host; `None`: this one if it is a gateway, or the only one.
        #[serde(default)]
        gateway: Option<String>,
    },
    /// Lists what gateways publish: [`PublishedResult`](crate::result::PublishedResult).
    Published {
        /// Only this gateway; `None`: all.
        #[serde(default)]
        gateway: Option<String>,
    },
    /// Says where a capsule is: [`ResolveResult`](crate::result::ResolveResult).
    Resolve {
        /// The capsule's name, with or without the zone, or one of its locators.
        name: String,
    },
    /// Checks this host, and what a move would meet:
    /// [`PreflightResult`](crate::result::PreflightResult).
    Preflight {
        /// The capsule that would move.
        #[serde(default)]
        name: Option<String>,
        /// The host it would move to.
        #[serde(default)]
        to: Option<String>,
    },
}

impl Request {
    /// The capsule that the request is about, if it is about one.
    pub fn capsule(&self) -> Option<&str> {
        match self {
            Self::Run(run) => Some(&run.name),
            Self::Exec(exec) => Some(&exec.name),
            Self::Inspect { name }
            | Self::Logs { name }
            | Self::Follow { name, .. }
            | Self::Tap { name, .. }
            | Self::Start { name }
            | Self::Stop { name, .. }
            | Self::Rm { name, .. }
            | Self::Recover { name, .. }
            | Self::Move { name, .. }
            | Self::Suspend { name }
            | Self::Resolve { name } => Some(name),
            Self::Sessions { name } | Self::Preflight { name, .. } => name.as_deref(),
            Self::Ps { .. }
            | Self::Hosts
            | Self::RemoveHost { .. }
            | Self::Resume { .. }
            | Self::PolicyShow { .. }
            | Self::PolicySet { .. }
            | Self::PolicyRemove { .. }
            | Self::PolicyTest { .. }
            | Self::Publish { .. }
            | Self::Unpublish { .. }
            | Self::Published { .. } => None,
        }
    }

    /// The verb as a person types it.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Run(_) => "run",
            Self::Ps { .. } => "ps",
            Self::Inspect { .. } => "inspect",
            Self::Logs { .. } => "logs",
            Self::Follow { .. } => "logs --follow",
            Self::Exec(_) => "exec",
            Self::Tap { .. } => "tap",
            Self::Start { .. } => "start",
            Self::Stop { .. } => "stop",
            Self::Rm { .. } => "rm",
            Self::Recover { .. } => "recover",
            Self::Move { .. } => "move",
            Self::Suspend { .. } => "suspend",
            Self::Resume { .. } => "resume",
            Self::Sessions { .. } => "sessions",
            Self::Hosts => "hosts",
            Self::RemoveHost { .. } => "hosts remove",
            Self::PolicyShow { .. } => "policy show",
            Self::PolicySet { allow: true, .. } => "policy allow",
            Self::PolicySet { allow: false, .. } => "policy deny",
            Self::PolicyRemove { .. } => "policy remove",
            Self::PolicyTest { .. } => "policy test",
            Self::Publish { .. } => "publish",
            Self::Unpublish { .. } => "unpublish",
            Self::Published { .. } => "published",
            Self::Resolve { .. } => "resolve",
            Self::Preflight { .. } => "preflight",
        }
    }

    /// Whether the request only reads: a host without operator rights may pass
    /// on these and no others.
    pub fn reads_only(&self) -> bool {
        match self {
            Self::Ps { .. }
            | Self::Inspect { .. }
            | Self::Logs { .. }
            | Self::Sessions { .. }
            | Self::Hosts
            | Self::Resolve { .. }
            | Self::PolicyShow { .. }
            | Self::PolicyTest { .. }
            | Self::Published { .. }
            | Self::Preflight { .. }
            | Self::Follow { signals: false, .. }
            | Self::Move { dry_run: true, .. } => true,
            Self::Follow { signals: true, .. }
            | Self::Run(_)
            | Self::Exec(_)
            | Self::Tap { .. }
            | Self::Start { .. }
            | Self::Stop { .. }
            | Self::Rm { .. }
            | Self::Recover { .. }
            | Self::RemoveHost { .. }
            | Self::PolicySet { .. }
            | Self::PolicyRemove { .. }
            | Self::Publish { .. }
            | Self::Unpublish { .. }
            | Self::Suspend { .. }
            | Self::Resume { .. }
            | Self::Move { dry_run: false, .. } => false,
        }
    }
}

/// The arguments of `run`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The new capsule's name.
    pub name: String,
    /// Its owner; `None`: the server's default.
    #[serde(default)]
    pub owner: Option<String>,
    /// An absolute directory of this host to be its root.
    #[serde(default)]
    pub rootfs: Option<String>,
    /// An OCI image to be its root.
    #[serde(default)]
    pub image: Option<String>,
    /// Directories of this host inside the capsule.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// Variables added to the program's environment; a later one wins.
    #[serde(default)]
    pub env: Vec<EnvVar>,
    /// The directory to start in, inside the capsule.
    #[serde(default)]
    pub workdir: Option<String>,
    /// `USER[:GROUP]`, by name or number.
    #[serde(default)]
    pub user: Option<String>,
    /// Whether the program gets a terminal of its own.
    #[serde(default)]
    pub terminal: bool,
    /// The program and its arguments.
    pub argv: Vec<String>,
}

/// The arguments of `exec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The capsule.
    pub name: String,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Variables added to the environment of the capsule's own program.
    #[serde(default)]
    pub env: Vec<EnvVar>,
    /// The directory to start in; `None`: as the capsule's own program.
    #[serde(default)]
    pub workdir: Option<String>,
    /// `USER[:GROUP]`; `None`: as the capsule's own program.
    #[serde(default)]
    pub user: Option<String>,
}

/// How the memory of a capsule goes to the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Memory {
    /// The server picks what is safe and fastest.
    #[default]
    Auto,
    /// All of it inside the pause.
    Full,
    /// After the thaw, on demand. Until the last page came, the loss of either
    /// host is the loss of the capsule.
    Lazy,
    /// Most of it ahead of the pause, the rest inside.
    Precopy,
}

impl Memory {
    /// Every value, in the order of the help text.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Full, Self::Lazy, Self::Precopy];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Full => "full",
            Self::Lazy => "lazy",
            Self::Precopy => "precopy",
        }
    }
}

impl Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A directory of the host inside a capsule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Absolute path on the host.
    pub source: String,
    /// Absolute path in the capsule.
    pub destination: String,
    /// Mounted as it is, and expected at the same path on a target; otherwise
    /// copied into the capsule's private files.
    #[serde(default)]
    pub shared: bool,
}

/// A `--volume` that can't be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no volume: write SRC:DST or SRC:DST:shared, DST an absolute path")]
pub struct VolumeError(String);

impl FromStr for Volume {
    type Err = VolumeError;

    fn from_str(text: &str) -> Result<Self, VolumeError> {
        let mut parts = text.split(':');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(source), Some(destination), mode @ (None | Some("shared")), None)
                if !source.is_empty() && destination.starts_with('/') =>
            {
                Ok(Self {
                    source: source.to_owned(),
                    destination: destination.to_owned(),
                    shared: mode.is_some(),
                })
            }
            _ => Err(VolumeError(text.to_owned())),
        }
    }
}

/// One variable of an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvVar {
    /// Its name, not empty, without `=`.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A `K=V` that can't be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no variable: write NAME=VALUE")]
pub struct EnvVarError(String);

impl FromStr for EnvVar {
    type Err = EnvVarError;

    fn from_str(text: &str) -> Result<Self, EnvVarError> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                Ok(Self { name: name.to_owned(), value: value.to_owned() })
            }
            _ => Err(EnvVarError(text.to_owned())),
        }
    }
}

impl Display for EnvVar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_and_variables() {
        let volume: Volume = "data:/data:shared".parse().unwrap();
        assert!(volume.shared && volume.source == "data" && volume.destination == "/data");
        for text in ["", "/a", "/a:b", ":/b", "/a:/b:ro", "/a:/b:shared:x"] {
            assert!(text.parse::<Volume>().is_err(), "{text}");
        }
        let variable: EnvVar = "A=b=c".parse().unwrap();
        assert_eq!((variable.name.as_str(), variable.to_string().as_str()), ("A", "A=b=c"));
        assert!("=x".parse::<EnvVar>().is_err());
    }
}
