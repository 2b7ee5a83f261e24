//! What one line says.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use directory_api::{CapsuleRecord, Change, Person, outside};
use overlay_proto::{CapsuleId, HostName, Owner};
use serde::{Deserialize, Serialize};

use crate::engine::{Batch, Update};
use crate::extras::ExtraRecord;
use crate::registry::HostEntry;

/// One fact that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, milliseconds since 1970 in UTC.
    pub at_ms: u64,
    /// The revision after the command; `None` for what changes no fact.
    pub revision: Option<u64>,
    /// Who: the host that the certificate names, or who else.
    pub by: String,
    /// The person it goes back to: as a host says, which can't be proven, or as the kernel says of who ran a command
    /// here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_by: Option<AskedBy>,
    /// By which request.
    pub verb: String,
    /// What kind of fact: `capsule`, `host`, `rule`, `mesh`.
    pub kind: String,
    /// Its name, or number.
    pub name: String,
    /// What holds since.
    pub text: String,
}

/// A person, as [`directory_api::Person`] has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedBy {
    /// The host on which the command was typed; `None` on the directory's own machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The user number.
    pub uid: u32,
    /// Its name there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Who logged in, where that is another user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
}

/// Who changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// A host, by its certificate.
    Host(HostName),
    /// A host that has a token and no certificate yet.
    Joining(HostName),
    /// The directory itself: time has passed, or a commit failed.
    Directory,
    /// Whoever has a key for updates by DNS.
    Key {
        /// The key's name.
        name: String,
        /// Whose capsules it may change.
        owner: Owner,
    },
    /// Somebody with access to the data directory, on the command line.
    Operator,
}

impl Entry {
    /// An entry about anything.
    pub fn new(
        at: SystemTime,
        by: &By,
        verb: &str,
        kind: &str,
        name: impl fmt::Display,
        text: String,
    ) -> Self {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            at_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            revision: None,
            by: by.to_string(),
            asked_by: None,
            verb: verb.to_owned(),
            kind: kind.to_owned(),
            name: name.to_string(),
            text,
        }
    }
}

impl Entry {
    /// An entry about a command on the data directory, with whoever runs this process.
    pub fn of_operator(verb: &str, kind: &str, name: impl fmt::Display, text: String) -> Self {
        let uid = rustix::process::getuid().as_raw();
        let person = Person::of_process(uid, None, None);
        Self::new(SystemTime::now(), &By::Operator, verb, kind, name, text).asked_by(Some(&person))
    }

    /// The same entry, with the person that it goes back to.
    #[must_use]
    pub fn asked_by(mut self, person: Option<&Person>) -> Self {
        self.asked_by = person.map(|person| AskedBy {
            host: person.host.as_ref().map(ToString::to_string),
            uid: person.uid,
            user: person.user.clone(),
            login: person.login.clone(),
        });
        self
    }
}

/// What a command changed: the updates of a batch from the `first` on.
pub fn entries(at: SystemTime, by: &By, verb: &str, batch: &Batch, first: usize) -> Vec<Entry> {
    let updates = batch.updates.get(first..).unwrap_or_default();
    let revision = updates.iter().rev().find_map(|update| match update {
        Update::Revision(revision) => Some(*revision),
        Update::Capsule(_)
        | Update::CapsuleRemoved(_)
        | Update::Host(_)
        | Update::HostRemoved(_)
        | Update::HostOwners(..)
        | Update::Rule(_)
        | Update::RuleRemoved(_)
        | Update::Seen(..)
        | Update::Asserting(_)
        | Update::Settled
        | Update::Extras { .. } => None,
    });
    let entry = |kind: &str, name: &dyn fmt::Display, text: String| {
        Some(Entry { revision, ..Entry::new(at, by, verb, kind, name, text) })
    };
    let of = |update: &Update| match update {
        Update::Revision(_) | Update::Seen(..) => None,
        Update::Capsule(record) => entry("capsule", &record.name, capsule(record)),
        Update::CapsuleRemoved(id) => entry("capsule", &name_of(batch, *id), format!("removed; id {id}")),
        Update::Host(host_entry) => entry("host", &host_entry.name, host(host_entry)),
        Update::HostRemoved(name) => entry("host", name, "removed".into()),
        Update::HostOwners(name, whose) => entry("host", name, owners(whose)),
        Update::Rule(rule) => entry("rule", &rule.id, rule.terms.to_string()),
        Update::RuleRemoved(id) => entry("rule", id, "removed".into()),
        Update::Extras { name, records, .. } => entry("capsule", name, extras(records)),
        Update::Asserting(asserting) => entry("mesh", &"restore", awaited(&asserting.missing())),
        Update::Settled => entry("mesh", &"restore", "settled: every host was heard or declared gone".into()),
    };
    updates.iter().filter_map(of).collect()
}

