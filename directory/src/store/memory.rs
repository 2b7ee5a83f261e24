//! A store that forgets, for tests of what stands above it.

use std::collections::BTreeMap;

use super::{Contents, Store, StoreError, Write};

/// Facts in memory.
#[derive(Debug, Default)]
pub struct Memory {
    contents: Contents,
    /// The next commit fails.
    pub fails: bool,
}

impl Store for Memory {
    fn load(&mut self) -> Result<Contents, StoreError> {
        Ok(self.contents.clone())
    }

    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        if std::mem::take(&mut self.fails) {
            return Err(StoreError::Told);
        }
        let Contents { revision, locator_next, capsules, hosts, spent, host_owners, rules, extras, restored } =
            &mut self.contents;
        let mut capsules_by_id: BTreeMap<_, _> =
            capsules.drain(..).map(|record| (record.id, record)).collect();
        let mut hosts_by_name: BTreeMap<_, _> =
            hosts.drain(..).map(|host| (host.name.clone(), host)).collect();
        let mut spent_by_nonce: BTreeMap<_, _> = spent.drain(..).map(|token| (token.nonce, token)).collect();
        let mut rules_by_id: BTreeMap<_, _> = rules.drain(..).map(|rule| (rule.id, rule)).collect();
        let mut owners_by_host: BTreeMap<_, _> = host_owners.drain(..).collect();
        let mut extras_by_id: BTreeMap<_, _> = extras.drain(..).collect();
        for write in writes.iter().cloned() {
            match write {
                Write::Revision(value) => *revision = value,
                Write::LocatorNext(value) => *locator_next = value,
                Write::Capsule(record) => drop(capsules_by_id.insert(record.id, *record)),
                Write::CapsuleRemoved(id) => drop(capsules_by_id.remove(&id)),
                Write::Host(host) => drop(hosts_by_name.insert(host.name.clone(), host)),
                Write::HostRemoved(name) => {
                    hosts_by_name.remove(&name);
                    owners_by_host.remove(&name);
                }
                Write::HostOwners(name, owners) if owners.is_empty() => drop(owners_by_host.remove(&name)),
                Write::HostOwners(name, owners) => drop(owners_by_host.insert(name, owners)),
                Write::TokenSpent(token) => drop(spent_by_nonce.insert(token.nonce, token)),
                Write::TokenForgotten(nonce) => drop(spent_by_nonce.remove(&nonce)),
                Write::Rule(rule) => drop(rules_by_id.insert(rule.id, rule)),
                Write::RuleRemoved(id) => drop(rules_by_id.remove(&id)),
                Write::Extras(id, records) if records.is_empty() => drop(extras_by_id.remove(&id)),
                Write::Extras(id, records) => drop(extras_by_id.insert(id, records)),
                Write::Restored(value) => *restored = value.map(|value| *value),
            }
        }
        capsules.extend(capsules_by_id.into_values());
        hosts.extend(hosts_by_name.into_values());
        spent.extend(spent_by_nonce.into_values());
        host_owners.extend(owners_by_host);
        rules.extend(rules_by_id.into_values());
        extras.extend(extras_by_id);
        Ok(())
    }
}
