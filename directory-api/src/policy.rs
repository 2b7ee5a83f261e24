//! Who may connect to whom: rules, and what follows from them. Pure.
//!
//! ```text
//!  a deny rule fits ──► denied
//!  else an allow rule fits ──► allowed
//!  else the owners are the same ──► allowed
//!  else it goes to a host's outlet ──► allowed: which capsules it takes is that host's matter
//!  else ──► denied
//! ```
//!
//! The order in which rules were made means nothing, so that changes that cross each other come out the same everywhere.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use overlay_proto::limits::NAME_BYTES_MAX;
use overlay_proto::{CapsuleName, HostName, Owner};

use crate::{CapsuleRecord, outside};

/// All rules of a mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
}

/// One rule, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its number: the revision that made it, so that none is given twice.
    pub id: RuleId,
    /// What it says.
    pub terms: Terms,
    /// When it was made.
    pub set_at: SystemTime,
    /// The host by which it was made.
    pub set_by: HostName,
}

/// The number of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(u64);

/// What a rule says: such connects are allowed, or denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// What becomes of connects that fit.
    pub effect: Effect,
    /// Who connects.
    pub from: Selector,
    /// To whom.
    pub to: Selector,
    /// At which ports.
    pub ports: Ports,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Connects that fit are allowed, unless another rule denies them.
    Allow,
    /// Connects that fit are denied.
    Deny,
}

/// Which capsules: `OWNER/NAME`, where `*` as owner is any, and `*` in the name any run of characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    owner: Option<Owner>,
    name: NamePattern,
}

/// A name in which each `*` stands for any run of characters, also none.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NamePattern(Box<str>);

/// An unbroken range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    last: u16,
}

/// One side of a connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Party<'a> {
    /// Who owns the capsule.
    pub owner: &'a Owner,
    /// Its name.
    pub name: &'a CapsuleName,
}

/// What the policy says of a connect, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// A rule allows it.
    AllowedByRule(RuleId),
    /// No rule fits, and the owners are the same.
    AllowedWithinOwner,
    /// No rule fits, and it goes to the outlet of a host.
    AllowedToOutlet,
    /// A rule denies it.
    DeniedByRule(RuleId),
    /// No rule fits, and the owners differ.
    DeniedAcrossOwners,
}

/// Why a text is no part of a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// No selector.
    #[error("`{0}` selects no capsules: write OWNER/NAME, each may be `*`, and NAME may contain `*`")]
    Selector(String),
    /// No ports.
    #[error("`{0}` is no port: write one such as 5432, or a range such as 8000-8099")]
    Ports(String),
    /// No number.
    #[error("`{0}` is no number of a rule")]
    Id(String),
}

impl Policy {
    /// The policy of these rules.
    pub fn new(mut rules: Vec<Rule>) -> Self {
        rules.sort_by_key(|rule| rule.id);
        Self { rules }
    }

    /// Its rules, oldest first.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Puts a rule in.
    pub fn put(&mut self, rule: Rule) {
        match self.rules.binary_search_by_key(&rule.id, |kept| kept.id) {
            Ok(at) => self.rules[at] = rule,
            Err(at) => self.rules.insert(at, rule),
        }
    }

    /// Takes a rule out.
    pub fn remove(&mut self, id: RuleId) -> Option<Rule> {
        let at = self.rules.binary_search_by_key(&id, |kept| kept.id).ok()?;
        Some(self.rules.remove(at))
    }

    /// Says whether `from` may connect to `to` at a port.
    pub fn judge(&self, from: Party<'_>, to: Party<'_>, port: u16) -> Judgement {
        let fits = |rule: &&Rule| rule.terms.fit(from, to, port);
        let first = |effect| self.rules.iter().filter(|rule| rule.terms.effect == effect).find(fits);
        if let Some(rule) = first(Effect::Deny) {
            Judgement::DeniedByRule(rule.id)
        } else if let Some(rule) = first(Effect::Allow) {
            Judgement::AllowedByRule(rule.id)
        } else if from.owner == to.owner {
            Judgement::AllowedWithinOwner
        } else if to.owner.as_str() == outside::HOST {
            Judgement::AllowedToOutlet
        } else {
            Judgement::DeniedAcrossOwners
        }
    }
}

