//! From a request to its answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use directory_api::identity::{IdentityError, peer_not_before, provider};
use directory_api::token::TokenError;
use directory_api::{
    ApiError, Asked, CapsuleRecord, DirectoryAddresses, Issued, LeaseRequest, LookupKey, Request, Response,
    RuleSet, Token,
};
use overlay_proto::{CapsuleId, HostName};
use tracing::{info, warn};

use crate::authority::Authority;
use crate::ca;
use crate::engine::{Command, Registration};
use crate::extras::ExtraRecord;
use crate::metrics::Metrics;
use crate::placement::{NewOffer, NewSuspension, Takeover};
use crate::published::Published;
use crate::registry::Registry;
use crate::store::{Advertised, Directories, StoreError};
use crate::writer::Writer;

/// All that answers are made from.
pub struct Answers {
    /// Signs certificates.
    pub authority: Arc<Authority>,
    /// Makes tokens recognizable.
    pub token_key: [u8; 32],
    /// How long hosts' certificates are good.
    pub certificate_life: Duration,
    /// Where hosts find this directory.
    pub here: Advertised,
    /// The directories of the mesh, where several share a store.
    pub directories: Option<Directories>,
    /// Makes changes.
    pub writer: Writer,
    /// The facts.
    pub published: Arc<Published>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

impl Answers {
    pub(super) fn published(&self) -> &Published {
        &self.published
    }

