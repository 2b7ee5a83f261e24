//! The questions and the answers.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use overlay_proto::{CapsuleId, CapsuleName, ClaimKey, ClaimKeyHash, Generation, HostName, OfferId, Owner};

use crate::policy::Terms;
use crate::{
    AddedRecord, ApiError, Assertion, CapsuleRecord, CapsuleState, HostRecord, Restoring, Rule, RuleId,
};

/// One request. Who asks is never in it: that is what the certificate says.
///
/// Every request may be repeated: the client does so when an answer was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A new host spends its token; the only request that needs no certificate.
    Join {
        /// The one-time token, as printed.
        token: String,
        /// Certificate signing request, DER.
        csr: Vec<u8>,
    },
    /// A fresh certificate for the host that asks.
    RenewCertificate {
        /// Certificate signing request, DER.
        csr: Vec<u8>,
    },
    /// "I live, here, and hold this."
    RenewLease(LeaseRequest),
    /// A new capsule at the host that asks.
    Register {
        /// Its name.
        name: CapsuleName,
        /// Its owner.
        owner: Owner,
        /// Drawn by the caller: the same request again gets the same record and not "name taken".
        registration: [u8; 16],
    },
    /// One capsule.
    Lookup(LookupKey),
    /// The placed host opens an offer.
    Offer {
        /// The capsule.
        capsule: CapsuleId,
        /// The generation at which the caller holds it.
        generation: Generation,
        /// Drawn by the caller.
        offer: OfferId,
        /// Who may claim.
        target: HostName,
        /// Hash of the key that the claim will show.
        claim_key_hash: ClaimKeyHash,
    },
    /// The target takes the capsule: the commit of a move.
    Claim {
        /// The capsule.
        capsule: CapsuleId,
        /// The offer.
        offer: OfferId,
        /// The key that the source sent.
        key: ClaimKey,
    },
    /// The source ends its offer and keeps the capsule.
    Revoke {
        /// The capsule.
        capsule: CapsuleId,
        /// The offer.
        offer: OfferId,
    },
    /// The placed host has written the capsule to a file: the commit of a suspend.
    Suspend {
        /// The capsule.
        capsule: CapsuleId,
        /// The generation at which the caller holds it.
        generation: Generation,
        /// Drawn by the caller; it stands in the file.
        suspension: OfferId,
        /// Hash of the key that stands in the file.
        key_hash: ClaimKeyHash,
    },
    /// The placed host keeps the capsule: a suspension that may be under way comes to nothing.
    Withdraw {
        /// The capsule.
        capsule: CapsuleId,
        /// The generation at which the caller holds it.
        generation: Generation,
        /// The suspension.
        suspension: OfferId,
    },
    /// Whoever has the file takes the capsule: the commit of a resume.
    Resume {
        /// The capsule.
        capsule: CapsuleId,
        /// The generation at which it lies in the file.
        generation: Generation,
        /// The suspension.
        suspension: OfferId,
        /// The key that stands in the file.
        key: ClaimKey,
    },
    /// The placed host says what the capsule does.
    SetState {
        /// The capsule.
        capsule: CapsuleId,
        /// The generation at which the caller holds it.
        generation: Generation,
        /// The new state.
        state: CapsuleState,
    },
    /// The placed host removes the capsule for good; an operator's host does, if that one was removed from the mesh or the
    /// capsule lies in a file.
    Remove {
        /// The capsule.
        capsule: CapsuleId,
        /// The generation at which the caller knows it.
        generation: Generation,
    },
    /// All capsules.
    List,
    /// All hosts.
    Hosts,
    /// Forget a host, whose capsules are lost then and can be recovered; for operators' hosts.
    RemoveHost {
        /// The host.
        name: HostName,
        /// Also when its lease is good.
        force: bool,
    },
    /// Place a capsule whose host is gone at the host that asks, which goes on from what it has of it; for operators'
    /// hosts.
    TakeOver {
        /// The capsule.
        capsule: CapsuleId,
        /// The generation that the person saw.
        generation: Generation,
        /// Drawn by the caller: the same request again gets the same record.
        takeover: OfferId,
        /// What it goes on from.
        from: TakeoverFrom,
        /// Whether a person says that the host is gone, though its lease may be good.
        host_is_gone: bool,
    },
    /// The DNS records that a capsule's owner added.
    AddedRecords(CapsuleId),
    /// All rules of the policy.
    Rules,
    /// A rule is to hold. It takes the place of one that says the opposite of the same connects; for operators' hosts.
    SetRule(Terms),
    /// A rule is to hold no more; for operators' hosts.
    RemoveRule(RuleId),
    /// The host says everything that it holds, since a directory that was restored from a backup asks for it.
    Assert(Box<Assertion>),
    /// All changes after a revision, on this stream, for as long as it lasts.
    Watch {
        /// The last revision that the caller has; 0 for none.
        from_revision: u64,
    },
}