fn extras(records: &[ExtraRecord]) -> String {
    let texts: Vec<_> = records.iter().map(ToString::to_string).collect();
    match texts.is_empty() {
        true => "no records of its owner's".to_owned(),
        false => format!("records of its owner's: {}", texts.join("; ")),
    }
}

/// Whose capsules a host may register.
pub fn owners(owners: &[Owner]) -> String {
    let (outside, others): (Vec<_>, Vec<_>) =
        owners.iter().map(Owner::as_str).partition(|owner| *owner == outside::OUTSIDE);
    let whose = if others.is_empty() { "anybody".to_owned() } else { others.join(", ") };
    format!("capsules of {whose}{}", if outside.is_empty() { "" } else { ", gateway" })
}

fn awaited(missing: &[HostName]) -> String {
    match missing {
        [] => "waits for no host".to_owned(),
        hosts => {
            let names: Vec<_> = hosts.iter().map(HostName::as_str).collect();
            format!("waits for {}", names.join(", "))
        }
    }
}

fn capsule(record: &CapsuleRecord) -> String {
    let offered = match &record.offer {
        Some(offer) => format!(", offered to {}", offer.target),
        None => String::new(),
    };
    let CapsuleRecord { id, owner, host, generation, state, .. } = record;
    format!("{state} at {host}, generation {generation}{offered}; owner {owner}, id {id}")
}

fn host(entry: &HostEntry) -> String {
    let alive = if entry.alive { "alive" } else { "silent" };
    let address = entry.address.map_or_else(|| "no address yet".to_owned(), |address| address.to_string());
    let operator = if entry.operator { "operator" } else { "no operator" };
    format!("{alive}, {address}, {operator}")
}

/// The name that a removed capsule had.
fn name_of(batch: &Batch, removed: CapsuleId) -> String {
    let name = batch.changes.iter().rev().find_map(|change| match change {
        Change::CapsuleRemoved { id, name, .. } if *id == removed => Some(name.to_string()),
        Change::CapsuleRemoved { .. }
        | Change::Snapshot { .. }
        | Change::Capsule { .. }
        | Change::Host { .. }
        | Change::HostRemoved { .. }
        | Change::Rule { .. }
        | Change::RuleRemoved { .. } => None,
    });
    name.unwrap_or_else(|| removed.to_string())
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => write!(f, "host {host}"),
            Self::Joining(host) => write!(f, "joining {host}"),
            Self::Directory => f.write_str("directory"),
            Self::Key { name, owner } => write!(f, "key {name} of {owner}"),
            Self::Operator => f.write_str("operator"),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let revision = self.revision.map_or_else(|| "-".to_owned(), |revision| format!("r{revision}"));
        let Self { by, verb, kind, name, text, .. } = self;
        let person = match &self.asked_by {
            // A host's word is marked as such.
            Some(person) if person.host.is_some() => format!(", for {person} (it says)"),
            Some(person) => format!(", {person}"),
            None => String::new(),
        };
        write!(f, "{}  {revision}  {by}{person}  {verb}  {kind} {name}: {text}", Utc(self.at_ms))
    }
}

impl fmt::Display for AskedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => write!(f, "{user} uid {}", self.uid)?,
            None => write!(f, "uid {}", self.uid)?,
        }
        if let Some(login) = &self.login {
            write!(f, " logged in as {login}")?;
        }
        match &self.host {
            Some(host) => write!(f, " at {host}"),
            None => Ok(()),
        }
    }
}

/// A time as RFC 3339 has it, with milliseconds.
struct Utc(u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, milliseconds) = (self.0 / 1000, self.0 % 1000);
        let (days, of_day) = (seconds / 86_400, seconds % 86_400);
        // Days are counted in eras of 400 years that begin with a first of March.
        let shifted = days + 719_468;
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
    }
}
