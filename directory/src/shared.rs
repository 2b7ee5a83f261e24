//! Which store a directory serves from, and moving the facts from one to another.

use anyhow::{Context as _, Result, bail};

use crate::data::Data;
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

    /// Makes this directory known to the others, and so to all hosts.
    pub fn begin(&self, id: &str, here: &Advertised) -> Result<()> {
        Ok(connect(&self.address, &self.access, &self.zone)?.advertise(id, here)?)
    }
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
