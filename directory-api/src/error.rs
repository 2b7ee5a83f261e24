//! Why the directory refuses, as it goes over the wire: a number that programs go by, and a sentence that people read.

use overlay_proto::{Generation, HostName, OfferId};

use crate::{Outcome, OutcomeRecord};

/// A refusal by the directory. Nothing was changed, but where it says that this is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The request could not be understood.
    #[error("the directory does not understand the request: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// The caller may not do this.
    #[error("the directory refuses: {reason}")]
    Denied {
        /// Why.
        reason: String,
    },
    /// Another capsule has the name.
    #[error("the name {name} is taken by another capsule")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The zone needs the name for itself.
    #[error("the name {name} is reserved: choose another one")]
    NameReserved {
        /// The name.
        name: String,
    },
    /// No such capsule.
    #[error("there is no capsule {what}")]
    UnknownCapsule {
        /// What was looked for, such as `named db`.
        what: String,
    },
    /// No such host, or it never came up.
    #[error("there is no host named {name} (it must have joined and started once)")]
    UnknownHost {
        /// The name.
        name: String,
    },
    /// The caller's view is old.
    #[error("the capsule is at generation {current}, not {given}")]
    WrongGeneration {
        /// What the caller said.
        given: Generation,
        /// What is true.
        current: Generation,
    },
    /// The caller does not have the capsule.
    #[error("the capsule is placed at {host} (generation {generation}), not here")]
    NotPlacedHere {
        /// Where it is.
        host: HostName,
        /// Its generation.
        generation: Generation,
    },
    /// No such offer, and none that ended last.
    #[error("the directory does not know the offer {offer}")]
    OfferUnknown {
        /// The offer.
        offer: OfferId,
    },
    /// The offer ended the other way.
    #[error("the offer has ended: {}", ended(.outcome))]
    OfferEnded {
        /// How.
        outcome: OutcomeRecord,
    },
    /// Another offer is open and must be revoked first.
    #[error("the capsule is being offered to {target} (offer {offer}): revoke that first")]
    OfferPending {
        /// The open offer.
        offer: OfferId,
        /// Its target.
        target: HostName,
    },
    /// A repeated offer that differs from the first.
    #[error("the offer {offer} was made with another target or key")]
    OfferDiffers {
        /// The offer.
        offer: OfferId,
    },
    /// A claim by another host than the target.
    #[error("the capsule is offered to {target}, not to this host")]
    NotTheTarget {
        /// The target.
        target: HostName,
    },
    /// A claim without the key.
    #[error("the claim key is not the one of the offer")]
    WrongKey,
    /// The capsule lies in a capsule file.
    #[error(
        "the capsule is suspended since generation {generation}, by {host}: it lies in the capsule file of then"
    )]
    Suspended {
        /// The host that suspended it.
        host: HostName,
        /// Its generation since.
        generation: Generation,
    },
    /// The token was used before.
    #[error("the token was used before: make a new one with `capsule-directory token`")]
    TokenUsed,
    /// The token is too old.
    #[error("the token has expired: make a new one with `capsule-directory token`")]
    TokenExpired,
    /// The token was not made by this directory.
    #[error("the token was not made by this directory")]
    TokenUnknown,
    /// The certificate request names another host than the token.
    #[error("the token is for the host {host}")]
    TokenForAnotherHost {
        /// The token's host.
        host: HostName,
    },
    /// The owner has as many capsules as allowed.
    #[error("{owner} has {limit} capsules, the most that are allowed")]
    QuotaExceeded {
        /// The owner.
        owner: String,
        /// The limit.
        limit: u64,
    },
    /// No address is left.
    #[error("all locators are in use")]
    LocatorsExhausted,
    /// A host that is heard of is not gone.
    #[error("the host {host} is alive: it renews its lease")]
    HostAlive {
        /// The host.
        host: HostName,
    },
    /// No such rule.
    #[error("there is no rule {id}")]
    UnknownRule {
        /// Its number.
        id: u64,
    },
    /// The policy has as many rules as it may.
    #[error(
        "the policy has {limit} rules, the most that are allowed: remove some, or make patterns of several"
    )]
    TooManyRules {
        /// The limit.
        limit: u64,
    },
    /// The caller was removed from the mesh.
    #[error("the host {host} was removed from the mesh; it must join again")]
    NotAMember {
        /// The caller.
        host: HostName,
    },
    /// The store failed.
    #[error("the directory could not write to its store; see its log")]
    StoreFailed,
    /// The directory was restored from a backup, and does not know yet what happened since. Nothing that changes hands
    /// is answered before every host has asserted what it holds, or was declared gone.
    #[error(
        "the directory was restored from a backup and waits for hosts to say what they hold: {}. It goes on by itself; if \
         one of them is gone: capsule hosts remove HOST",
        missing_hosts(.missing)
    )]
    Asserting {
        /// Who has not asserted yet.
        missing: Vec<HostName>,
    },
    /// The directory's store does not answer: whether the request was carried out is not known.
    #[error("the directory cannot reach its store: {reason}")]
    StoreAway {
        /// Where it was looked for, and what happened.
        reason: String,
    },
    /// The directory is about to stop.
    #[error("the directory is stopping")]
    Stopping,
    /// A refusal that this version has no name for.
    #[error("{message} [directory code {code}]")]
    Unrecognized {
        /// The number.
        code: u32,
        /// The directory's sentence.
        message: String,
    },
}

