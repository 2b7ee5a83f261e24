//! Who leads the capsules of this host to machines outside.

use std::net::IpAddr;
use std::sync::Arc;

use directory_api::CapsuleRecord;
use directory_api::outside;
use overlay_proto::HostName;

use super::Outlet;
use crate::places::Places;

/// The gateway that is set, or the outlet of this host.
#[derive(Clone)]
pub struct Outward {
    /// The host of that gateway.
    pub via: Option<HostName>,
    /// The outlet.
    pub outlet: Arc<Outlet>,
    /// Where capsules are.
    pub places: Places,
}

impl Outward {
    /// Who leads to an address; `None` if nobody does, or it is none outside.
    ///
    /// # Errors
    /// The directory does not tell of the gateway, or the outlet can't be made.
    pub(crate) async fn to(&self, address: IpAddr) -> anyhow::Result<Option<CapsuleRecord>> {
        if !outside::is_of_one_machine(address) || self.places.may_be_locator(&address) {
            return Ok(None);
        }
        let Some(via) = &self.via else { return self.outlet.to(address).await };
        let Ok(name) = outside::name_at(via) else { return Ok(None) };
        let gateway = self.places.of_name(&name).await?;
        Ok(gateway.filter(|record| record.is_outside() && record.host == *via))
    }
}
