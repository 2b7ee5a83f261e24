//! Beside other directories: taking up what they committed, and going back when they were faster.

use std::collections::HashSet;

use overlay_proto::{CapsuleId, HostName};

use super::{Before, Engine, Now};
use crate::engine::{Batch, Update};
use crate::extras::ExtraRecord;
use crate::registry::{HostEntry, Registry};
use crate::store::{StoredHost, Write};

impl Engine {
    /// What was decided since the last time holds: there is no way back.
    pub fn settle(&mut self) {
        self.before = Before { locator_next: self.locator_next, ..Before::default() };
    }

    /// Goes back to what was committed, after a commit of this batch came to nothing.
    pub fn undo(&mut self, batch: &Batch, committed: &Registry) {
        let (mut capsules, mut hosts, mut rules) = (HashSet::new(), HashSet::new(), HashSet::new());
        for update in &batch.updates {
            match update {
                Update::Capsule(record) => _ = capsules.insert(record.id),
                Update::CapsuleRemoved(id) => _ = capsules.insert(*id),
                Update::Extras { id, .. } => _ = capsules.insert(*id),
                Update::Host(HostEntry { name, .. })
                | Update::HostRemoved(name)
                | Update::HostOwners(name, _)
                | Update::Seen(name, _) => {
                    hosts.insert(name.clone());
                }
                Update::Rule(rule) => _ = rules.insert(rule.id),
                Update::RuleRemoved(id) => _ = rules.insert(*id),
                // Hosts assert to a directory that serves alone, which loads everything in place of going back.
                Update::Revision(_) | Update::Asserting(_) | Update::Settled => {}
            }
        }
        // All go before any comes back: names and locators may have changed hands.
        capsules.iter().for_each(|id| drop(self.working.remove_capsule(*id)));
        for record in capsules.iter().filter_map(|id| committed.capsule(*id)) {
            self.working.put_capsule(record.clone());
            self.working.put_extras(record.id, committed.extras(record.id).to_vec());
        }
        for name in &hosts {
            self.working.remove_host(name);
            committed.host(name).into_iter().for_each(|entry| self.working.put_host(entry.clone()));
            self.working
                .put_host_owners(name.clone(), committed.host_owners(name).unwrap_or_default().to_vec());
        }
        rules.iter().for_each(|id| drop(self.working.policy.remove(*id)));
        for rule in committed.policy.rules().iter().filter(|rule| rules.contains(&rule.id)) {
            self.working.policy.put(rule.clone());
        }
        self.working.revision = committed.revision;
        for write in &batch.writes {
            if let Write::TokenSpent(token) = write {
                self.spent.remove(&token.nonce);
            }
        }
        let Before { locator_next, spent, leases } = std::mem::take(&mut self.before);
        self.spent.extend(spent.into_iter().map(|token| (token.nonce, token)));
        for (host, renewed) in leases {
            self.leases.renew(&host, renewed);
        }
        self.locator_next = locator_next;
        self.settle();
    }

    /// Takes up what another directory committed, step by step as it did. What comes of it is to be published; it is in
    /// the store already. The revisions are the same as there, since whatever follows from a write follows from it here.
    pub fn follow(&mut self, writes: Vec<Write>, now: Now) -> Batch {
        for write in writes {
            self.follow_one(write, now);
        }
        self.settle();
        Batch { writes: Vec::new(), ..self.take_batch() }
    }

    fn follow_one(&mut self, write: Write, now: Now) {
        match write {
            Write::Revision(revision) if revision > self.working.revision => {
                self.working.revision = revision;
                self.batch.begin(revision);
            }
            // Reached by the write before.
            Write::Revision(_) => {}
            Write::LocatorNext(next) => self.locator_next = next,
            Write::Capsule(record) => self.put_capsule(*record),
            Write::CapsuleRemoved(id) => {
                if let Some(record) = self.working.remove_capsule(id) {
                    self.working.revision += 1;
                    self.batch.capsule_removed(self.working.revision, id, record.name);
                }
            }
            Write::Host(host) => self.follow_host(host, now),
            Write::HostRemoved(name) => {
                self.leases.remove(&name);
                self.working.remove_host(&name);
                self.working.revision += 1;
                self.batch.host_removed(self.working.revision, name.clone());
                self.show_anew(&name);
            }
            Write::HostOwners(name, owners) => {
                self.working.put_host_owners(name.clone(), owners.clone());
                self.batch.host_owners(name, owners);
            }
            Write::TokenSpent(token) => drop(self.spent.insert(token.nonce, token)),
            Write::TokenForgotten(nonce) => drop(self.spent.remove(&nonce)),
            Write::Rule(rule) => {
                self.working.policy.put(rule.clone());
                self.working.revision += 1;
                self.batch.rule(self.working.revision, rule);
            }
            Write::RuleRemoved(id) => self.take_rule(id),
            Write::Extras(id, records) => self.follow_extras(id, records),
            // Never there where several serve.
            Write::Restored(_) => {}
        }
    }

    fn follow_extras(&mut self, id: CapsuleId, records: Vec<ExtraRecord>) {
        // What a capsule had goes with it, and that is no change of its own.
        let Some(name) = self.working.capsule(id).map(|record| record.name.clone()) else { return };
        self.working.put_extras(id, records.clone());
        self.working.revision += 1;
        self.batch.extras(self.working.revision, id, name, records);
    }

    fn follow_host(&mut self, host: StoredHost, now: Now) {
        let StoredHost { name, operator, address, alive } = host;
        let (was_alive, seen_before) = match self.working.host(&name) {
            Some(entry) => (entry.alive, entry.last_seen),
            None => (false, now.wall),
        };
        if alive {
            self.leases.renew(&name, now.clock);
        } else {
            self.leases.remove(&name);
        }
        let last_seen = if alive { now.wall } else { seen_before };
        self.put_host(HostEntry { name: name.clone(), operator, address, alive, last_seen });
        if alive != was_alive {
            self.show_anew(&name);
        }
    }

    /// Other directories heard of these hosts.
    pub fn hear_of(&mut self, hosts: &[HostName], now: Now) -> Batch {
        for host in hosts {
            // Whoever was taken for silent is not alive by a word that came late: it renews again, and that is committed.
            if self.working.host(host).is_some_and(|entry| entry.alive) {
                self.leases.renew(host, now.clock);
                self.working.touch(host, now.wall);
                self.batch.seen(host, now.wall);
            }
        }
        self.take_batch()
    }

    /// It could not be heard of anybody: all leases are fresh.
    pub fn forgive(&mut self, now: Now) {
        self.leases.renew_all(now.clock);
    }
}

#[cfg(test)]
mod tests;
