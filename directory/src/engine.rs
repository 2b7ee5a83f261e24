//! What each change to the facts does: checks, then writes, changes for watchers, and an answer. No IO, no randomness;
//! the time is an argument.
//!
//! ```text
//!  command ─► handle ─► working registry (ahead) ─┐
//!                └────► batch: writes, updates ───┴─► commit ok ─► published registry, watchers, answers
//!                                                     ├── failed ─► recover: working registry as it was, refusals
//!                                                     └── another directory was faster ─► undo, follow, handle again
//! ```

mod asserting;
mod batch;
mod command;
mod following;
mod hosts;
mod rules;
mod zone_update;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use directory_api::{ApiError, Assertion, CapsuleRecord, CapsuleState, LookupKey, Policy, Response, outside};
use overlay_proto::{CapsuleId, CapsuleName, Generation, HostName};

use crate::lease::Leases;
use crate::locators::Pools;
use crate::placement;
use crate::registry::{HostEntry, Registry};
use crate::store::{Contents, SpentToken, StoredHost, Write};

pub use batch::{Batch, Update};
pub use command::{Command, Now, Registration};
pub use zone_update::Verdict;

/// Names that the zone needs for itself.
const NAMES_RESERVED: [&str; 4] = ["directory", "hosts", "localhost", "ns"];

/// What the operator decided.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Where locators come from.
    pub pools: Pools,
    /// Most capsules of one owner.
    pub owner_capsules_max: usize,
}

/// The facts ahead of the store, and the changes between the two.
pub struct Engine {
    rules: Rules,
    working: Registry,
    leases: Leases,
    spent: BTreeMap<[u8; 16], SpentToken>,
    locator_next: u64,
    /// What hosts have asserted since the restore; not kept, they say it again.
    assertions: BTreeMap<HostName, Assertion>,
    batch: Batch,
    before: Before,
}

/// What an undo needs beside the facts that were committed.
#[derive(Debug, Default)]
struct Before {
    locator_next: u64,
    /// Tokens that were forgotten.
    spent: Vec<SpentToken>,
    /// Leases that were ended, and when they were renewed last.
    leases: Vec<(HostName, Instant)>,
}

impl Engine {
    /// Begins with what the store holds. Every host that was up has a fresh lease, and the revision rises by one, so
    /// that watchers from before begin anew with a snapshot.
    pub fn new(rules: Rules, contents: Contents, lease: Duration, now: Now) -> Self {
        let mut engine = Self::beside(rules, contents, lease, now);
        engine.working.revision += 1;
        engine.batch.begin(engine.working.revision);
        engine
    }

    /// The same beside other directories, which may have told watchers of this revision already.
    pub fn beside(rules: Rules, contents: Contents, lease: Duration, now: Now) -> Self {
        let mut engine = Self {
            rules,
            working: Registry::default(),
            leases: Leases::new(lease, [], now.clock),
            spent: BTreeMap::new(),
            locator_next: 0,
            assertions: BTreeMap::new(),
            batch: Batch::default(),
            before: Before::default(),
        };
        engine.recover(contents, &Registry::default(), now);
        engine
    }

    /// Goes back to what the store holds, after a commit failed. A host that came or went with that commit is as before it,
    /// and comes or goes once more; when a host was seen last is what everybody was shown.
    pub fn recover(&mut self, contents: Contents, published: &Registry, now: Now) {
        let mut registry = Registry::at(contents.revision);
        for host in contents.hosts {
            let StoredHost { name, operator, address, alive } = host;
            if !alive {
                self.leases.remove(&name);
            } else if !self.leases.is_live(&name) {
                self.leases.renew(&name, now.clock);
            }
            let last_seen = published.host(&name).map_or(now.wall, |entry| entry.last_seen);
            registry.put_host(HostEntry { name, operator, address, alive, last_seen });
        }
        for record in contents.capsules {
            registry.put_capsule(record);
        }
        for (name, owners) in contents.host_owners {
            registry.put_host_owners(name, owners);
        }
        for (id, records) in contents.extras {
            registry.put_extras(id, records);
        }
        registry.policy = Policy::new(contents.rules);
        self.working = registry;
        self.spent = contents.spent.into_iter().map(|token| (token.nonce, token)).collect();
        self.locator_next = contents.locator_next;
        self.take_up_restore(contents.restored);
        self.batch = Batch::default();
        self.settle();
    }

