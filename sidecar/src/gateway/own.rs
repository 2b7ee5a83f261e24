//! This host's own network as that of a capsule: what a gateway and an outlet have in common. A record in the directory
//! that never leaves this host, a folder that says who it is, and a shim that holds its connections.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use directory_api::{
    ApiError, AssertedCapsule, CapsuleRecord, CapsuleState, ClientError, HeldCapsule, LookupKey, outside,
};
use overlay_proto::{CapsuleId, CapsuleName, Generation, HostName, Locators, NameError, Owner};
use serde::{Deserialize, Serialize};

use super::publications::write_json;
use crate::capsule::engine;
use crate::capsule::network::{Identity, Network, Reach};
use crate::session::Records;
use crate::sidecar::Sidecar;

/// What the host's own network is a capsule for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Machines outside reach capsules by it, and capsules of any host reach them.
    Gateway,
    /// Capsules of this host reach machines outside by it.
    Outlet,
}

impl Role {
    /// The word for it, after which its folder and its file are named.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Outlet => "outlet",
        }
    }

    /// Where everything of it lies.
    pub(super) fn directory(self, data: &Path) -> PathBuf {
        data.join(self.word())
    }

    fn file(self) -> String {
        format!("{}.json", self.word())
    }

    fn owner(self) -> Owner {
        match self {
            Self::Gateway => outside::owner(),
            Self::Outlet => outside::outlet_owner(),
        }
    }

    fn name_at(self, host: &HostName) -> Result<CapsuleName, NameError> {
        match self {
            Self::Gateway => outside::name_at(host),
            Self::Outlet => outside::outlet_at(host),
        }
    }

    /// What this host tells the directory of it.
    pub(super) fn held(network: &Network) -> HeldCapsule {
        HeldCapsule { id: network.id(), generation: network.generation(), state: CapsuleState::Running }
    }

    /// What this host tells a directory of it that was restored from a backup.
    pub(super) fn asserted(self, network: &Network) -> AssertedCapsule {
        AssertedCapsule {
            id: network.id(),
            name: network.name().clone(),
            owner: self.owner(),
            locators: network.locators(),
            generation: network.generation(),
            state: CapsuleState::Running,
            offer: None,
            given_by: None,
        }
    }
}

/// Who it is, on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct OwnFile {
    pub(super) id: CapsuleId,
    pub(super) name: CapsuleName,
    pub(super) locators: Locators,
    pub(super) generation: Generation,
}

/// Its network, with what its shim has on record and holds.
pub(super) struct Opened {
    pub(super) network: Arc<Network>,
    pub(super) records: Records,
    pub(super) held: HashMap<String, OwnedFd>,
}

/// Who it is, if an earlier sidecar made it.
pub(super) fn read(role: Role, data: &Path) -> anyhow::Result<Option<OwnFile>> {
    let path = role.directory(data).join(role.file());
    match std::fs::read(&path) {
        Ok(text) => {
            Ok(Some(serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Makes it: registers it at the directory, unless that knows it, and starts its shim.
pub(super) async fn make(sidecar: &Arc<Sidecar>, role: Role, reach: Reach) -> anyhow::Result<Opened> {
    let record = registered(sidecar, role).await?;
    let record = match record.state {
        CapsuleState::Running => record,
        _ => {
            let directory = sidecar.places.directory();
            directory.set_state(record.id, record.generation, CapsuleState::Running).await?
        }
    };
    let directory = role.directory(&sidecar.data);
    std::fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    let CapsuleRecord { id, name, locators, generation, .. } = record.clone();
    let file = OwnFile { id, name, locators, generation };
    write_json(&directory, &role.file(), &file)?;
    sidecar.places.take(record);
    find(sidecar, role, file, reach, false).await
}

/// The directory's record of it, made if there is none.
async fn registered(sidecar: &Sidecar, role: Role) -> anyhow::Result<CapsuleRecord> {
    let what = role.word();
    let name = role
        .name_at(&sidecar.me)
        .with_context(|| format!("the name of host {} is too long for that of its {what}", sidecar.me))?;
    let directory = sidecar.places.directory();
    match directory.lookup(LookupKey::Name(name.clone())).await {
        Ok(record) if record.owner == role.owner() && record.host == sidecar.me => Ok(record),
        Ok(record) => {
            bail!("the name {name} belongs to a capsule of {} on host {}", record.owner, record.host)
        }
        Err(ClientError::Refused(ApiError::UnknownCapsule { .. })) => Ok(directory
            .register(name, role.owner())
            .await
            .with_context(|| format!("registering this host's {what}"))?),
        Err(error) => Err(error).with_context(|| format!("asking for the record of this host's {what}")),
    }
}

/// Finds or starts its shim; with `renew_shim` one that serves is replaced by the program on disk whatever its version.
pub(super) async fn find(
    sidecar: &Arc<Sidecar>,
    role: Role,
    file: OwnFile,
    reach: Reach,
    renew_shim: bool,
) -> anyhow::Result<Opened> {
    let (programs, directory) = (sidecar.programs.clone(), role.directory(&sidecar.data));
    let open = move || open(&programs, &directory, role, file, reach, renew_shim);
    tokio::task::spawn_blocking(open).await?
}

fn open(
    programs: &Path,
    directory: &Path,
    role: Role,
    file: OwnFile,
    reach: Reach,
    renew_shim: bool,
) -> anyhow::Result<Opened> {
    let (socket, what) = (shim::place::socket(directory), role.word());
    if let Ok(shim) = shim::Client::connect(&socket) {
        match engine::replace_shim(shim, programs, renew_shim) {
            Ok(None) => {}
            Ok(Some(process)) => {
                tracing::info!(process, of = what, to = shim::VERSION, "a shim is replaced");
            }
            Err(error) => {
                tracing::warn!(of = what, error = format!("{error:#}"), "a shim stays what it is");
            }
        }
    } else {
        engine::start_shim_in(programs, directory, &file.id.to_string())?;
    }
    let mut shim =
        shim::Client::connect(&socket).with_context(|| format!("connecting to the shim of the {what}"))?;
    let held = shim.take_sockets()?.into_iter().collect();
    let OwnFile { id, name, locators, generation } = file;
    let who = Identity { id, name, locators, generation };
    let (network, records) = Network::outside(&who, &socket, reach)?;
    Ok(Opened { network, records, held })
}

/// Ends its shim, and with it its connections, and forgets who it is. What is published stays noted.
pub(super) fn forget(role: Role, data: &Path) {
    let directory = role.directory(data);
    if let Ok(mut shim) = shim::Client::connect(&shim::place::socket(&directory)) {
        let _ = shim.ask(&shim::Request::Quit, &[]);
    }
    if let Err(error) = std::fs::remove_file(directory.join(role.file())) {
        tracing::warn!(of = role.word(), %error, "it is not forgotten");
    }
}

/// The same, and removes all its files.
pub(super) fn destroy(role: Role, data: &Path) {
    forget(role, data);
    let directory = role.directory(data);
    if let Err(error) = std::fs::remove_dir_all(&directory) {
        tracing::warn!(of = role.word(), %error, "files were left behind");
    }
}