impl Terms {
    /// Whether a connect is one that the rule speaks of.
    pub fn fit(&self, from: Party<'_>, to: Party<'_>, port: u16) -> bool {
        self.ports.contain(port) && self.to.fits(to) && self.from.fits(from)
    }

    /// Whether the rule speaks of the same connects as another one.
    pub fn is_about_the_same(&self, other: &Self) -> bool {
        (&self.from, &self.to, self.ports) == (&other.from, &other.to, other.ports)
    }
}

impl Selector {
    /// Selects one capsule.
    pub fn one(owner: &Owner, name: &CapsuleName) -> Self {
        Self { owner: Some(owner.clone()), name: NamePattern(name.as_str().into()) }
    }

    /// Whether a capsule is one of these.
    pub fn fits(&self, party: Party<'_>) -> bool {
        self.owner.as_ref().is_none_or(|owner| owner == party.owner) && self.name.matches(party.name)
    }
}

impl NamePattern {
    /// Takes time in the product of the lengths, both of which are bounded.
    fn matches(&self, name: &CapsuleName) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = name.as_str().strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        // The leftmost place of each part leaves the most for those after it.
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

impl Ports {
    /// Every port.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    /// From one port to another; `None` when there is none in between.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The first and the last.
    pub fn ends(self) -> (u16, u16) {
        (self.first, self.last)
    }

    fn contain(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl Judgement {
    /// Whether the connect may be.
    pub fn is_allowed(self) -> bool {
        matches!(self, Self::AllowedByRule(_) | Self::AllowedWithinOwner | Self::AllowedToOutlet)
    }

    /// The rule that decided.
    pub fn rule(self) -> Option<RuleId> {
        match self {
            Self::AllowedByRule(id) | Self::DeniedByRule(id) => Some(id),
            Self::AllowedWithinOwner | Self::AllowedToOutlet | Self::DeniedAcrossOwners => None,
        }
    }
}

impl RuleId {
    /// The rule of this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl Effect {
    /// The word: `allow`, `deny`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl<'a> From<&'a CapsuleRecord> for Party<'a> {
    fn from(record: &'a CapsuleRecord) -> Self {
        Self { owner: &record.owner, name: &record.name }
    }
}

impl FromStr for Selector {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let bad = || RuleError::Selector(text.chars().take(2 * NAME_BYTES_MAX).collect());
        let (owner, name) = text.split_once('/').ok_or_else(bad)?;
        let owner = match owner {
            "*" => None,
            owner => Some(owner.parse().map_err(|_| bad())?),
        };
        let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '*');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(allowed) {
            return Err(bad());
        }
        Ok(Self { owner, name: NamePattern(name.into()) })
    }
}

impl FromStr for Ports {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let bad = || RuleError::Ports(text.chars().take(32).collect());
        if text == "*" {
            return Ok(Self::ALL);
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.parse().ok().filter(|port| *port > 0);
        Self::new(port(first).ok_or_else(bad)?, port(last).ok_or_else(bad)?).ok_or_else(bad)
    }
}

impl FromStr for RuleId {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        text.parse().map(Self).map_err(|_| RuleError::Id(text.chars().take(32).collect()))
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = self.owner.as_ref().map_or("*", Owner::as_str);
        write!(f, "{owner}/{}", self.name.0)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ends() {
            _ if *self == Self::ALL => f.pad("*"),
            (first, last) if first == last => first.fmt(f),
            (first, last) => f.pad(&format!("{first}-{last}")),
        }
    }
}

impl fmt::Display for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} to {}", self.effect, self.from, self.to)?;
        if self.ports == Ports::ALL { Ok(()) } else { write!(f, " at port {}", self.ports) }
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllowedByRule(id) => write!(f, "allowed by rule {id}"),
            Self::AllowedWithinOwner => {
                f.write_str("allowed: the owners are the same, and no rule denies it")
            }
            Self::AllowedToOutlet => {
                f.write_str("allowed from capsules on that host: it is an outlet, and no rule denies it")
            }
            Self::DeniedByRule(id) => write!(f, "denied by rule {id}"),
            Self::DeniedAcrossOwners => f.write_str("denied: the owners differ, and no rule allows it"),
        }
    }
}

#[cfg(test)]
mod tests;
