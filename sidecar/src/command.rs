//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Carries the connections of this host's capsules, and moves capsules between hosts.
#[derive(Debug, Parser)]
#[command(name = "capsule-sidecar", version)]
pub struct Command {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What the sidecar can be told to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Join a mesh with a one-time token.
    Join(Join),
    /// Serve this host's capsules.
    Serve(Serve),
    /// Have the program on disk take over from the running sidecar; capsules and their connections don't notice.
    Upgrade(Upgrade),
    /// Join standard input and output to a Unix socket (used by rsync during a move).
    #[command(hide = true, name = runtime::files::private::CONNECT_MODE)]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What rsync adds: ignored.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
}

/// Arguments of `join`.
#[derive(Debug, Args)]
pub struct Join {
    /// Where this host keeps its key, its certificate and its capsules.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// The token that `capsule-directory token --host NAME` printed; `-` reads it from standard input.
    #[arg(long)]
    pub token: String,
    /// Where the directory takes requests; of several, whichever answers is asked.
    #[arg(long, value_name = "ADDR:PORT,…", value_delimiter = ',', required = true)]
    pub directory: Vec<SocketAddr>,
}

/// Arguments of `upgrade`.
#[derive(Debug, Args)]
pub struct Upgrade {
    /// The data directory of the running sidecar.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Replace the capsules' shims too, also those of the same version.
    #[arg(long)]
    pub shims: bool,
}

/// Arguments of `serve`; those not given come from the environment, the file, or the defaults.
#[derive(Debug, Args)]
pub struct Serve {
    /// Where this host keeps its key, its certificate and its capsules.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Settings in TOML.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where to take links of other hosts (UDP).
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Where others reach this host, if not where its requests to the directory come from.
    #[arg(long, value_name = "ADDR:PORT")]
    pub advertise: Option<SocketAddr>,
    /// The socket that `capsule` talks to.
    #[arg(long, value_name = "PATH")]
    pub admin: Option<PathBuf>,
    /// Where to serve /metrics, /healthz and /readyz.
    #[arg(long, value_name = "ADDR:PORT")]
    pub http: Option<SocketAddr>,
    /// Be a gateway: let machines without a sidecar reach what `capsule publish` says.
    #[arg(long)]
    pub gateway: bool,
    /// Say all that is wrong with the settings and the data, and where, and end; may run beside the one that serves.
    #[arg(long)]
    pub check_config: bool,
}
