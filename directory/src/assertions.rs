//! From a backup and what the hosts hold to the facts: what happened between the two is put together again. Pure.
//!
//! ```text
//!  backup: placed at S, g ─┬─ a host holds it at g or higher ───► placed there, at that generation; the highest wins
//!                          ├─ nobody does, it lies in a file ───► stays suspended ┐ at a generation that nobody
//!                          └─ nobody does ──────────────────────► lost            ┘ was ever given
//!  not in the backup, held by a host ──────────────────────────► a capsule that was made since
//! ```
//!
//! * A source that has sent the claim key asserts its offer too, and a target that has got the key but no answer the same
//!   offer: it is open again, and claim and revoke decide as before.
//! * Names and addresses are one capsule's each. Who is held goes before who is not, and who is not in the backup before
//!   who is: it was made later, when the name was free again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::SystemTime;

use directory_api::stored::Restored;
use directory_api::{
    AssertedCapsule, Assertion, CapsuleRecord, CapsuleState, OfferRecord, Outcome, OutcomeRecord,
};
use overlay_proto::{CapsuleId, CapsuleName, Generation, HostName};

/// A restore that is not settled: who has asserted, and what is known by that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asserting {
    /// What the store keeps of it.
    pub restored: Restored,
    asserted: BTreeSet<HostName>,
    held: HashMap<CapsuleId, (HostName, Generation)>,
}

/// What a settled restore changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// Capsules that are not as in the backup.
    pub put: Vec<CapsuleRecord>,
    /// Capsules of the backup whose name or address another one has by now.
    pub removed: Vec<(CapsuleId, CapsuleName)>,
}

/// How sure it is that a capsule is there, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    HeldAndNew,
    Held,
    OnlyInBackup,
}

impl Asserting {
    /// Begins with what the hosts have asserted so far.
    pub fn new(restored: Restored, assertions: &BTreeMap<HostName, Assertion>) -> Self {
        let mut held: HashMap<CapsuleId, (HostName, Generation)> = HashMap::new();
        for (host, capsule) in holdings(assertions) {
            let best = held.entry(capsule.id).or_insert_with(|| (host.clone(), capsule.generation));
            if capsule.generation > best.1 {
                *best = (host.clone(), capsule.generation);
            }
        }
        Self { restored, asserted: assertions.keys().cloned().collect(), held }
    }

    /// The hosts that have not asserted what they hold.
    pub fn missing(&self) -> Vec<HostName> {
        let mut missing = self.restored.awaited.clone();
        missing.retain(|host| !self.asserted.contains(host));
        missing
    }

    /// Whether this host is to assert: it is waited for, or anybody's word would do.
    pub fn asks(&self, host: &HostName) -> bool {
        !self.asserted.contains(host) && (self.restored.awaited.contains(host) || self.missing().is_empty())
    }

    /// Whether everybody was heard, and somebody at all.
    pub fn is_settled(&self) -> bool {
        self.missing().is_empty() && (!self.asserted.is_empty() || self.restored.awaited.is_empty())
    }

    /// Where a capsule is, as far as hosts have asserted it; nothing when the backup knows better.
    pub fn held(&self, record: &CapsuleRecord) -> Option<(&HostName, Generation)> {
        let (host, generation) = self.held.get(&record.id)?;
        let newer = *generation > record.generation;
        (newer || *generation == record.generation && record.suspension.is_none())
            .then_some((host, *generation))
    }
}

/// Puts the facts together. `ahead` is how far the revision is moved on from the backup's: a capsule changes hands at most
/// once with each revision, so a generation that is moved on as far was given to nobody.
pub fn resolve<'a>(
    backup: impl Iterator<Item = &'a CapsuleRecord>,
    assertions: &BTreeMap<HostName, Assertion>,
    ahead: u64,
    now: SystemTime,
) -> Resolution {
    let mut claims = Claims::of(assertions);
    let mut candidates = Vec::new();
    for record in backup {
        let (held, keyed) = claims.take(record.id, Some(&record.host));
        candidates.push((Some(record), known(record, held, keyed, ahead)));
    }
    for id in claims.left() {
        let (held, keyed) = claims.take(id, None);
        candidates.extend(unknown(held, keyed, now).map(|made| (None, made)));
    }
    // The order in which names and addresses are given.
    candidates.sort_by_key(|(_, (standing, record))| {
        (*standing, std::cmp::Reverse(record.generation), *record.id.as_bytes())
    });
    let (mut names, mut v4, mut v6) = (HashSet::new(), HashSet::new(), HashSet::new());
    let mut resolution = Resolution::default();
    for (before, (_, record)) in candidates {
        let taken = names.contains(&record.name)
            || v4.contains(&record.locators.v4)
            || v6.contains(&record.locators.v6);
        if taken {
            resolution.removed.extend(before.map(|record| (record.id, record.name.clone())));
            continue;
        }
        names.insert(record.name.clone());
        v4.insert(record.locators.v4);
        v6.insert(record.locators.v6);
        if before != Some(&record) {
            resolution.put.push(record);
        }
    }
    resolution
}

/// A host's word for one capsule.
type Claim<'a> = (&'a HostName, &'a AssertedCapsule);

/// What hosts say of each capsule.
struct Claims<'a>(HashMap<CapsuleId, Vec<Claim<'a>>>);

