//! What the answers carry. Fields are only ever added; units are in the names,
//! times are RFC 3339 in UTC, amounts are integers in bytes unless named
//! otherwise.

mod capsules;
mod gateways;
mod hosts;
mod moves;
mod policy;
mod sessions;
mod suspends;
mod taps;

pub use capsules::{
    CapsuleState, CapsuleView, DnsRecord, InspectResult, LogsResult, PsResult, RecoverResult, RecoveredFrom,
    ResolveResult, RmResult, RunResult, StopResult,
};
pub use gateways::{PublicationView, PublishResult, PublishedResult, UnpublishResult};
pub use hosts::{
    CheckView, HostState, HostView, HostsResult, Level, LinkState, LinkView, PreflightResult,
    RemoveHostResult,
};
pub use moves::{MoveBytes, MoveResult, Phases};
pub use policy::{
    DenialView, PolicyCounts, PolicyResult, PolicyTestResult, RemoveRuleResult, RuleResult, RuleView,
};
pub use sessions::{
    AnchoredView, DatagramCounts, Direction, SessionKind, SessionState, SessionView, SessionsResult,
};
pub use suspends::{ResumeResult, SuspendResult};
pub use taps::TapResult;

/// Makes an enum of words: serde by the word, `as_str`, `Display`. A word that
/// this version doesn't know reads as `Unknown`.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)+
            /// A word of a newer version.
            #[default]
            #[serde(other, rename = "unknown")]
            Unknown,
        }

        impl $name {
            /// The word for it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                    Self::Unknown => "unknown",
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}
use words;
