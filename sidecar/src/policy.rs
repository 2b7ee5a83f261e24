//! The policy as this host knows it, and what came of it: connects that were denied, sessions that were ended.
//!
//! It is enforced where a session arrives. The directory tells of changes by its watch; what this host would deny it asks
//! about first, since the watch may be late, so that a rule holds from the moment at which it was made.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, RwLock};
use std::time::SystemTime;

use directory_api::policy::{Judgement, Party};
use directory_api::{CapsuleRecord, Client, Policy, Rule, RuleId, RuleSet};
use overlay_proto::CapsuleId;

use crate::limits::POLICY_ASK_PAUSE;
use crate::places::asking::Asking;

/// The policy, and what this host did by it since the sidecar's start.
pub struct Enforcement {
    known: RwLock<Option<Known>>,
    /// Rises with every change, so that a half sees that it has not been judged by the newest rules.
    changes: AtomicU64,
    on_change: OnceLock<Box<dyn Fn() + Send + Sync>>,
    asking: Asking,
    directory: Client,
    totals: Counts,
}

struct Known {
    policy: Policy,
    revision: u64,
}

/// What the policy did to one capsule, or to all on this host.
#[derive(Debug, Default)]
pub struct Counts {
    denied_in: AtomicU64,
    denied_out: AtomicU64,
    ended: AtomicU64,
    last: Mutex<Option<Denial>>,
}

/// The latest connect that was denied.
#[derive(Debug, Clone)]
pub struct Denial {
    /// Who was connecting.
    pub from: CapsuleId,
    /// To whom.
    pub to: CapsuleId,
    /// At which port.
    pub port: u16,
    /// When.
    pub at: SystemTime,
    /// Why.
    pub judgement: Judgement,
}

/// What the policy did, in numbers.
#[derive(Debug, Clone, Default)]
pub struct Counted {
    /// Connects to the capsule that were denied.
    pub denied_in: u64,
    /// Connects of the capsule that were denied.
    pub denied_out: u64,
    /// Sessions with the capsule's server that a change ended.
    pub ended: u64,
    /// The latest connect that was denied.
    pub last: Option<Denial>,
}

impl Enforcement {
    /// Knows nothing yet.
    pub fn new(directory: Client) -> Self {
        Self {
            known: RwLock::default(),
            changes: AtomicU64::new(0),
            on_change: OnceLock::new(),
            asking: Asking::default(),
            directory,
            totals: Counts::default(),
        }
    }

    /// Says who is told when rules changed.
    pub fn on_change(&self, told: impl Fn() + Send + Sync + 'static) {
        let _ = self.on_change.set(Box::new(told));
    }

    /// How often the rules changed.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The rules, once they are known.
    pub fn rules(&self) -> Option<Vec<Rule>> {
        self.read().as_ref().map(|known| known.policy.rules().to_vec())
    }

    /// What the rules say of a connect; `None` while they are not known.
    pub fn judge(&self, from: &CapsuleRecord, to: &CapsuleRecord, port: u16) -> Option<Judgement> {
        self.read().as_ref().map(|known| known.policy.judge(Party::from(from), Party::from(to), port))
    }

    /// The same, of rules no older than the question when it is denied. When the directory is away, what was known last
    /// counts.
    pub async fn judge_now(&self, from: &CapsuleRecord, to: &CapsuleRecord, port: u16) -> Option<Judgement> {
        let known = self.judge(from, to, port);
        if known.is_some_and(Judgement::is_allowed) {
            return known;
        }
        self.refresh().await;
        self.judge(from, to, port)
    }

    /// The watch begins, or begins anew: these are all.
    pub fn begin(&self, revision: u64, rules: Vec<Rule>) {
        self.change(|known| {
            let policy = Policy::new(rules);
            let changed = known.as_ref().is_none_or(|old| old.policy != policy);
            *known = Some(Known { policy, revision });
            changed
        });
    }

    /// The watch says that there is a new rule.
    pub fn put(&self, revision: u64, rule: Rule) {
        self.step(revision, |policy| policy.put(rule));
    }

    /// The watch says that there is a rule less.
    pub fn remove(&self, revision: u64, id: RuleId) {
        self.step(revision, |policy| drop(policy.remove(id)));
    }

    /// Takes rules that came as an answer.
    pub fn take(&self, set: RuleSet) {
        self.change(|known| {
            if known.as_ref().is_some_and(|old| old.revision > set.revision) {
                return false;
            }
            let policy = Policy::new(set.rules);
            let changed = known.as_ref().is_none_or(|old| old.policy != policy);
            *known = Some(Known { policy, revision: set.revision });
            changed
        });
    }

    /// What was done, all capsules of this host together.
    pub fn totals(&self) -> &Counts {
        &self.totals
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Option<Known>> {
        self.known.read().expect("no panics under this lock")
    }

    /// An answer may have overtaken the watch.
    fn step(&self, revision: u64, step: impl FnOnce(&mut Policy)) {
        self.change(|known| match known {
            Some(known) if known.revision < revision => {
                step(&mut known.policy);
                known.revision = revision;
                true
            }
            Some(_) | None => false,
        });
    }

    fn change(&self, change: impl FnOnce(&mut Option<Known>) -> bool) {
        if !change(&mut self.known.write().expect("no panics under this lock")) {
            return;
        }
        self.changes.fetch_add(1, Ordering::AcqRel);
        if let Some(told) = self.on_change.get() {
            told();
        }
    }

    /// Asks the directory, unless somebody has since this call began.
    async fn refresh(&self) {
        let question = async {
            match self.directory.rules().await {
                Ok(set) => self.take(set),
                Err(error) => tracing::debug!(%error, "the directory was asked for the policy in vain"),
            }
        };
        self.asking.ask(POLICY_ASK_PAUSE, question).await;
    }
}

impl Counts {
    /// A connect that arrived was denied.
    pub fn denied_in(&self, denial: Denial) {
        self.denied_in.fetch_add(1, Ordering::Relaxed);
        self.note(denial);
    }

    /// A connect of a capsule here was denied.
    pub fn denied_out(&self, denial: Denial) {
        self.denied_out.fetch_add(1, Ordering::Relaxed);
        self.note(denial);
    }

    /// A session was ended.
    pub fn ended(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// The numbers.
    pub fn counted(&self) -> Counted {
        Counted {
            denied_in: self.denied_in.load(Ordering::Relaxed),
            denied_out: self.denied_out.load(Ordering::Relaxed),
            ended: self.ended.load(Ordering::Relaxed),
            last: self.last.lock().expect("no panics under this lock").clone(),
        }
    }

    fn note(&self, denial: Denial) {
        *self.last.lock().expect("no panics under this lock") = Some(denial);
    }
}

#[cfg(test)]
mod tests;
