//! What the directory is asked and what it answers: the messages, the identity that both sides show each other, and a
//! client that finds its way back by itself.
//!
//! * [`Request`] and [`Response`]: one request per QUIC bi-stream, length-prefixed; [`Request::Watch`] is one long
//!   stream of [`Change`]s instead. The domain types here are what callers use; `wire` holds what goes over the line,
//!   with tagged fields, so that old and new versions understand each other.
//! * [`policy`]: who may connect to whom, as the directory keeps it and every host judges by it.
//! * [`identity`]: keys, certificates with SPIFFE names, and the TLS and QUIC settings of the directory and of the links
//!   between hosts.
//! * [`Client`] and [`join`].
//!
//! ```text
//!            ALPN capsule-directory/1                      ALPN capsule-link/1
//!  host ──── one bi-stream per request ────► directory     host ◄──── mutual TLS ────► host
//!       ◄─── changes, in order (watch) ────
//! ```

mod asked;
mod assertion;
mod error;
mod record;
mod request;
mod wire;

pub mod client;
pub mod frame;
pub mod identity;
pub mod limits;
pub mod outside;
pub mod policy;
pub mod token;
pub mod zone;

pub use asked::{Asked, Person};
pub use assertion::{AssertedCapsule, AssertedOffer, Assertion, RestoreId, Restoring};
pub use client::{Client, ClientError, join, join_any};
pub use error::ApiError;
pub use identity::{Identity, Membership};
pub use policy::{Policy, Rule, RuleId};
pub use record::{
    AddedRecord, CapsuleRecord, CapsuleState, HostRecord, OfferRecord, Outcome, OutcomeRecord,
    SuspensionRecord,
};
pub use request::{
    Change, DirectoryAddresses, HeldCapsule, Issued, Lease, LeaseRequest, LookupKey, Request, Response,
    RuleSet, StaleCapsule, TakeoverFrom,
};
pub use token::Token;
pub use wire::WireError;
pub use zone::Zone;

/// What is kept in the directory's store: the same encodings as on the wire.
pub mod stored {
    use std::time::SystemTime;

    use overlay_proto::HostName;

    use crate::RestoreId;
    pub use crate::wire::{
        decode_capsule, decode_restored, decode_rule, encode_capsule, encode_restored, encode_rule,
    };

    /// That the facts come from a backup, and not every host has asserted what it holds since.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Restored {
        /// Which restore.
        pub id: RestoreId,
        /// The revision at which the backup was made.
        pub revision: u64,
        /// When the backup was made.
        pub taken_at: SystemTime,
        /// The hosts that must assert what they hold, or be declared gone.
        pub awaited: Vec<HostName>,
    }
}