    /// The facts, ahead of the store.
    pub fn registry(&self) -> &Registry {
        &self.working
    }

    /// What will have to be committed and then published.
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// What has to be committed and then published.
    pub fn take_batch(&mut self) -> Batch {
        std::mem::take(&mut self.batch)
    }

    /// Carries out one command.
    ///
    /// # Errors
    /// Says why it is refused; nothing is changed then.
    pub fn handle(&mut self, command: Command, now: Now) -> Result<Response, ApiError> {
        self.check_settled(&command)?;
        match command {
            Command::Spend { token, key_hash } => self.spend(&token, key_hash, now),
            Command::Expire => Ok(self.expire(now)),
            Command::Resign => Ok(self.resign()),
            Command::TryStore => {
                self.batch.begin(self.working.revision);
                Ok(Response::Done)
            }
            Command::RenewLease { caller, address, capsules } => {
                self.renew_lease(&caller, address, &capsules, now)
            }
            Command::Readmit { caller } => self.readmit(&caller, now),
            Command::Assert { caller, assertion } => self.assert(&caller, assertion, now),
            Command::RemoveHost { caller, name, force } => self.remove_host(&caller, &name, force, now),
            Command::SetRule { caller, terms } => self.set_rule(&caller, terms, now),
            Command::UpdateZone { update, verdict, .. } => self.update_zone(&update, &verdict),
            Command::RemoveRule { caller, id } => self.remove_rule(&caller, id),
            Command::TakeOver { caller, capsule, takeover } => self.take_over(&caller, capsule, &takeover),
            Command::Register { caller, registration } => self.register(&caller, registration, now),
            Command::Offer { caller, capsule, offer } => {
                self.check_may_leave(capsule)?;
                if self.working.host(&offer.target).and_then(HostEntry::shown).is_none() {
                    return Err(ApiError::UnknownHost { name: offer.target.to_string() });
                }
                self.place(&caller, capsule, |record| placement::offer(record, &caller, &offer))
            }
            Command::Claim { caller, capsule, offer, key } => {
                self.place(&caller, capsule, |record| placement::claim(record, &caller, offer, &key))
            }
            Command::Revoke { caller, capsule, offer } => {
                self.place(&caller, capsule, |record| placement::revoke(record, &caller, offer))
            }
            Command::Suspend { caller, capsule, suspension } => {
                self.check_may_leave(capsule)?;
                self.place(&caller, capsule, |record| {
                    placement::suspension::suspend(record, &caller, &suspension, now.wall)
                })
            }
            Command::Withdraw { caller, capsule, generation, suspension } => {
                self.place(&caller, capsule, |record| {
                    placement::suspension::withdraw(record, &caller, generation, suspension)
                })
            }
            Command::Resume { caller, capsule, generation, suspension, key } => {
                self.place(&caller, capsule, |record| {
                    placement::suspension::resume(record, &caller, generation, suspension, &key)
                })
            }
            Command::SetState { caller, capsule, generation, state } => {
                self.place(&caller, capsule, |record| {
                    placement::set_state(record, &caller, generation, state)
                })
            }
            Command::Remove { caller, capsule, generation } => self.remove(&caller, capsule, generation),
        }
    }

    /// The zones' records were signed anew: secondaries learn it by the serial.
    fn resign(&mut self) -> Response {
        self.working.revision += 1;
        self.batch.begin(self.working.revision);
        Response::Done
    }

    /// One step of the placement: from the record that is to the record that it makes.
    fn place(
        &mut self,
        caller: &HostName,
        capsule: CapsuleId,
        step: impl FnOnce(&CapsuleRecord) -> Result<CapsuleRecord, ApiError>,
    ) -> Result<Response, ApiError> {
        self.check_caller(caller)?;
        let record = self.working.capsule(capsule).ok_or_else(|| unknown(capsule))?;
        let after = step(record)?;
        if after != *record {
            self.put_capsule(after.clone());
        }
        Ok(Response::Capsule(Box::new(self.working.shown(&after))))
    }

