//! Asking the directory: one connection, kept open, found again by itself.
//!
//! ```text
//!            ┌── broken, silent, or cannot reach its store: it comes last ──┐
//!            ▼                                                              │
//!  (no connection) ── each directory in turn ──► (connection) ── request ───┴──► answer
//!        └── none answers: pause, doubling up to a bound, until the call's time is over ──► error
//! ```
//!
//! Requests are repeated on a new connection when their answer was lost; all of them are made so that this is harmless.

mod addresses;
mod call;
mod joining;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use overlay_proto::{CapsuleId, CapsuleName, ClaimKey, ClaimKeyHash, Generation, HostName, OfferId, Owner};
use tokio::sync::mpsc;

use crate::identity::{IdentityError, SigningRequest};
use crate::limits::{CALL_TIME, WATCH_QUEUE};
use crate::policy::Terms;
use crate::{
    AddedRecord, ApiError, Asked, Assertion, CapsuleRecord, CapsuleState, Change, HostRecord, Identity,
    Issued, Lease, LeaseRequest, LookupKey, Person, Request, Response, Rule, RuleId, RuleSet, TakeoverFrom,
    WireError,
};

pub use joining::{join, join_any};

/// A handle on the directory; clones share one connection.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<call::Shared>,
    call_time: Duration,
    asked_by: Option<Arc<Person>>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The directory answered, and refuses. Nothing was changed.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// The directory could not be reached, or did not answer in time. Whether the request was carried out is not known.
    #[error("the directory at {addresses} did not answer `{verb}` within {seconds} s: {cause}")]
    Away {
        /// What was asked.
        verb: &'static str,
        /// The addresses tried.
        addresses: String,
        /// How long.
        seconds: u64,
        /// What happened at the last attempt.
        cause: String,
    },
    /// The directory speaks differently; it may be older or newer than this program.
    #[error(
        "the directory at {address} answered `{verb}` in a way that this version does not understand: {cause}"
    )]
    Protocol {
        /// What was asked.
        verb: &'static str,
        /// Who answered.
        address: SocketAddr,
        /// What is wrong.
        cause: String,
    },
    /// The join token is broken.
    #[error(transparent)]
    Token(#[from] crate::token::TokenError),
    /// Keys or certificates are broken.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// This machine gives no socket or no random numbers.
    #[error("{what}: {source}")]
    Local {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

impl ClientError {
    /// The directory's refusal, if it is one.
    pub fn refusal(&self) -> Option<&ApiError> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Away { .. }
            | Self::Protocol { .. }
            | Self::Token(_)
            | Self::Identity(_)
            | Self::Local { .. } => None,
        }
    }
}

impl Client {
    /// Makes a client; connects at the first call. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When there is no socket, or TLS refuses the identity.
    pub fn connect(addresses: Vec<SocketAddr>, identity: Identity) -> Result<Self, ClientError> {
        let shared = Arc::new(call::Shared::new(addresses, identity)?);
        Ok(Self { shared, call_time: CALL_TIME, asked_by: None })
    }

    /// The same client with another time limit for each call.
    #[must_use]
    pub fn with_call_time(&self, call_time: Duration) -> Self {
        Self { call_time, ..self.clone() }
    }

    /// The same client for what goes back to a person: the directory writes that down with what it changes.
    #[must_use]
    pub fn asked_by(&self, person: Option<Arc<Person>>) -> Self {
        Self { asked_by: person, ..self.clone() }
    }

    /// Whether there is a connection at this moment.
    pub fn is_connected(&self) -> bool {
        self.shared.is_connected()
    }

    /// Says where this host is and what it holds.
    ///
    /// # Errors
    /// When the directory is away or refuses.
    pub async fn renew_lease(&self, lease: LeaseRequest) -> Result<Lease, ClientError> {
        match self.call(Request::RenewLease(lease)).await? {
            Response::Lease(lease) => {
                self.shared.addresses().learn(&lease.directories.api);
                Ok(lease)
            }
            other => Err(self.unexpected("renew lease", &other)),
        }
    }

    /// Says everything that this host holds, to a directory that asks for it after a restore ([`Lease::restoring`]).
    ///
    /// # Errors
    /// When it is about another restore; when the directory is away.
    pub async fn assert(&self, assertion: Assertion) -> Result<(), ClientError> {
        match self.call(Request::Assert(Box::new(assertion))).await? {
            Response::Done => Ok(()),
            other => Err(self.unexpected("assert", &other)),
        }
    }

