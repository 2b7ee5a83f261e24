//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, ValueEnum};

use crate::verb::Verb;

/// Where the sidecar of this host listens unless told otherwise.
const ADMIN_DEFAULT: &str = "/run/capsule/admin.sock";

/// Runs programs as capsules and moves them between hosts with their connections open.
///
/// Any sidecar takes any verb: it is passed on to the host where the capsule is.
#[derive(Debug, Parser)]
#[command(name = "capsule", version, disable_help_subcommand = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 usage. Foreground run and exec: the program's own \
code, 128+n when signal n ended it, 125 when it could not start.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,

    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
}

/// Flags that stand before or after the verb.
#[derive(Args, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Unix socket of the sidecar to ask
    #[arg(long, global = true, value_name = "PATH", default_value = ADMIN_DEFAULT)]
    #[arg(env = "CAPSULE_ADMIN", hide_env_values = true)]
    pub(crate) admin: PathBuf,

    /// Print exactly one JSON document on stdout; messages go to stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Colour; auto obeys NO_COLOR, CLICOLOR_FORCE and what the output is
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorChoice,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless the environment says otherwise.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Global {
    /// The socket; an empty `CAPSULE_ADMIN` counts as none.
    pub(crate) fn socket(&self) -> PathBuf {
        if self.admin.as_os_str().is_empty() { ADMIN_DEFAULT.into() } else { self.admin.clone() }
    }
}
