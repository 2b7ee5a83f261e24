//! Which store a directory serves from, and moving the facts from one to another.

use anyhow::{Context as _, Result, bail};

use tracing::{info, warn};

use crate::data::Data;
use crate::limits::ADVERTISE_EVERY;
use crate::store::{
    Advertised, Contents, Directories, Embedded, Etcd, EtcdAddress, Store, StoreAccess, StoreAddress,
};

/// A store that is open.
pub struct Opened {
    /// The store.
    pub store: Box<dyn Store>,
    /// The directories beside this one, if it can have any.
    pub directories: Option<Registered>,
    /// The embedded store of a data directory whose facts are elsewhere: whoever has it open serves from there.
    pub _held: Option<Embedded>,
}

/// How a directory is made known to the others.
#[derive(Clone)]
pub struct Registered {
    address: EtcdAddress,
    access: StoreAccess,
    zone: String,
    directories: Directories,
}

/// Opens the store of a data directory.
pub fn open(data: &Data, address: &StoreAddress, access: &StoreAccess) -> Result<Opened> {
    let etcd = match address {
        StoreAddress::Embedded => {
            return Ok(Opened { store: Box::new(data.store()?), directories: None, _held: None });
        }
        StoreAddress::Etcd(etcd) => etcd,
    };
    let mut held = data.embedded()?;
    let here = held.load()?;
    check_settled(&here, &StoreAddress::Embedded)?;
    let zone = data.zone.to_string();
    let mut store = connect(etcd, access, &zone)?;
    if here != Contents::default() && !store.has_facts()? {
        bail!(
            "the facts of this mesh are in the embedded store, and there are none at {address}: capsule-directory \
             copy-store --to {address}"
        );
    }
    store.belong_to(&data.mesh()?)?;
    data.note_store(address, access)?;
    store.follow()?;
    let registered =
        Registered { address: etcd.clone(), access: access.clone(), zone, directories: store.directories() };
    Ok(Opened { store: Box::new(store), directories: Some(registered), _held: Some(held) })
}

fn connect(etcd: &EtcdAddress, access: &StoreAccess, zone: &str) -> Result<Etcd> {
    let options = access.options(&StoreAddress::Etcd(etcd.clone()))?;
    Ok(Etcd::open(etcd, options, zone)?)
}

/// All facts, read from where they are, for a data directory that is not served.
pub fn facts(data: &Data) -> Result<Contents> {
    match data.noted_store()? {
        (StoreAddress::Embedded, _) => Ok(data.embedded()?.load()?),
        (StoreAddress::Etcd(etcd), access) => from_etcd(data, &etcd, &access).map(|(contents, _)| contents),
    }
}

/// Refuses facts of a backup on which hosts have not all spoken: what they say is heard by one directory, and kept in its
/// memory.
pub fn check_settled(contents: &Contents, at: &StoreAddress) -> Result<()> {
    if contents.restored.is_none() {
        return Ok(());
    }
    bail!(
        "the facts at {at} are of a backup, and not every host has asserted what it holds: serve them with one directory \
         first (--store embedded) until /readyz says that it is ready, then capsule-directory copy-store"
    );
}

/// The facts of this mesh in etcd, where others may serve them.
fn from_etcd(data: &Data, etcd: &EtcdAddress, access: &StoreAccess) -> Result<(Contents, Etcd)> {
    let mut store = connect(etcd, access, &data.zone.to_string())?;
    if !store.has_facts()? {
        bail!("there are no facts of {} at {}", data.zone, etcd);
    }
    store.belong_to(&data.mesh()?)?;
    Ok((store.load()?, store))
}

impl Registered {
    /// The directories of the mesh.
    pub fn directories(&self) -> Directories {
        self.directories.clone()
    }

    /// Keeps this directory in the list for as long as it serves, whoever takes it off.
    pub async fn stay(&self, id: &str, here: &Advertised) {
        loop {
            tokio::time::sleep(ADVERTISE_EVERY).await;
            let is_listed = self.directories.list().iter().any(|(known, at)| known == id && at == here);
            if is_listed {
                continue;
            }
            let (registered, id, at) = (self.clone(), id.to_owned(), here.clone());
            let begun = tokio::task::spawn_blocking(move || registered.begin(&id, &at)).await;
            match begun.context("the thread broke").and_then(|begun| begun) {
                Ok(()) => info!("this directory was not in the list of those that serve; it is again"),
                Err(error) => warn!(error = format!("{error:#}"), "cannot tell hosts of this directory"),
            }
        }
    }

    /// Makes this directory known to the others, and so to all hosts.
    pub fn begin(&self, id: &str, here: &Advertised) -> Result<()> {
        Ok(connect(&self.address, &self.access, &self.zone)?.advertise(id, here)?)
    }
}

/// The directories that hosts are told of, a line each, once `remove` is no more among them.
pub fn list_directories(data: &Data, remove: Option<&str>) -> Result<Vec<String>> {
    let (StoreAddress::Etcd(etcd), access) = data.noted_store()? else {
        bail!(
            "the facts of this mesh are in the embedded store, which one directory serves: there is no list"
        );
    };
    let store = connect(&etcd, &access, &data.zone.to_string())?;
    if let Some(id) = remove
        && !store.forget_directory(id)?
    {
        bail!("there is no directory {id} in the list; without --remove this command shows it");
    }
    let here = data.directory_id()?;
    let addresses =
        |all: &[std::net::SocketAddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let line = |(id, at): &(String, Advertised)| {
        let whose = if *id == here { "  of this data directory" } else { "" };
        format!("{id}  api {}  dns {}{whose}", addresses(&at.api), addresses(&at.dns))
    };
    Ok(store.list_directories()?.iter().map(line).collect())
}

/// Copies all facts into an empty store, and gives how many for people to read.
pub fn copy(data: &Data, from: &StoreAddress, to: &StoreAddress, access: &StoreAccess) -> Result<String> {
    if from == to {
        bail!("{from} is where the facts are already");
    }
    // Held until the end: nobody serves meanwhile.
    let mut embedded = data.embedded()?;
    let (contents, left) = match from {
        StoreAddress::Embedded => data.check_not_moved().and_then(|()| Ok((embedded.load()?, None)))?,
        StoreAddress::Etcd(etcd) => {
            let (contents, store) = from_etcd(data, etcd, access)?;
            (contents, Some(store))
        }
    };
    check_settled(&contents, from)?;
    match to {
        StoreAddress::Etcd(etcd) => {
            connect(etcd, access, &data.zone.to_string())?.fill(&data.mesh()?, &contents)?;
        }
        StoreAddress::Embedded => {
            drop(embedded);
            let aside = data.set_embedded_aside()?;
            let mut fresh = data.embedded()?;
            fresh
                .commit(&contents.writes())
                .with_context(|| format!("what was there lies in {}", aside.display()))?;
        }
    }
    data.note_store(to, access)?;
    // Of the embedded store this data directory knows; of etcd the other directories must.
    if let Some(Err(error)) = left.map(|store| store.leave()) {
        data.note_store(from, access)?;
        return Err(error).context("nothing was moved");
    }
    Ok(format!(
        "{} capsules, {} hosts and {} rules",
        contents.capsules.len(),
        contents.hosts.len(),
        contents.rules.len()
    ))
}
