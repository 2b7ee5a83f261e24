//! The same names served by hickory-server as it comes: its in-memory zone, its catalog, its UDP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use hickory_proto::dnssec::crypto::Ed25519SigningKey;
use hickory_proto::dnssec::rdata::DNSKEY;
use hickory_proto::dnssec::{DnssecSigner, SigningKey as _};
use hickory_proto::rr::rdata::{A, AAAA, NS, SOA};
use hickory_proto::rr::{LowerName, Name, RData, Record};
use hickory_server::dnssec::NxProofKind;
use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::server::Server;
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use tokio::net::UdpSocket;

use crate::population::{CAPSULES, ZONE, capsule};

/// Serves until it is killed; says on stdout when it does.
pub(crate) fn serve(address: SocketAddr) -> Result<()> {
    let origin = Name::from_ascii(format!("{ZONE}."))?;
    let mut zone = InMemoryZoneHandler::<TokioRuntimeProvider>::empty(
        origin.clone(),
        ZoneType::Primary,
        AxfrPolicy::Deny,
        Some(NxProofKind::Nsec),
    );
    let server = Name::from_ascii(format!("directory.{ZONE}."))?;
    let soa =
        SOA::new(server.clone(), Name::from_ascii(format!("hostmaster.{ZONE}."))?, 1, 60, 10, 86_400, 2);
    zone.upsert_mut(Record::from_rdata(origin.clone(), 300, RData::SOA(soa)), 1);
    zone.upsert_mut(Record::from_rdata(origin.clone(), 300, RData::NS(NS(server))), 1);
    for number in 0..CAPSULES {
        let (name, locators) = capsule(number);
        let name = Name::from_ascii(format!("{name}.{ZONE}."))?;
        zone.upsert_mut(Record::from_rdata(name.clone(), 30, RData::A(A(locators.v4))), 1);
        zone.upsert_mut(Record::from_rdata(name, 30, RData::AAAA(AAAA(locators.v6))), 1);
    }
    let key = Ed25519SigningKey::from_pkcs8(&Ed25519SigningKey::generate_pkcs8()?)?;
    let dnskey = DNSKEY::from_key(&key.to_public_key()?);
    let life = Duration::from_secs(14 * 24 * 3600);
    zone.add_zone_signing_key_mut(DnssecSigner::new(dnskey, Box::new(key), origin.clone(), life))?;
    zone.secure_zone_mut()?;
    let mut catalog = Catalog::new();
    catalog.upsert(LowerName::new(&origin), vec![Arc::new(zone)]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let mut server = Server::new(catalog);
        server.register_socket(UdpSocket::bind(address).await?);
        println!("serving");
        server.block_until_done().await.map_err(|error| anyhow!("{error}"))
    })
}