    /// Where the directories are found, the one in use or to be tried first in front; what [`Client::renew_lease`] brought is
    /// in it.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.shared.addresses().in_turn()
    }

    /// Gets a fresh certificate for the same key, shows it from here on, and trusts whom the directory says. Writing both
    /// to disk is the caller's ([`crate::Membership::save_credentials`]).
    ///
    /// # Errors
    /// When the directory is away or refuses, or the certificate does not fit.
    pub async fn renew_certificate(&self) -> Result<(), ClientError> {
        let identity = self.shared.identity();
        let Some(host) = identity.host() else {
            let reason = "only a host renews its certificate".into();
            return Err(ApiError::Denied { reason }.into());
        };
        let request = SigningRequest::for_key(&identity.key_pem(), identity.zone(), host)?;
        let issued: Issued =
            match self.call(Request::RenewCertificate { csr: request.csr_der().to_vec() }).await? {
                Response::Issued(issued) => issued,
                other => return Err(self.unexpected("renew certificate", &other)),
            };
        let anchors = std::iter::once(issued.ca).chain(issued.also_trusted).map(Into::into).collect();
        identity.trust(anchors)?;
        identity.renew(issued.chain.into_iter().map(Into::into).collect())?;
        Ok(())
    }

    /// Registers a new capsule at this host. It begins as [`CapsuleState::Stopped`], at generation 1.
    ///
    /// # Errors
    /// When the name is taken or reserved, the owner's quota or the locators are used up, or the directory is away.
    pub async fn register(&self, name: CapsuleName, owner: Owner) -> Result<CapsuleRecord, ClientError> {
        let registration = call::random()?;
        self.capsule(Request::Register { name, owner, registration }).await
    }

    /// Finds one capsule.
    ///
    /// # Errors
    /// [`ApiError::UnknownCapsule`] when there is none; when the directory is away.
    pub async fn lookup(&self, key: LookupKey) -> Result<CapsuleRecord, ClientError> {
        self.capsule(Request::Lookup(key)).await
    }

    /// Opens an offer of a capsule that this host has. The same offer may be made again; another one only after the
    /// open one was revoked.
    ///
    /// # Errors
    /// When the capsule is not here, at another generation, or being offered already; when the target is unknown; when
    /// the directory is away.
    pub async fn offer(
        &self,
        capsule: CapsuleId,
        generation: Generation,
        offer: OfferId,
        target: HostName,
        claim_key_hash: ClaimKeyHash,
    ) -> Result<CapsuleRecord, ClientError> {
        self.capsule(Request::Offer { capsule, generation, offer, target, claim_key_hash }).await
    }

    /// Takes a capsule that is offered to this host. `Ok` means: it is here, at the generation in the record; also when
    /// it was claimed by an earlier call whose answer was lost. Nothing else means that.
    ///
    /// # Errors
    /// [`ApiError::OfferEnded`] when the source revoked; other refusals also mean that the capsule is not here. When
    /// the directory is away it is not known: ask again.
    pub async fn claim(
        &self,
        capsule: CapsuleId,
        offer: OfferId,
        key: ClaimKey,
    ) -> Result<CapsuleRecord, ClientError> {
        self.capsule(Request::Claim { capsule, offer, key }).await
    }

    /// Ends an offer that this host made. `Ok` means: revoked, the capsule stays here, at the generation in the record;
    /// also when an earlier call did it.
    ///
    /// # Errors
    /// [`ApiError::OfferEnded`] when the target claimed; [`ApiError::OfferUnknown`] when the offer never arrived. When
    /// the directory is away it is not known: ask again.
    pub async fn revoke(&self, capsule: CapsuleId, offer: OfferId) -> Result<CapsuleRecord, ClientError> {
        self.capsule(Request::Revoke { capsule, offer }).await
    }

    /// Notes that a capsule that this host has lies in a capsule file, which is on disk: the commit of a suspend. `Ok`
    /// also when an earlier call did it; the capsule is not this host's any more then.
    ///
    /// # Errors
    /// When the capsule is not here, at another generation or being offered, or the suspension was withdrawn. When the
    /// directory is away it is not known: ask again.
    pub async fn suspend(
        &self,
        capsule: CapsuleId,
        generation: Generation,
        suspension: OfferId,
        key_hash: ClaimKeyHash,
    ) -> Result<CapsuleRecord, ClientError> {
        self.capsule(Request::Suspend { capsule, generation, suspension, key_hash }).await
    }

    /// Makes sure that a suspension comes to nothing. `Ok` means: it was not made and never will be, the capsule stays
    /// here, at the generation in the record; also when an earlier call did it.
    ///
    /// # Errors
    /// [`ApiError::Suspended`] when it was made; the capsule is not this host's any more then. When the directory is
    /// away it is not known: ask again.
    pub async fn withdraw(
        &self,
        capsule: CapsuleId,
        generation: Generation,
        suspension: OfferId,
    ) -> Result<CapsuleRecord, ClientError> {
        self.capsule(Request::Withdraw { capsule, generation, suspension }).await
    }

    /// Takes a capsule from its capsule file: the commit of a resume. `Ok` means: it is here, at the generation in the
    /// record; also when it was resumed by an earlier call whose answer was lost. Nothing else means that.
    ///
    /// # Errors
    /// [`ApiError::NotPlacedHere`] says who resumed it before; other refusals also mean that the capsule is not here.
    /// When the directory is away it is not known: ask again.
    pub async fn resume(
        &self,
        capsule: CapsuleId,
        generation: Generation,
        suspension: OfferId,
        key: ClaimKey,
    ) -> Result<CapsuleRecord, ClientError> {
        self.capsule(Request::Resume { capsule, generation, suspension, key }).await
    }

    /// Says what a capsule that this host has does. While an offer is open, `moving` stays shown, and the state given
    /// is what a revoke brings back.
    ///
    /// # Errors
    /// When the capsule is not here or at another generation; when the directory is away.
    pub async fn set_state(
        &self,
        capsule: CapsuleId,
        generation: Generation,
        state: CapsuleState,
    ) -> Result<CapsuleRecord, ClientError> {
        self.capsule(Request::SetState { capsule, generation, state }).await
    }

    /// Removes a capsule that this host has, for good. `Ok` also when it was removed before.
    ///
    /// # Errors
    /// When the capsule is not here, at another generation, or being offered; when the directory is away.
    pub async fn remove(&self, capsule: CapsuleId, generation: Generation) -> Result<(), ClientError> {
        match self.call(Request::Remove { capsule, generation }).await {
            Ok(Response::Done) | Err(ClientError::Refused(ApiError::UnknownCapsule { .. })) => Ok(()),
            Ok(other) => Err(self.unexpected("remove", &other)),
            Err(error) => Err(error),
        }
    }

    /// All capsules.
    ///
    /// # Errors
    /// When the directory is away.
    pub async fn list(&self) -> Result<Vec<CapsuleRecord>, ClientError> {
        match self.call(Request::List).await? {
            Response::Capsules(records) => Ok(records),
            other => Err(self.unexpected("list", &other)),
        }
    }

    /// All hosts.
    ///
    /// # Errors
    /// When the directory is away.
    pub async fn hosts(&self) -> Result<Vec<HostRecord>, ClientError> {
        match self.call(Request::Hosts).await? {
            Response::Hosts(records) => Ok(records),
            other => Err(self.unexpected("hosts", &other)),
        }
    }

    /// Places a capsule at this host, because its host is gone. `Ok` means: it is here, at the generation in the record;
    /// also when an earlier call with the same `takeover` did it. `generation` is that of the record that the person saw.
    ///
    /// # Errors
    /// When this host is no operator's, when the capsule's host is alive and `host_is_gone` does not say otherwise, when
    /// the copy is not the newest, when the file is not of the capsule's past; when the directory is away.
    pub async fn take_over(
        &self,
        capsule: CapsuleId,
        generation: Generation,
        takeover: OfferId,
        from: TakeoverFrom,
        host_is_gone: bool,
    ) -> Result<CapsuleRecord, ClientError> {
        self.capsule(Request::TakeOver { capsule, generation, takeover, from, host_is_gone }).await
    }

    /// Makes the directory forget a host; its capsules are lost then, and it must join again.
    ///
    /// # Errors
    /// When this host is no operator's, or the host is alive and `force` was not given; when the directory is away.
    pub async fn remove_host(&self, name: HostName, force: bool) -> Result<(), ClientError> {
        match self.call(Request::RemoveHost { name, force }).await? {
            Response::Done => Ok(()),
            other => Err(self.unexpected("remove host", &other)),
        }
    }

    /// The DNS records that a capsule's owner added.
    ///
    /// # Errors
    /// When there is no such capsule, or the directory is older than this request; when it is away.
    pub async fn added_records(&self, capsule: CapsuleId) -> Result<Vec<AddedRecord>, ClientError> {
        match self.call(Request::AddedRecords(capsule)).await? {
            Response::AddedRecords(records) => Ok(records),
            other => Err(self.unexpected("added records", &other)),
        }
    }

    /// All rules of the policy.
    ///
    /// # Errors
    /// When the directory is away.
    pub async fn rules(&self) -> Result<RuleSet, ClientError> {
        match self.call(Request::Rules).await? {
            Response::Rules(set) => Ok(set),
            other => Err(self.unexpected("rules", &other)),
        }
    }

    /// Makes a rule hold, in the place of one that says the opposite of the same connects. The rule there is, if it says
    /// the same.
    ///
    /// # Errors
    /// When this host is no operator's, or there are too many rules; when the directory is away.
    pub async fn set_rule(&self, terms: Terms) -> Result<Rule, ClientError> {
        match self.call(Request::SetRule(terms)).await? {
            Response::Rules(RuleSet { mut rules, revision }) => match (rules.pop(), rules.len()) {
                (Some(rule), 0) => Ok(rule),
                _ => Err(self.unexpected("set rule", &Response::Rules(RuleSet { rules, revision }))),
            },
            other => Err(self.unexpected("set rule", &other)),
        }
    }

    /// Ends a rule; says whether there was one.
    ///
    /// # Errors
    /// When this host is no operator's; when the directory is away.
    pub async fn remove_rule(&self, id: RuleId) -> Result<bool, ClientError> {
        match self.call(Request::RemoveRule(id)).await {
            Ok(Response::Done) => Ok(true),
            Err(ClientError::Refused(ApiError::UnknownRule { .. })) => Ok(false),
            Ok(other) => Err(self.unexpected("remove rule", &other)),
            Err(error) => Err(error),
        }
    }

    /// Everything that changes after `from_revision` (0: begin with a snapshot), in order, across lost connections. The
    /// watch ends when the receiver is dropped. A slow receiver holds it back, nothing is left out.
    pub fn watch(&self, from_revision: u64) -> mpsc::Receiver<Change> {
        let (sender, receiver) = mpsc::channel(WATCH_QUEUE);
        tokio::spawn(watch::run(self.shared.clone(), from_revision, sender));
        receiver
    }

    async fn capsule(&self, request: Request) -> Result<CapsuleRecord, ClientError> {
        let verb = request.verb();
        match self.call(request).await? {
            Response::Capsule(record) => Ok(*record),
            other => Err(self.unexpected(verb, &other)),
        }
    }

    async fn call(&self, request: Request) -> Result<Response, ClientError> {
        let by = self.asked_by.as_deref().cloned();
        let credentials =
            matches!(request, Request::RenewLease(_)).then(|| self.shared.identity().credentials());
        self.shared.call(&Asked { request, by, credentials }, self.call_time).await
    }

    fn unexpected(&self, verb: &'static str, response: &Response) -> ClientError {
        let cause = match response {
            Response::Issued(_) => "a certificate",
            Response::Lease(_) => "a lease",
            Response::Capsule(_) => "a capsule",
            Response::Capsules(_) => "capsules",
            Response::Hosts(_) => "hosts",
            Response::AddedRecords(_) => "added records",
            Response::Rules(_) => "rules",
            Response::Done => "done",
            Response::Error(_) => "an error",
        };
        ClientError::Protocol {
            verb,
            address: self.shared.address(),
            cause: format!("unexpected answer: {cause}"),
        }
    }
}

fn protocol(verb: &'static str, address: SocketAddr, error: &WireError) -> ClientError {
    ClientError::Protocol { verb, address, cause: error.to_string() }
}