impl ApiError {
    /// The number on the wire; never given to another refusal. 16 was one.
    pub fn code(&self) -> u32 {
        match self {
            Self::Malformed { .. } => 1,
            Self::Denied { .. } => 2,
            Self::StoreFailed => 3,
            Self::Stopping => 4,
            Self::Asserting { .. } => 5,
            Self::StoreAway { .. } => 6,
            Self::NameTaken { .. } => 10,
            Self::NameReserved { .. } => 11,
            Self::UnknownCapsule { .. } => 12,
            Self::UnknownHost { .. } => 13,
            Self::QuotaExceeded { .. } => 14,
            Self::LocatorsExhausted => 15,
            Self::HostAlive { .. } => 17,
            Self::WrongGeneration { .. } => 20,
            Self::NotPlacedHere { .. } => 21,
            Self::OfferUnknown { .. } => 22,
            Self::OfferEnded { .. } => 23,
            Self::OfferPending { .. } => 24,
            Self::OfferDiffers { .. } => 25,
            Self::NotTheTarget { .. } => 26,
            Self::WrongKey => 27,
            Self::Suspended { .. } => 28,
            Self::TokenUsed => 30,
            Self::TokenExpired => 31,
            Self::TokenUnknown => 32,
            Self::TokenForAnotherHost { .. } => 33,
            Self::NotAMember { .. } => 34,
            Self::UnknownRule { .. } => 40,
            Self::TooManyRules { .. } => 41,
            Self::Unrecognized { code, .. } => *code,
        }
    }

    /// Whether the same request may be answered otherwise in a moment, or by another directory.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Stopping | Self::StoreAway { .. })
    }
}

/// Hosts that a sentence names; there may be more than a person reads.
const HOSTS_NAMED_MAX: usize = 16;

fn missing_hosts(missing: &[HostName]) -> String {
    let names: Vec<_> = missing.iter().take(HOSTS_NAMED_MAX).map(HostName::as_str).collect();
    match missing.len() {
        0 => "any host".into(),
        all if all > HOSTS_NAMED_MAX => format!("{} and {} more", names.join(", "), all - HOSTS_NAMED_MAX),
        _ => names.join(", "),
    }
}

fn ended(outcome: &OutcomeRecord) -> String {
    match outcome.outcome {
        Outcome::Claimed => format!("claimed by {} (generation {})", outcome.host, outcome.generation),
        Outcome::Revoked => format!("revoked by {} (generation {})", outcome.host, outcome.generation),
        Outcome::TakenOver => format!("taken over by {} (generation {})", outcome.host, outcome.generation),
    }
}
