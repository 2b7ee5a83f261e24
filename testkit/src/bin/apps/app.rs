//! What the catalogue says of a program: how it is served, who uses it, and what must hold.

/// A real program and those that use it.
///
/// Everything runs in capsules of its own, over the machine's files. The server's capsule is called `server`, so clients
/// reach it by that name. In their environment are `T`, the seconds for which they are to go on, and `BIN`, the folder of
/// this workspace's programs.
pub(crate) struct App {
    /// For the table.
    pub(crate) name: &'static str,
    /// Files that must be there, as patterns of a shell.
    pub(crate) needs: &'static [&'static str],
    /// A command that prints the version of the program.
    pub(crate) version: &'static str,
    /// What serves.
    pub(crate) server: Program,
    /// Where it listens, TCP ports first.
    pub(crate) listens: &'static [Port],
    /// Who uses it.
    pub(crate) clients: &'static [Client],
    /// What the clients check, in a few words.
    pub(crate) checked: &'static str,
}

/// A program in a capsule.
pub(crate) enum Program {
    /// Lines for bash, which stops at the first that fails.
    Bash(&'static str),
    /// A program for Debian's python3.
    Python(&'static str),
    /// A program for Node.js.
    Node(&'static str),
}

impl Program {
    /// Its command line.
    pub(crate) fn argv(&self) -> Vec<&'static str> {
        match self {
            Program::Bash(lines) => vec!["/bin/bash", "-euo", "pipefail", "-c", lines],
            Program::Python(text) => vec!["/usr/bin/python3", "-uc", text],
            Program::Node(text) => vec!["node", "-e", text],
        }
    }
}

/// Where a server waits.
#[derive(Clone, Copy)]
pub(crate) enum Port {
    Tcp(u16),
    Udp(u16),
}

/// One client: it ends by itself after `T` seconds, with 0 only if everything was right. Lines of its output that begin
/// with `gap_ms` are the longest silence that it saw, those with `note` go into the table.
pub(crate) struct Client {
    pub(crate) program: Program,
    /// So many of its connections last from before the first move until after the last one.
    pub(crate) lasting: usize,
    /// Whether it is moved as well.
    pub(crate) moves: bool,
}
