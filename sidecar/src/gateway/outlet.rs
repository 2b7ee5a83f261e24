//! The outlet: capsules of this host reach machines outside from the host itself.
//!
//! It is made at the first connect that needs it, and found again by each sidecar that comes after. A connection that left
//! by it is *anchored*: it stays where it left. When its capsule moves it ends, or is carried on from here.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use anyhow::{Context, bail};
use directory_api::{ApiError, AssertedCapsule, CapsuleRecord, ClientError, HeldCapsule, LookupKey};
use overlay_proto::{CapsuleId, Datagram};
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::exits::Exits;
use super::own::{self, Opened, Role};
use crate::capsule::network::{Network, Reach};
use crate::capsule::takeover::Left;
use crate::limits::OUTLET_RETRY;
use crate::places::Places;
use crate::session::{Records, Table};
use crate::sidecar::Sidecar;

/// The outlet of this host, or what it would be.
pub struct Outlet {
    reach: Reach,
    places: Places,
    /// Given once it is made; and where slow work is done.
    sidecar: OnceLock<(Weak<Sidecar>, Handle)>,
    /// For who only looks.
    open: std::sync::Mutex<Option<Arc<Network>>>,
    /// Held while it is made.
    making: Mutex<Option<Failed>>,
}

/// Why it was not made the last time.
struct Failed {
    at: Instant,
    why: String,
}

/// An outlet that an earlier sidecar left.
pub(crate) struct Found {
    network: Arc<Network>,
    ports: HashMap<String, OwnedFd>,
    left: Left,
}

impl Found {
    /// Sorts what its shim holds.
    fn of(
        sidecar: &Sidecar,
        network: Arc<Network>,
        held: HashMap<String, OwnedFd>,
        records: Records,
    ) -> Self {
        let (ports, held) = held.into_iter().partition(|(name, _)| name.starts_with("exit-"));
        let left = Left::recognized(sidecar, &network, held, records);
        Self { network, ports, left }
    }
}

/// Recognizes the outlet of an earlier sidecar, so that what other hosts say of its sessions waits; with `renew_shim` its
/// shim is replaced by the program on disk whatever its version. `None` if there is none.
pub(crate) async fn recognize(sidecar: &Arc<Sidecar>, renew_shim: bool) -> anyhow::Result<Option<Found>> {
    let Some(file) = own::read(Role::Outlet, &sidecar.data)? else { return Ok(None) };
    let reach = sidecar.around.outward.outlet.reach.clone();
    let Opened { network, records, held } = own::find(sidecar, Role::Outlet, file, reach, renew_shim).await?;
    Ok(Some(Found::of(sidecar, network, held, records)))
}

impl Outlet {
    /// An outlet to these addresses, which lacks the sidecar until [`Self::complete`].
    pub(crate) fn new(reach: Reach, places: Places) -> Arc<Self> {
        let (open, making) = (std::sync::Mutex::default(), Mutex::default());
        Arc::new(Self { reach, places, sidecar: OnceLock::new(), open, making })
    }

    /// Gives the sidecar, and the runtime on which it is made.
    pub(crate) fn complete(&self, sidecar: Weak<Sidecar>, runtime: Handle) {
        let _ = self.sidecar.set((sidecar, runtime));
    }

    /// Goes on with what an earlier sidecar left.
    pub(crate) async fn take_up(&self, sidecar: &Arc<Sidecar>, found: Found) {
        let Found { network, mut ports, left } = found;
        self.begin(sidecar, network.clone(), &mut ports);
        left.drive(sidecar, &network).await;
    }

    /// The outlet's record, if capsules of this host reach the address by it.
    ///
    /// # Errors
    /// It can't be made.
    pub(crate) async fn to(self: &Arc<Self>, address: IpAddr) -> anyhow::Result<Option<CapsuleRecord>> {
        match self.reach.contains(address) {
            true => self.record().await.map(Some),
            false => Ok(None),
        }
    }

    /// Who it is to the mesh, once there is one.
    pub(crate) fn id(&self) -> Option<CapsuleId> {
        self.network().map(|network| network.id())
    }

    /// What this host tells the directory of it.
    pub(crate) fn held(&self) -> Option<HeldCapsule> {
        self.network().map(|network| Role::held(&network))
    }