/// What a takeover goes on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TakeoverFrom {
    /// What the caller kept of the capsule, by a person's choice.
    Kept,
    /// The copy that the unfinished move of this offer left the caller.
    Copy(OfferId),
    /// A capsule file of an earlier suspend, in which the capsule lay at this generation.
    File(Generation),
}

/// How a capsule is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookupKey {
    /// By name.
    Name(CapsuleName),
    /// By one of its addresses.
    Locator(IpAddr),
    /// By id.
    Id(CapsuleId),
}

/// Where a host can be reached and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRequest {
    /// The port on which its sidecar takes QUIC connections; it is reached at the address from which this request comes.
    pub port: u16,
    /// Where it is reached instead, when it was told so.
    pub advertise: Option<SocketAddr>,
    /// The capsules it holds.
    pub capsules: Vec<HeldCapsule>,
}

/// A capsule as the host that holds it sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldCapsule {
    /// The capsule.
    pub id: CapsuleId,
    /// The generation at which the host holds it.
    pub generation: Generation,
    /// What it does.
    pub state: CapsuleState,
}

/// The answer to a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// How long it is good; renew at a third of it.
    pub duration: Duration,
    /// The asking host as others see it.
    pub host: HostRecord,
    /// What the caller said it holds, but the directory places elsewhere, at another generation, or knows no more.
    pub stale: Vec<StaleCapsule>,
    /// What the host would hold if it renewed its certificate now ([`crate::identity::credentials_hash`]); `None` from
    /// directories that do not say.
    pub credentials: Option<[u8; 32]>,
    /// Only while the directory puts together what happened since the backup that it was restored from.
    pub restoring: Option<Restoring>,
    /// Where the directories of the mesh are; empty when there is one, or when it does not say.
    pub directories: DirectoryAddresses,
    /// All addresses that capsules have or may get; empty when the directory does not say.
    pub locators: Vec<IpNet>,
}

/// Where the directories of a mesh are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DirectoryAddresses {
    /// Where they take requests, the one that answers first.
    pub api: Vec<SocketAddr>,
    /// Where they answer DNS; as above.
    pub dns: Vec<SocketAddr>,
}

/// A capsule that a host holds wrongly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleCapsule {
    /// The capsule.
    pub id: CapsuleId,
    /// Where it is and at which generation; `None` when it was removed.
    pub placed: Option<(HostName, Generation)>,
}

/// A certificate, and what a new host must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate and what is between it and the CA, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// The CA's certificate, under which the chain was signed, DER.
    pub ca: Vec<u8>,
    /// Other certificates of the CA to be trusted meanwhile, DER: its last root, or its next.
    pub also_trusted: Vec<Vec<u8>>,
    /// Where the directory takes requests; an unspecified address stands for the one at which it was asked.
    pub api: Vec<SocketAddr>,
    /// Where the directory answers DNS; as above.
    pub dns: Vec<SocketAddr>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// To [`Request::Join`] and [`Request::RenewCertificate`].
    Issued(Issued),
    /// To [`Request::RenewLease`].
    Lease(Lease),
    /// To everything that concerns one capsule and leaves it there: its record afterwards.
    Capsule(Box<CapsuleRecord>),
    /// To [`Request::List`].
    Capsules(Vec<CapsuleRecord>),
    /// To [`Request::Hosts`].
    Hosts(Vec<HostRecord>),
    /// To [`Request::AddedRecords`].
    AddedRecords(Vec<AddedRecord>),
    /// To [`Request::Rules`]; to [`Request::SetRule`] that rule alone.
    Rules(RuleSet),
    /// To [`Request::Remove`], [`Request::RemoveHost`], [`Request::RemoveRule`] and [`Request::Assert`].
    Done,
    /// To anything.
    Error(ApiError),
}

