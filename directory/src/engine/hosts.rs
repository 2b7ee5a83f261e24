//! Hosts: joining, leases, leaving.

use std::net::SocketAddr;

use directory_api::{
    ApiError, DirectoryAddresses, HeldCapsule, Lease, Response, Restoring, StaleCapsule, Token, outside,
};
use overlay_proto::{CapsuleId, HostName, Owner};

use super::{Engine, Now};
use crate::placement::{self, Takeover};
use crate::registry::HostEntry;
use crate::store::{SpentToken, Write};

impl Engine {
    /// Uses a token up. The same key may ask again: its first answer may have been lost.
    pub(super) fn spend(
        &mut self,
        token: &Token,
        key_hash: [u8; 32],
        now: Now,
    ) -> Result<Response, ApiError> {
        match self.spent.get(&token.nonce) {
            Some(spent) if spent.key_hash != key_hash => return Err(ApiError::TokenUsed),
            Some(_) => return Ok(Response::Done),
            None if token.expires_at <= now.wall => return Err(ApiError::TokenExpired),
            None => {}
        }
        let spent = SpentToken { nonce: token.nonce, expires_at: token.expires_at, key_hash };
        self.batch.write(Write::TokenSpent(spent.clone()));
        self.spent.insert(token.nonce, spent);
        if self.working.host_owners(&token.host).unwrap_or_default() != token.owners {
            self.working.put_host_owners(token.host.clone(), token.owners.clone());
            self.batch.host_owners(token.host.clone(), token.owners.clone());
        }
        let entry = match self.working.host(&token.host) {
            Some(entry) => HostEntry { operator: token.operator, ..entry.clone() },
            None => HostEntry {
                name: token.host.clone(),
                operator: token.operator,
                address: None,
                alive: false,
                last_seen: now.wall,
            },
        };
        self.put_host(entry);
        Ok(Response::Done)
    }

    pub(super) fn renew_lease(
        &mut self,
        caller: &HostName,
        address: SocketAddr,
        capsules: &[HeldCapsule],
        now: Now,
    ) -> Result<Response, ApiError> {
        self.check_caller(caller)?;
        let Some(entry) = self.working.host(caller) else { return Err(ApiError::StoreFailed) };
        let changed = !entry.alive || entry.address != Some(address);
        let returned = !entry.alive;
        let entry = HostEntry { address: Some(address), alive: true, last_seen: now.wall, ..entry.clone() };
        self.leases.renew(caller, now.clock);
        if changed {
            self.put_host(entry.clone());
        } else {
            self.working.touch(caller, now.wall);
            self.batch.seen(caller, now.wall);
        }
        if returned {
            self.show_anew(caller);
        }
        let restoring = self.working.asserting.as_ref().map(|asserting| Restoring {
            id: asserting.restored.id,
            asks: asserting.asks(caller),
            missing: asserting.missing(),
        });
        let stale = match restoring {
            // Who is wrong is known when everybody was heard.
            Some(_) => vec![],
            None => capsules.iter().filter_map(|held| self.reported(caller, held)).collect(),
        };
        let host = entry.shown().ok_or(ApiError::StoreFailed)?;
        Ok(Response::Lease(Lease {
            duration: self.leases.duration(),
            host,
            stale,
            credentials: None,
            restoring,
            directories: DirectoryAddresses::default(),
            locators: self.rules.pools.networks().to_vec(),
        }))
    }

    /// Takes over what a host says of one capsule, or says what is wrong with it.
    fn reported(&mut self, caller: &HostName, held: &HeldCapsule) -> Option<StaleCapsule> {
        let Some(record) = self.working.capsule(held.id) else {
            return Some(StaleCapsule { id: held.id, placed: None });
        };
        match placement::set_state(record, caller, held.generation, held.state) {
            Ok(after) if after == *record => None,
            Ok(after) => {
                self.put_capsule(after);
                None
            }
            Err(ApiError::NotPlacedHere { .. } | ApiError::WrongGeneration { .. }) => {
                let placed = Some((record.host.clone(), record.generation));
                Some(StaleCapsule { id: held.id, placed })
            }
            // A state that no host may give; its place is right.
            Err(_) => None,
        }
    }

    /// Ends leases and forgets tokens whose time is over.
    pub(super) fn expire(&mut self, now: Now) -> Response {
        for host in self.leases.overdue(now.clock) {
            self.end_lease(&host);
            if let Some(entry) = self.working.host(&host).filter(|entry| entry.alive) {
                self.put_host(HostEntry { alive: false, ..entry.clone() });
                self.show_anew(&host);
            }
        }
        let over = |token: &&SpentToken| token.expires_at <= now.wall;
        let forgotten: Vec<_> = self.spent.values().filter(over).map(|token| token.nonce).collect();
        for nonce in forgotten {
            self.before.spent.extend(self.spent.remove(&nonce));
            self.batch.write(Write::TokenForgotten(nonce));
        }
        Response::Done
    }