    /// What this host tells a directory of it that was restored from a backup.
    pub(crate) fn asserted(&self) -> Option<AssertedCapsule> {
        self.network().map(|network| Role::Outlet.asserted(&network))
    }

    /// Ends the connections that left from here of a capsule that has gone: the machines outside see a reset, and so do its
    /// programs where it is. They end for good before this returns how many there were.
    pub(crate) async fn end_those_of(&self, capsule: CapsuleId, table: &Table) -> u64 {
        match self.id() {
            Some(own) => table.end_between(own, capsule).await,
            None => 0,
        }
    }

    /// How many of those there are.
    pub(crate) fn count_those_of(&self, capsule: CapsuleId, table: &Table) -> u64 {
        self.id().map_or(0, |own| table.count_between(own, capsule))
    }

    fn network(&self) -> Option<Arc<Network>> {
        self.open.lock().expect("no panics under this lock").clone()
    }

    fn begin(&self, sidecar: &Sidecar, network: Arc<Network>, ports: &mut HashMap<String, OwnedFd>) {
        let exits = Exits::new(sidecar, &network, ports);
        network.datagrams().let_out(Vec::new(), move |datagram: Datagram| exits.send(&datagram));
        sidecar.networks.add(network.clone());
        *self.open.lock().expect("no panics under this lock") = Some(network);
    }

    async fn record(self: &Arc<Self>) -> anyhow::Result<CapsuleRecord> {
        if let Some(record) = self.known() {
            return Ok(record);
        }
        let (_, runtime) = self.sidecar.get().context("the sidecar has just begun")?;
        let outlet = self.clone();
        // A task: whoever connects may give up in the middle.
        runtime.spawn(async move { outlet.known_or_made().await }).await?
    }

    fn known(&self) -> Option<CapsuleRecord> {
        self.places.capsule(&self.id()?)
    }

    async fn known_or_made(&self) -> anyhow::Result<CapsuleRecord> {
        let mut failed = self.making.lock().await;
        if let Some(record) = self.known() {
            return Ok(record);
        }
        if let Some(Failed { at, why }) = &*failed
            && at.elapsed() < OUTLET_RETRY
        {
            bail!("{why}");
        }
        let made = self.found_or_made().await;
        *failed = made.as_ref().err().map(|error| Failed { at: Instant::now(), why: format!("{error:#}") });
        made
    }

    async fn found_or_made(&self) -> anyhow::Result<CapsuleRecord> {
        let sidecar = self.sidecar.get().and_then(|(sidecar, _)| sidecar.upgrade());
        let sidecar = sidecar.context("the sidecar is ending")?;
        if let Some(network) = self.network() {
            match self.places.directory().lookup(LookupKey::Id(network.id())).await {
                Ok(record) => {
                    self.places.take(record.clone());
                    return Ok(record);
                }
                // As after the removal of this host, which has joined again.
                Err(ClientError::Refused(ApiError::UnknownCapsule { .. })) => {
                    self.forget(&sidecar, &network).await;
                }
                Err(error) => return Err(error).context("asking for the record of this host's outlet"),
            }
        }
        let Opened { network, records, held } = own::make(&sidecar, Role::Outlet, self.reach.clone()).await?;
        tracing::info!(outlet = %network.name(), "capsules reach machines outside from this host");
        let record = self.places.capsule(&network.id()).context("the outlet has no record")?;
        // A shim that was not recognized at the start may still hold some.
        let found = Found::of(&sidecar, network, held, records);
        self.take_up(&sidecar, found).await;
        Ok(record)
    }

    /// The directory does not know it: nobody may speak for it any more.
    async fn forget(&self, sidecar: &Arc<Sidecar>, network: &Network) {
        tracing::warn!(outlet = %network.name(), "the directory has removed it: connections that left from here end");
        *self.open.lock().expect("no panics under this lock") = None;
        for half in sidecar.table.park(network.id()).await {
            sidecar.table.forget((half.half.id(), half.half.role()));
        }
        sidecar.networks.remove(&network.id());
        let data = sidecar.data.clone();
        let _ = tokio::task::spawn_blocking(move || own::destroy(Role::Outlet, &data)).await;
    }
}
