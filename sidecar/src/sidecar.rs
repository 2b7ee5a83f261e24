//! The parts of a running sidecar, as the verbs see them.

use std::path::PathBuf;
use std::sync::Arc;

use overlay_proto::HostName;

use crate::assertion::Assertions;
use crate::capsule::Capsules;
use crate::capsule::network::Networks;
use crate::config::Config;
use crate::gateway::Gateway;
use crate::intercept::surroundings::Surroundings;
use crate::link::Links;
use crate::places::Places;
use crate::session::Table;

/// A running sidecar.
pub struct Sidecar {
    /// This host.
    pub me: HostName,
    /// The zone of the mesh.
    pub zone: String,
    /// Where the directory answers DNS.
    pub dns: crate::finder::Servers,
    /// Who answers names outside of the zone.
    pub host_resolver: Arc<crate::capsule::resolver::HostResolver>,
    /// Its settings.
    pub config: Config,
    /// Where it keeps everything.
    pub data: PathBuf,
    /// Where this program's file and the shim's lie; found at the start, since an upgrade replaces the files.
    pub programs: PathBuf,
    /// Where capsules and hosts are.
    pub places: Places,
    /// Links to other hosts.
    pub links: Links,
    /// Halves of sessions.
    pub table: Table,
    /// What interception needs.
    pub around: Surroundings,
    /// Networks of the capsules here.
    pub networks: Networks,
    /// The gateway, if this host is one.
    pub gateway: std::sync::OnceLock<Arc<Gateway>>,
    /// Capsules here.
    pub capsules: Capsules,
    /// What the directory was told after a restore, and who is asking it at the moment.
    pub assertions: Assertions,
    /// Verbs that are changing something.
    pub acting: Acting,
    /// Moves under way to this host.
    pub arrivals: crate::moving::Arrivals,
    /// The data plane's runtime.
    pub data_plane: tokio::runtime::Handle,
    /// This sidecar, for tasks that outlive a call.
    pub own: std::sync::Weak<Sidecar>,
}

/// Counts verbs that are changing something, for who wants to wait for their end.
#[derive(Debug, Clone, Default)]
pub struct Acting(Arc<()>);

impl Acting {
    /// Whether there are any, beside this one.
    pub fn any(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl Sidecar {
    /// What tells kernel objects of this sidecar from those of others on the same kernel.
    pub fn label(&self) -> String {
        let hash =
            self.data.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
        format!("{}-{hash:016x}", self.me)
    }

    /// A counted reference for a task.
    pub fn arc(&self) -> Arc<Self> {
        self.own.upgrade().expect("a sidecar in use is alive")
    }
}
