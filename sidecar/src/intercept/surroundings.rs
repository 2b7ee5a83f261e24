//! What connects need of the sidecar.

use std::net::IpAddr;
use std::sync::Arc;

use directory_api::CapsuleRecord;

use super::accepted::Holding;
use super::opens::Opens;
use crate::datagram::Forwarder;
use crate::gateway::Outward;
use crate::places::Places;
use crate::session::{Routes, Table};

/// What connects need of the sidecar.
#[derive(Clone)]
pub struct Surroundings {
    /// Where capsules are.
    pub places: Places,
    /// Links.
    pub routes: Arc<Routes>,
    /// Sessions.
    pub table: Table,
    /// Waiting OPENs.
    pub opens: Opens,
    /// Datagrams.
    pub datagrams: Forwarder,
    /// The way to machines outside.
    pub outward: Outward,
    /// How connects are held.
    pub holding: Arc<Holding>,
}

impl Surroundings {
    /// Who answers at an address: the capsule that has it, or who leads to what is outside.
    ///
    /// # Errors
    /// The directory does not say whether a capsule has it, or the outlet can't be made.
    pub(super) async fn peer_at(&self, address: IpAddr) -> anyhow::Result<Option<CapsuleRecord>> {
        match self.places.may_be_locator(&address) {
            true => Ok(self.places.at(address).await?),
            false => self.outward.to(address).await,
        }
    }
}
