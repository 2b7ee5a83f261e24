//! What the engine is told to do.

use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use directory_api::policy::Terms;
use directory_api::{Assertion, CapsuleState, HeldCapsule, RuleId, Token};
use overlay_proto::{CapsuleId, CapsuleName, ClaimKey, Generation, HostName, OfferId, Owner};

use crate::audit::By;
use crate::engine::Verdict;
use crate::placement::{NewOffer, NewSuspension, Takeover};
use crate::zone::update::ZoneUpdate;

/// The time on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For records and tokens.
    pub wall: SystemTime,
    /// For leases: not set back by anyone.
    pub clock: Instant,
}

/// One change that somebody wants; `caller` is the host that its certificate names.
#[derive(Debug, Clone)]
pub enum Command {
    /// A new host has shown a token that this directory made.
    Spend {
        /// The token.
        token: Token,
        /// Hash of the public key to be certified.
        key_hash: [u8; 32],
    },
    /// Time has passed.
    Expire,
    /// The store is to be tried, which failed before.
    TryStore,
    /// The zones were signed anew, by other keys or for another time.
    Resign,
    /// A host lives.
    RenewLease {
        /// Who.
        caller: HostName,
        /// Where it is reached.
        address: SocketAddr,
        /// What it holds.
        capsules: Vec<HeldCapsule>,
    },
    /// A host that the backup does not know is of the mesh all the same.
    Readmit {
        /// Who.
        caller: HostName,
    },
    /// A host says what it holds, after a restore.
    Assert {
        /// Who.
        caller: HostName,
        /// What it says.
        assertion: Assertion,
    },
    /// A host is to be forgotten.
    RemoveHost {
        /// Who asks.
        caller: HostName,
        /// Which host.
        name: HostName,
        /// Also when its lease is good.
        force: bool,
    },
    /// A capsule is to go on at the host that asks, since its own is gone.
    TakeOver {
        /// Who asks.
        caller: HostName,
        /// What.
        capsule: CapsuleId,
        /// How.
        takeover: Takeover,
    },
    /// A rule is to hold.
    SetRule {
        /// Who says so.
        caller: HostName,
        /// What it says.
        terms: Terms,
    },
    /// A rule is to hold no more.
    RemoveRule {
        /// Who says so.
        caller: HostName,
        /// Which.
        id: RuleId,
    },
    /// What owners added to their capsules' records is to change.
    UpdateZone {
        /// The name of the key that the request is signed with.
        key: String,
        /// The update.
        update: Box<ZoneUpdate>,
        /// Where a refusal is explained.
        verdict: Verdict,
    },
    /// A new capsule.
    Register {
        /// Where it is.
        caller: HostName,
        /// What it is.
        registration: Registration,
    },
    /// An offer.
    Offer {
        /// Who offers.
        caller: HostName,
        /// What.
        capsule: CapsuleId,
        /// To whom.
        offer: NewOffer,
    },
    /// A claim.
    Claim {
        /// Who claims.
        caller: HostName,
        /// What.
        capsule: CapsuleId,
        /// By which offer.
        offer: OfferId,
        /// With which key.
        key: ClaimKey,
    },
    /// A revocation.
    Revoke {
        /// Who revokes.
        caller: HostName,
        /// What.
        capsule: CapsuleId,
        /// Which offer.
        offer: OfferId,
    },
    /// The commit of a suspend.
    Suspend {
        /// Who has it.
        caller: HostName,
        /// What.
        capsule: CapsuleId,
        /// The suspension.
        suspension: NewSuspension,
    },
    /// The end of a suspend that comes to nothing.
    Withdraw {
        /// Who has it.
        caller: HostName,
        /// What.
        capsule: CapsuleId,
        /// Held at this generation.
        generation: Generation,
        /// Which suspension.
        suspension: OfferId,
    },
    /// The commit of a resume.
    Resume {
        /// Who has the file.
        caller: HostName,
        /// What.
        capsule: CapsuleId,
        /// The generation at which it lies in the file.
        generation: Generation,
        /// Which suspension.
        suspension: OfferId,
        /// The key in the file.
        key: ClaimKey,
    },
    /// News of a capsule.
    SetState {
        /// Who says so.
        caller: HostName,
        /// Of what.
        capsule: CapsuleId,
        /// Held at this generation.
        generation: Generation,
        /// What it does.
        state: CapsuleState,
    },
    /// The end of a capsule.
    Remove {
        /// Who wants it.
        caller: HostName,
        /// Which.
        capsule: CapsuleId,
        /// Held at this generation.
        generation: Generation,
    },
}

/// A capsule to be.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Drawn by the directory.
    pub id: CapsuleId,
    /// Its name.
    pub name: CapsuleName,
    /// Its owner.
    pub owner: Owner,
    /// Drawn by the host.
    pub nonce: [u8; 16],
}

impl Command {
    /// Who wants it.
    pub fn by(&self) -> By {
        match self {
            Self::Spend { token, .. } => By::Joining(token.host.clone()),
            Self::Expire | Self::Resign | Self::TryStore => By::Directory,
            Self::UpdateZone { key, update, .. } => {
                By::Key { name: key.clone(), owner: update.owner.clone() }
            }
            Self::RenewLease { caller, .. }
            | Self::Readmit { caller }
            | Self::Assert { caller, .. }
            | Self::RemoveHost { caller, .. }
            | Self::TakeOver { caller, .. }
            | Self::SetRule { caller, .. }
            | Self::RemoveRule { caller, .. }
            | Self::Register { caller, .. }
            | Self::Offer { caller, .. }
            | Self::Claim { caller, .. }
            | Self::Revoke { caller, .. }
            | Self::Suspend { caller, .. }
            | Self::Withdraw { caller, .. }
            | Self::Resume { caller, .. }
            | Self::SetState { caller, .. }
            | Self::Remove { caller, .. } => By::Host(caller.clone()),
        }
    }

    /// A short word for it.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Spend { .. } => "join",
            Self::Expire => "lease over",
            Self::Resign => "sign anew",
            Self::TryStore => "try store",
            Self::RenewLease { .. } => "renew lease",
            Self::Readmit { .. } => "readmit",
            Self::Assert { .. } => "assert",
            Self::RemoveHost { .. } => "remove host",
            Self::TakeOver { .. } => "take over",
            Self::SetRule { .. } => "set rule",
            Self::RemoveRule { .. } => "remove rule",
            Self::UpdateZone { .. } => "update zone",
            Self::Register { .. } => "register",
            Self::Offer { .. } => "offer",
            Self::Claim { .. } => "claim",
            Self::Revoke { .. } => "revoke",
            Self::Suspend { .. } => "suspend",
            Self::Withdraw { .. } => "withdraw",
            Self::Resume { .. } => "resume",
            Self::SetState { .. } => "set state",
            Self::Remove { .. } => "remove",
        }
    }
}
