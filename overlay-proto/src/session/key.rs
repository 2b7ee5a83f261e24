//! What attaches are ordered by, and how directions end.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::Generation;

/// Which side of a session a half is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The side whose program called connect().
    Opener,
    /// The side whose program listens.
    Acceptor,
}

impl Role {
    /// The other side.
    #[must_use]
    pub const fn other(self) -> Role {
        match self {
            Role::Opener => Role::Acceptor,
            Role::Acceptor => Role::Opener,
        }
    }
}

/// How a direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndKind {
    /// The program said that it sends no more.
    Fin,
    /// The connection is gone; this ends the other direction too.
    Reset,
}

/// The end of a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct End {
    /// How it ended.
    pub kind: EndKind,
    /// Offset after the last byte.
    pub offset: u64,
}

/// Generations of the two capsules of a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Generations {
    /// Of the capsule that connected.
    pub opener: Generation,
    /// Of the capsule that accepted.
    pub acceptor: Generation,
}

impl Generations {
    /// The newer of each.
    #[must_use]
    pub fn join(self, other: Generations) -> Generations {
        Generations { opener: self.opener.max(other.opener), acceptor: self.acceptor.max(other.acceptor) }
    }

    /// Whether either is newer than in `other`.
    pub fn news_for(self, other: Generations) -> bool {
        self.opener > other.opener || self.acceptor > other.acceptor
    }
}

/// Names one attach of a session. Keys are ordered by generations first, so that a capsule's new place always wins
/// over its old one, however often that one tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachKey {
    /// Generation of the opener's capsule.
    pub opener_generation: Generation,
    /// Generation of the acceptor's capsule.
    pub acceptor_generation: Generation,
    /// Attempt: 0 is OPEN and ANSWER.
    pub attempt: u64,
}

impl AttachKey {
    /// A key out of its parts.
    pub const fn new(generations: Generations, attempt: u64) -> AttachKey {
        AttachKey {
            opener_generation: generations.opener,
            acceptor_generation: generations.acceptor,
            attempt,
        }
    }

    /// The generations alone.
    pub const fn generations(self) -> Generations {
        Generations { opener: self.opener_generation, acceptor: self.acceptor_generation }
    }
}

impl fmt::Display for AttachKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.opener_generation, self.acceptor_generation, self.attempt)
    }
}
