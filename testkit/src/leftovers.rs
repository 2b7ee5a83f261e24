//! What remains of a mesh: nothing, when everything is right.

use std::fmt::{self, Display, Formatter};
use std::process::Command;

use crate::sweep::Scope;

/// What was found of a mesh, by kind.
#[derive(Clone, Debug, Default)]
pub struct Leftovers {
    /// Names of network namespaces.
    pub netns: Vec<String>,
    /// Mount points.
    pub mounts: Vec<String>,
    /// Folders of control groups.
    pub cgroups: Vec<String>,
    /// Tables of Capsule or CRIU in the machine's own namespace, where none may ever be.
    pub nft_tables: Vec<String>,
    /// Processes with their command lines.
    pub processes: Vec<String>,
}

impl Leftovers {
    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.kinds().iter().all(|(_, found)| found.is_empty())
    }

    /// Every kind with what was found of it.
    pub fn kinds(&self) -> [(&'static str, &[String]); 5] {
        [
            ("netns", &self.netns),
            ("mounts", &self.mounts),
            ("cgroups", &self.cgroups),
            ("nft tables", &self.nft_tables),
            ("processes", &self.processes),
        ]
    }
}

/// `netns 0, mounts 0, cgroups 0, nft tables 0, processes 0`, and then a line for each thing found.
impl Display for Leftovers {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let counts: Vec<String> =
            self.kinds().iter().map(|(kind, found)| format!("{kind} {}", found.len())).collect();
        write!(formatter, "{}", counts.join(", "))?;
        for (kind, found) in self.kinds() {
            for one in found {
                write!(formatter, "\n  {kind}: {one}")?;
            }
        }
        Ok(())
    }
}

/// Looks for everything of a mesh: `prefix` is [`crate::Mesh::prefix`] or the beginning of several.
///
/// Cgroups are found by the ids of capsules that this process has seen in the mesh.
pub fn leftovers(prefix: &str) -> Leftovers {
    let scope = Scope::mesh(prefix);
    Leftovers {
        netns: scope.netns(),
        mounts: scope.mounts().iter().map(|path| path.display().to_string()).collect(),
        cgroups: scope.cgroups().iter().map(|path| path.display().to_string()).collect(),
        nft_tables: nft_tables(),
        processes: scope.processes().iter().map(ToString::to_string).collect(),
    }
}

fn nft_tables() -> Vec<String> {
    let Ok(output) = Command::new("nft").args(["list", "tables"]).output() else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let ours = |line: &&str| {
        line.split(' ').next_back().is_some_and(|name| name.starts_with("capsule") || name.contains("CRIU"))
    };
    text.lines().filter(ours).map(str::to_owned).collect()
}