    fn register(&mut self, caller: &HostName, new: Registration, now: Now) -> Result<Response, ApiError> {
        self.check_caller(caller)?;
        if let Some(record) = self.working.capsule_named(&new.name) {
            let again =
                record.registration == new.nonce && record.host == *caller && record.owner == new.owner;
            if again {
                return Ok(Response::Capsule(Box::new(self.working.shown(record))));
            }
            return Err(ApiError::NameTaken { name: new.name.to_string() });
        }
        check_name(&new.name)?;
        self.check_owner(caller, &new.owner)?;
        if !outside::may_be_called(&new.name, &new.owner, caller) {
            let whose = if new.owner.as_str() == outside::HOST { "hosts' outlets" } else { "gateways" };
            let reason = format!("the owner {} is that of {whose}: choose another owner", new.owner);
            return Err(ApiError::Denied { reason });
        }
        // Of outlets there is one for each host, however many hosts there are.
        let counted = new.owner.as_str() != outside::HOST;
        if counted && self.working.owned_by(&new.owner) >= self.rules.owner_capsules_max {
            let limit = u64::try_from(self.rules.owner_capsules_max).unwrap_or(u64::MAX);
            return Err(ApiError::QuotaExceeded { owner: new.owner.to_string(), limit });
        }
        let free = |locators: &_| self.working.is_free(locators);
        let allocated = self.rules.pools.allocate(self.locator_next, free);
        let (number, locators) = allocated.ok_or(ApiError::LocatorsExhausted)?;
        self.locator_next = number + 1;
        self.batch.write(Write::LocatorNext(self.locator_next));
        let record = CapsuleRecord {
            id: new.id,
            name: new.name,
            owner: new.owner,
            locators,
            host: caller.clone(),
            generation: Generation::new(1),
            state: CapsuleState::Stopped,
            offer: None,
            last_outcome: None,
            suspension: None,
            created_at: now.wall,
            registration: new.nonce,
        };
        self.put_capsule(record.clone());
        Ok(Response::Capsule(Box::new(record)))
    }

    fn remove(
        &mut self,
        caller: &HostName,
        id: CapsuleId,
        generation: Generation,
    ) -> Result<Response, ApiError> {
        self.check_caller(caller)?;
        let record = self.working.capsule(id).ok_or_else(|| unknown(id))?;
        placement::check_remove(record, caller, generation, self.working.host(&record.host).is_some())?;
        if record.host != *caller {
            // It lies in a file, or its host was removed.
            self.check_operator(caller)?;
        }
        let name = record.name.clone();
        self.drop_capsule(id, name);
        Ok(Response::Done)
    }

    fn drop_capsule(&mut self, id: CapsuleId, name: CapsuleName) {
        self.working.remove_capsule(id);
        self.working.revision += 1;
        self.batch.capsule_removed(self.working.revision, id, name);
    }

    fn put_capsule(&mut self, record: CapsuleRecord) {
        self.working.put_capsule(record.clone());
        self.working.revision += 1;
        let shown = self.working.shown(&record);
        self.batch.capsule(self.working.revision, record, shown);
    }

    /// A certificate outlives the host's place in the mesh by hours, so it does not suffice.
    fn check_caller(&self, caller: &HostName) -> Result<(), ApiError> {
        if self.working.host(caller).is_some() {
            return Ok(());
        }
        Err(ApiError::NotAMember { host: caller.clone() })
    }
}

fn check_name(name: &CapsuleName) -> Result<(), ApiError> {
    if NAMES_RESERVED.contains(&name.as_str()) {
        return Err(ApiError::NameReserved { name: name.to_string() });
    }
    Ok(())
}

fn unknown(id: CapsuleId) -> ApiError {
    ApiError::UnknownCapsule { what: LookupKey::Id(id).to_string() }
}

#[cfg(test)]
mod tests;