    /// Ends a host's place in the mesh. What should be up on it is shown as lost from here on; open offers stay, so that
    /// a target that has the key may still claim.
    pub(super) fn remove_host(
        &mut self,
        caller: &HostName,
        name: &HostName,
        force: bool,
        now: Now,
    ) -> Result<Response, ApiError> {
        self.check_operator(caller)?;
        let Some(entry) = self.working.host(name) else {
            // One that only other hosts have spoken of.
            if self.give_up_on(name, now) {
                return Ok(Response::Done);
            }
            return Err(ApiError::UnknownHost { name: name.to_string() });
        };
        if caller == name {
            return Err(ApiError::Denied { reason: "a host is removed by another host".into() });
        }
        if entry.alive && !force {
            return Err(ApiError::HostAlive { host: name.clone() });
        }
        self.end_lease(name);
        self.working.remove_host(name);
        self.working.revision += 1;
        self.batch.host_removed(self.working.revision, name.clone());
        // Nobody else can ever be that gateway, or that outlet.
        let its = self.working.capsules_at(name).filter(|record| record.is_of_its_host());
        let its: Vec<_> = its.map(|record| (record.id, record.name.clone())).collect();
        for (id, name) in its {
            self.drop_capsule(id, name);
        }
        self.show_anew(name);
        self.give_up_on(name, now);
        Ok(Response::Done)
    }

    pub(super) fn take_over(
        &mut self,
        caller: &HostName,
        capsule: CapsuleId,
        takeover: &Takeover,
    ) -> Result<Response, ApiError> {
        self.check_operator(caller)?;
        self.check_may_leave(capsule)?;
        if let Some(record) = self.working.capsule(capsule) {
            self.check_owner(caller, &record.owner)?;
        }
        let alive = |host: &HostName| self.working.host(host).is_some_and(|entry| entry.alive);
        let holder = self.working.capsule(capsule).map(|record| alive(&record.host)).unwrap_or_default();
        self.place(caller, capsule, |record| placement::take_over(record, caller, takeover, holder))
    }

    pub(super) fn check_operator(&self, caller: &HostName) -> Result<(), ApiError> {
        self.check_caller(caller)?;
        if self.working.host(caller).is_some_and(|entry| entry.operator) {
            return Ok(());
        }
        Err(ApiError::Denied { reason: format!("the host {caller} joined without operator rights") })
    }

    /// Whether a host may have capsules of this owner by its own will.
    pub(super) fn check_owner(&self, caller: &HostName, owner: &Owner) -> Result<(), ApiError> {
        let operator = self.working.host(caller).is_some_and(|host| host.operator);
        if outside::may_own(self.working.host_owners(caller).unwrap_or_default(), operator, owner) {
            return Ok(());
        }
        let reason = match owner.as_str() {
            outside::OUTSIDE => {
                format!("the host {caller} may be no gateway: its token was made without --gateway")
            }
            _ => format!("the host {caller} may not run capsules of {owner}: its token names other owners"),
        };
        Err(ApiError::Denied { reason })
    }

    /// What stands for a host's own network is nowhere but there: it neither moves nor lies in a file.
    pub(super) fn check_may_leave(&self, capsule: CapsuleId) -> Result<(), ApiError> {
        match self.working.capsule(capsule) {
            Some(record) if record.is_of_its_host() => {
                let what = if record.is_outside() { "a gateway" } else { "the network of its host" };
                let reason = format!("{} stands for {what}, and stays there", record.name);
                Err(ApiError::Denied { reason })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn put_host(&mut self, entry: HostEntry) {
        self.working.put_host(entry.clone());
        self.working.revision += 1;
        self.batch.host(self.working.revision, entry);
    }

    fn end_lease(&mut self, host: &HostName) {
        let renewed = self.leases.remove(host);
        self.before.leases.extend(renewed.map(|renewed| (host.clone(), renewed)));
    }

    /// Tells watchers of a host's capsules whose state is shown otherwise since the host came or went.
    pub(super) fn show_anew(&mut self, host: &HostName) {
        let all: Vec<_> = self.working.capsules_at(host).map(|record| self.working.shown(record)).collect();
        for shown in all {
            self.working.revision += 1;
            self.batch.shown_anew(self.working.revision, shown);
        }
    }
}