/// Rules at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSet {
    /// The revision.
    pub revision: u64,
    /// The rules, oldest first.
    pub rules: Vec<Rule>,
}

/// One thing that a watch tells, in the order of revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Forget everything known before: this is all there is.
    Snapshot {
        /// The revision at which this is true.
        revision: u64,
        /// All capsules.
        capsules: Vec<CapsuleRecord>,
        /// All hosts.
        hosts: Vec<HostRecord>,
        /// All rules of the policy.
        rules: Vec<Rule>,
    },
    /// A capsule is new or changed.
    Capsule {
        /// The revision that the change made.
        revision: u64,
        /// The record after it.
        record: Box<CapsuleRecord>,
    },
    /// A capsule was removed.
    CapsuleRemoved {
        /// The revision that the change made.
        revision: u64,
        /// The capsule.
        id: CapsuleId,
        /// The name it had.
        name: CapsuleName,
    },
    /// A host is new or changed. `last_seen` alone is no change.
    Host {
        /// The revision that the change made.
        revision: u64,
        /// The record after it.
        record: HostRecord,
    },
    /// A host was removed.
    HostRemoved {
        /// The revision that the change made.
        revision: u64,
        /// The host.
        name: HostName,
    },
    /// A rule is new.
    Rule {
        /// The revision that the change made.
        revision: u64,
        /// The rule.
        rule: Rule,
    },
    /// A rule was removed.
    RuleRemoved {
        /// The revision that the change made.
        revision: u64,
        /// The rule.
        id: RuleId,
    },
}

impl Change {
    /// The revision that this brings the reader to.
    pub fn revision(&self) -> u64 {
        match self {
            Self::Snapshot { revision, .. }
            | Self::Capsule { revision, .. }
            | Self::CapsuleRemoved { revision, .. }
            | Self::Host { revision, .. }
            | Self::HostRemoved { revision, .. }
            | Self::Rule { revision, .. }
            | Self::RuleRemoved { revision, .. } => *revision,
        }
    }
}

impl Request {
    /// Whether it only asks for facts.
    pub fn is_read(&self) -> bool {
        matches!(self, Self::Lookup(_) | Self::List | Self::Hosts | Self::AddedRecords(_) | Self::Rules)
    }

    /// A short word for logs and errors.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Join { .. } => "join",
            Self::RenewCertificate { .. } => "renew certificate",
            Self::RenewLease(_) => "renew lease",
            Self::Register { .. } => "register",
            Self::Lookup(_) => "lookup",
            Self::Offer { .. } => "offer",
            Self::Claim { .. } => "claim",
            Self::Revoke { .. } => "revoke",
            Self::Suspend { .. } => "suspend",
            Self::Withdraw { .. } => "withdraw",
            Self::Resume { .. } => "resume",
            Self::SetState { .. } => "set state",
            Self::Remove { .. } => "remove",
            Self::List => "list",
            Self::Hosts => "hosts",
            Self::RemoveHost { .. } => "remove host",
            Self::TakeOver { .. } => "take over",
            Self::AddedRecords(_) => "added records",
            Self::Rules => "rules",
            Self::SetRule(_) => "set rule",
            Self::RemoveRule(_) => "remove rule",
            Self::Assert(_) => "assert",
            Self::Watch { .. } => "watch",
        }
    }
}

impl fmt::Display for LookupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "named {name}"),
            Self::Locator(locator) => write!(f, "at {locator}"),
            Self::Id(id) => write!(f, "with id {id}"),
        }
    }
}