impl<'a> Claims<'a> {
    fn of(assertions: &'a BTreeMap<HostName, Assertion>) -> Self {
        let mut claims: HashMap<_, Vec<_>> = HashMap::new();
        for (host, assertion) in assertions {
            for capsule in &assertion.capsules {
                claims.entry(capsule.id).or_default().push((host, capsule));
            }
        }
        Self(claims)
    }

    /// The best word of a host that holds it, and of one that has only got the key. Of two at one generation, which no
    /// directory gives, that of the host in the backup counts, else the first by name.
    fn take(
        &mut self,
        id: CapsuleId,
        in_backup: Option<&HostName>,
    ) -> (Option<Claim<'a>>, Option<Claim<'a>>) {
        let (keyed, held): (Vec<_>, Vec<_>) = self
            .0
            .remove(&id)
            .unwrap_or_default()
            .into_iter()
            .partition(|(host, capsule)| is_keyed(host, capsule));
        let best = |claims: Vec<Claim<'a>>| {
            claims.into_iter().max_by_key(|(host, capsule)| {
                (capsule.generation, in_backup == Some(*host), std::cmp::Reverse((*host).clone()))
            })
        };
        (best(held), best(keyed))
    }

    /// The capsules that were not taken.
    fn left(&self) -> Vec<CapsuleId> {
        self.0.keys().copied().collect()
    }
}

/// Whether the host has the claim key and no answer to its claim: the capsule is not its own yet.
fn is_keyed(host: &HostName, capsule: &AssertedCapsule) -> bool {
    capsule.offer.as_ref().is_some_and(|offer| offer.target == *host)
}

fn holdings(
    assertions: &BTreeMap<HostName, Assertion>,
) -> impl Iterator<Item = (&HostName, &AssertedCapsule)> {
    assertions
        .iter()
        .flat_map(|(host, assertion)| assertion.capsules.iter().map(move |capsule| (host, capsule)))
        .filter(|(host, capsule)| !is_keyed(host, capsule))
}

/// What becomes of a capsule of the backup.
fn known(
    record: &CapsuleRecord,
    held: Option<Claim<'_>>,
    keyed: Option<Claim<'_>>,
    ahead: u64,
) -> (Standing, CapsuleRecord) {
    if let Some((host, capsule)) = held {
        let newer = capsule.generation > record.generation;
        if newer || capsule.generation == record.generation && record.suspension.is_none() {
            return (Standing::Held, placed(record.clone(), host, capsule));
        }
    }
    let generation = Generation::new(record.generation.number().saturating_add(ahead));
    let kept = CapsuleRecord { generation, offer: None, ..record.clone() };
    if kept.suspension.is_some() {
        return (Standing::OnlyInBackup, kept);
    }
    let lost = CapsuleRecord { state: CapsuleState::Lost, ..kept };
    match keyed.filter(|(_, capsule)| capsule.generation >= record.generation) {
        Some((_, capsule)) => (Standing::Held, offered(lost, capsule)),
        None => (Standing::OnlyInBackup, lost),
    }
}

/// A capsule that was made after the backup.
fn unknown(
    held: Option<Claim<'_>>,
    keyed: Option<Claim<'_>>,
    now: SystemTime,
) -> Option<(Standing, CapsuleRecord)> {
    let made = |host: &HostName, capsule: &AssertedCapsule| CapsuleRecord {
        id: capsule.id,
        name: capsule.name.clone(),
        owner: capsule.owner.clone(),
        locators: capsule.locators,
        host: host.clone(),
        generation: capsule.generation,
        state: CapsuleState::Lost,
        offer: None,
        last_outcome: None,
        suspension: None,
        created_at: now,
        registration: [0; 16],
    };
    match (held, keyed) {
        (Some((host, capsule)), _) => {
            Some((Standing::HeldAndNew, placed(made(host, capsule), host, capsule)))
        }
        (None, Some((host, capsule))) => Some((Standing::HeldAndNew, offered(made(host, capsule), capsule))),
        (None, None) => None,
    }
}

/// The capsule as the host holds it.
fn placed(record: CapsuleRecord, host: &HostName, capsule: &AssertedCapsule) -> CapsuleRecord {
    let given = |id| OutcomeRecord {
        offer: id,
        outcome: Outcome::Claimed,
        generation: capsule.generation,
        host: host.clone(),
    };
    let same = capsule.generation == record.generation && *host == record.host;
    let outcome = capsule.given_by.map(given).or_else(|| record.last_outcome.clone().filter(|_| same));
    let held = CapsuleRecord {
        host: host.clone(),
        generation: capsule.generation,
        state: capsule.state,
        offer: None,
        last_outcome: outcome,
        suspension: None,
        ..record
    };
    offered(held, capsule)
}

/// Opens the asserted offer again.
fn offered(record: CapsuleRecord, capsule: &AssertedCapsule) -> CapsuleRecord {
    let Some(offer) = &capsule.offer else { return record };
    let offer = OfferRecord {
        id: offer.id,
        generation: record.generation,
        target: offer.target.clone(),
        claim_key_hash: offer.claim_key_hash,
        state_before: record.state,
    };
    CapsuleRecord { state: CapsuleState::Moving, offer: Some(offer), ..record }
}

#[cfg(test)]
mod tests;