    /// Whether a watch may go on from a revision here: what this directory knows must not be older.
    pub(super) async fn check_reached(&self, revision: u64) -> Result<(), ApiError> {
        let reached = || self.published.read(|facts| facts.revision) >= revision;
        // Another directory may have told of more, of which this one is about to hear.
        if reached() || self.writer.latest().await {
            return Ok(());
        }
        Err(unread())
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Answers a host.
    pub(super) async fn answer(
        &self,
        caller: &HostName,
        connection: &quinn::Connection,
        asked: Asked,
    ) -> Result<Response, ApiError> {
        let from = connection.remote_address();
        match self.check_member(caller).await {
            Err(ApiError::NotAMember { .. })
                if matches!(asked.request, Request::RenewLease(_)) && self.may_come_back(connection) =>
            {
                warn!(%caller, "the backup does not know this host, whose certificate is of after it; it is let in again");
                self.writer.run(Command::Readmit { caller: caller.clone() }).await?;
            }
            other => other?,
        }
        let is_latest = !asked.request.is_read() || self.writer.latest().await;
        let caller = caller.clone();
        let command = match asked.request {
            Request::Lookup(key) => {
                return match self.published.read(|registry| look_up(registry, &key)) {
                    Ok(record) => Ok(Response::Capsule(Box::new(record))),
                    // That there is none is believed, and acted upon.
                    Err(_) if !is_latest => Err(unread()),
                    Err(refusal) => Err(refusal),
                };
            }
            Request::Rules | Request::List if self.published.awaited().is_some() => {
                let missing = self.published.awaited().unwrap_or_default();
                return Err(ApiError::Asserting { missing });
            }
            Request::List => return Ok(Response::Capsules(self.published.read(|all| all.capsules_shown()))),
            Request::Hosts => return Ok(Response::Hosts(self.published.read(|all| all.hosts_shown()))),
            Request::AddedRecords(id) => return self.added_records(id, is_latest),
            Request::Rules => return Ok(Response::Rules(self.rules())),
            Request::RenewCertificate { csr } => return self.renew_certificate(&caller, &csr),
            Request::Assert(assertion) => {
                let capsules = assertion.capsules.len();
                info!(%caller, capsules, revision = assertion.revision, "asserts what it holds");
                Command::Assert { caller, assertion: *assertion }
            }
            Request::Join { .. } | Request::Watch { .. } => {
                return Err(ApiError::Denied {
                    reason: "not with a certificate, or not on this stream".into(),
                });
            }
            Request::RenewLease(lease) => {
                let address = reached_at(&lease, from)?;
                self.authority.heard(&caller, asked.credentials);
                Command::RenewLease { caller, address, capsules: lease.capsules }
            }
            Request::Register { name, owner, registration: nonce } => {
                let id = CapsuleId::from_bytes(random()?);
                Command::Register { caller, registration: Registration { id, name, owner, nonce } }
            }
            Request::Offer { capsule, generation, offer: id, target, claim_key_hash } => {
                Command::Offer { caller, capsule, offer: NewOffer { generation, id, target, claim_key_hash } }
            }
            Request::Claim { capsule, offer, key } => Command::Claim { caller, capsule, offer, key },
            Request::Revoke { capsule, offer } => Command::Revoke { caller, capsule, offer },
            Request::Suspend { capsule, generation, suspension: id, key_hash } => {
                Command::Suspend { caller, capsule, suspension: NewSuspension { generation, id, key_hash } }
            }
            Request::Withdraw { capsule, generation, suspension } => {
                Command::Withdraw { caller, capsule, generation, suspension }
            }
            Request::Resume { capsule, generation, suspension, key } => {
                Command::Resume { caller, capsule, generation, suspension, key }
            }
            Request::SetState { capsule, generation, state } => {
                Command::SetState { caller, capsule, generation, state }
            }
            Request::Remove { capsule, generation } => Command::Remove { caller, capsule, generation },
            Request::SetRule(terms) => {
                info!(%caller, rule = %terms, "setting a rule");
                Command::SetRule { caller, terms }
            }
            Request::RemoveRule(id) => {
                info!(%caller, rule = %id, "removing a rule");
                Command::RemoveRule { caller, id }
            }
            Request::RemoveHost { name, force } => {
                warn!(%caller, host = %name, force, "removing a host");
                Command::RemoveHost { caller, name, force }
            }
            Request::TakeOver { capsule, generation, takeover: id, from, host_is_gone } => {
                let host = self.published.read(|all| all.capsule(capsule).map(|record| record.host.clone()));
                let host = host.map(|host| host.to_string()).unwrap_or_default();
                warn!(%caller, %capsule, host, takeover = %id, host_is_gone, ?from, "taking over");
                let takeover = Takeover { generation, id, from, host_is_gone };
                Command::TakeOver { caller, capsule, takeover }
            }
        };
        let mut answer = self.writer.run_for(command, asked.by).await;
        if let Ok(Response::Lease(lease)) = &mut answer {
            lease.credentials = Some(self.authority.ca().credentials());
            lease.directories = self.told();
        }
        answer
    }

    /// What hosts are told of the directories with each lease: nothing where there is one, which they have found.
    fn told(&self) -> DirectoryAddresses {
        match &self.directories {
            Some(_) => {
                let Advertised { api, dns } = self.everywhere();
                DirectoryAddresses { api, dns }
            }
            None => DirectoryAddresses::default(),
        }
    }

    /// Lets a new host in.
    pub(super) async fn join(&self, token: &str, csr: &[u8]) -> Result<Response, ApiError> {
        let token = Token::verify(token, &self.token_key).map_err(|error| match error {
            TokenError::Malformed => ApiError::Malformed { reason: error.to_string() },
            TokenError::Forged => ApiError::TokenUnknown,
        })?;
        let request = ca::read(csr).map_err(|error| bad_request(&error))?;
        if request.host != token.host {
            return Err(ApiError::TokenForAnotherHost { host: token.host });
        }
        let (host, operator) = (token.host.clone(), token.operator);
        self.writer.run(Command::Spend { token, key_hash: request.key_hash }).await?;
        let issued = self.issue(request)?;
        info!(%host, operator, "joined");
        Ok(issued)
    }

    /// Whether a host is still one of the mesh: its certificate outlives that by hours.
    pub(super) async fn check_member(&self, caller: &HostName) -> Result<(), ApiError> {
        let is_member = || self.published.read(|registry| registry.host(caller).is_some());
        if is_member() {
            return Ok(());
        }
        // It may have joined at another directory a moment ago.
        let is_latest = self.writer.latest().await;
        if is_member() {
            return Ok(());
        }
        if !is_latest {
            return Err(unread());
        }
        Err(ApiError::NotAMember { host: caller.clone() })
    }

    /// Whether a host that is not known was one of the mesh after the backup was made: then it got its certificate.
    fn may_come_back(&self, connection: &quinn::Connection) -> bool {
        let backup = |all: &Registry| all.asserting.as_ref().map(|asserting| asserting.restored.taken_at);
        let Some(taken_at) = self.published.read(backup) else { return false };
        peer_not_before(connection).is_ok_and(|from| ca::is_of_after(from, taken_at))
    }

    fn added_records(&self, id: CapsuleId, is_latest: bool) -> Result<Response, ApiError> {
        self.published.read(|registry| match registry.capsule(id) {
            Some(_) => {
                Ok(Response::AddedRecords(registry.extras(id).iter().map(ExtraRecord::shown).collect()))
            }
            None if !is_latest => Err(unread()),
            None => Err(ApiError::UnknownCapsule { what: LookupKey::Id(id).to_string() }),
        })
    }

    fn rules(&self) -> RuleSet {
        self.published.read(|all| RuleSet { revision: all.revision, rules: all.policy.rules().to_vec() })
    }

    fn renew_certificate(&self, caller: &HostName, csr: &[u8]) -> Result<Response, ApiError> {
        let request = ca::read(csr).map_err(|error| bad_request(&error))?;
        if request.host != *caller {
            let reason = format!("{caller} asks for a certificate of {}", request.host);
            return Err(ApiError::Denied { reason });
        }
        self.issue(request)
    }

    fn issue(&self, request: ca::Request) -> Result<Response, ApiError> {
        let ca = self.authority.ca();
        let chain = ca.certify(request, self.certificate_life, SystemTime::now());
        let chain = chain.map_err(|error| bad_request(&error))?;
        let all = self.everywhere();
        Ok(Response::Issued(Issued {
            chain: chain.iter().map(|certificate| certificate.to_vec()).collect(),
            ca: ca.certificate().to_vec(),
            also_trusted: ca.anchors().iter().skip(1).map(|root| root.to_vec()).collect(),
            api: all.api,
            dns: all.dns,
        }))
    }

    /// Where hosts find the directories of the mesh, this one first.
    fn everywhere(&self) -> Advertised {
        match &self.directories {
            Some(directories) => directories.all(&self.here),
            None => self.here.clone(),
        }
    }
}

/// A capsule as far as it is known. Decisions about copies rest on what is read by id, so there is no such answer before a
/// restore is settled.
fn look_up(registry: &Registry, key: &LookupKey) -> Result<CapsuleRecord, ApiError> {
    let found = registry.lookup(key);
    let Some(asserting) = &registry.asserting else { return found };
    let wait = || ApiError::Asserting { missing: asserting.missing() };
    let kept = found.as_ref().ok().and_then(|record| registry.capsule(record.id));
    match (found.clone(), kept, key) {
        (Ok(record), Some(kept), LookupKey::Name(_) | LookupKey::Locator(_)) if !registry.is_unsure(kept) => {
            Ok(record)
        }
        _ => Err(wait()),
    }
}

/// Where a host is reached: where it says, or else where it asks from, at its QUIC port.
fn reached_at(lease: &LeaseRequest, from: SocketAddr) -> Result<SocketAddr, ApiError> {
    let address = lease.advertise.unwrap_or_else(|| SocketAddr::new(from.ip(), lease.port));
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    let unusable = match address.ip() {
        IpAddr::V4(v4) => v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast(),
    };
    if unusable || address.port() == 0 {
        return Err(ApiError::Malformed { reason: format!("no host can be reached at {address}") });
    }
    Ok(address)
}

fn unread() -> ApiError {
    ApiError::StoreAway { reason: StoreError::Unread.to_string() }
}

fn bad_request(error: &IdentityError) -> ApiError {
    ApiError::Malformed { reason: error.to_string() }
}

fn random<const LENGTH: usize>() -> Result<[u8; LENGTH], ApiError> {
    let mut bytes = [0; LENGTH];
    let failed = |_| ApiError::Denied { reason: "the directory has no random numbers".into() };
    provider().secure_random.fill(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
