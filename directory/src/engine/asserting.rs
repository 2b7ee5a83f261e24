//! After a restore: hosts say what they hold, and nothing changes hands before all of them have.

use std::sync::Arc;

use directory_api::stored::Restored;
use directory_api::{ApiError, AssertedCapsule, Assertion, Response, outside};
use overlay_proto::HostName;

use super::{Command, Engine, Now};
use crate::assertions::{self, Asserting};
use crate::limits::{ASSERTED_NUMBER_MAX, HOST_AWAITED_MAX, RESTORED_REVISIONS_AHEAD};
use crate::registry::HostEntry;

/// The owner whose capsules alone a host may register that was let in again, until a token says more: nobody has it, and
/// no owners at all would mean anybody's.
const OWNER_OF_READMITTED: &str = "nobody";

impl Engine {
    /// Refuses what has to wait until the restore is settled.
    pub(super) fn check_settled(&self, command: &Command) -> Result<(), ApiError> {
        let Some(asserting) = &self.working.asserting else { return Ok(()) };
        match command {
            Command::Spend { .. }
            | Command::Expire
            | Command::Resign
            | Command::TryStore
            | Command::RenewLease { .. }
            | Command::RemoveHost { .. }
            | Command::Readmit { .. }
            | Command::Assert { .. } => Ok(()),
            Command::TakeOver { .. }
            | Command::SetRule { .. }
            | Command::RemoveRule { .. }
            | Command::Register { .. }
            | Command::Offer { .. }
            | Command::Claim { .. }
            | Command::Revoke { .. }
            | Command::Suspend { .. }
            | Command::Withdraw { .. }
            | Command::Resume { .. }
            | Command::SetState { .. }
            | Command::UpdateZone { .. }
            | Command::Remove { .. } => Err(ApiError::Asserting { missing: asserting.missing() }),
        }
    }

    /// Takes over what the store says of a restore.
    pub(super) fn take_up_restore(&mut self, restored: Option<Restored>) {
        self.working.asserting =
            restored.map(|restored| Arc::new(Asserting::new(restored, &self.assertions)));
        if self.working.asserting.is_none() {
            self.assertions.clear();
        }
    }

    /// Lets a host in that the backup does not know: its certificate is of after the backup, so it was one of the mesh
    /// then. What its token said is lost: it is no operator's, and registers nobody's capsules.
    pub(super) fn readmit(&mut self, caller: &HostName, now: Now) -> Result<Response, ApiError> {
        if self.working.host(caller).is_some() {
            return Ok(Response::Done);
        }
        if self.working.asserting.is_none() {
            return Err(ApiError::NotAMember { host: caller.clone() });
        }
        let owner = OWNER_OF_READMITTED.parse();
        let owners = vec![owner.map_err(|_| ApiError::NotAMember { host: caller.clone() })?];
        let entry = HostEntry {
            name: caller.clone(),
            operator: false,
            address: None,
            alive: false,
            last_seen: now.wall,
        };
        self.put_host(entry);
        self.working.put_host_owners(caller.clone(), owners.clone());
        self.batch.host_owners(caller.clone(), owners);
        self.await_hosts(std::slice::from_ref(caller));
        Ok(Response::Done)
    }

    /// Takes a host's word for what it holds; settles the restore when it was the last one.
    pub(super) fn assert(
        &mut self,
        caller: &HostName,
        mut assertion: Assertion,
        now: Now,
    ) -> Result<Response, ApiError> {
        self.check_caller(caller)?;
        // Nobody becomes a gateway by saying so, nor another host's gateway or outlet.
        let named = self.working.host_owners(caller).unwrap_or_default();
        let operator = self.working.host(caller).is_some_and(|host| host.operator);
        assertion.capsules.retain(|held| {
            !outside::is_reserved(&held.owner)
                || outside::may_own(named, operator, &held.owner)
                    && outside::may_be_called(&held.name, &held.owner, caller)
        });
        let Some(asserting) = self.working.asserting.clone() else { return Ok(Response::Done) };
        if assertion.restore != asserting.restored.id {
            let reason = "the assertion is about another restore: renew the lease, and assert again".into();
            return Err(ApiError::Denied { reason });
        }
        let bad = assertion.capsules.iter().find(|capsule| !self.is_credible(capsule));
        if let Some(capsule) = bad {
            let reason = format!("no directory of this mesh gave {} what is asserted of it", capsule.name);
            return Err(ApiError::Malformed { reason });
        }
        if assertion.revision > ASSERTED_NUMBER_MAX {
            return Err(ApiError::Malformed { reason: "no directory was at that revision".into() });
        }
        let known: Vec<_> =
            assertion.hosts.iter().filter(|host| self.working.host(host).is_none()).cloned().collect();
        self.assertions.insert(caller.clone(), assertion);
        self.await_hosts(&known);
        self.look_whether_settled(now);
        Ok(Response::Done)
    }

    /// A host that was declared gone is not waited for.
    pub(super) fn give_up_on(&mut self, host: &HostName, now: Now) -> bool {
        let Some(asserting) = self.working.asserting.clone() else { return false };
        let mut restored = asserting.restored.clone();
        restored.awaited.retain(|awaited| awaited != host);
        if restored == asserting.restored {
            return false;
        }
        self.keep_restored(restored);
        self.look_whether_settled(now);
        true
    }

    fn is_credible(&self, capsule: &AssertedCapsule) -> bool {
        capsule.generation.number() <= ASSERTED_NUMBER_MAX && self.rules.pools.contain(&capsule.locators)
    }

    /// Waits for these hosts too: another one, or themselves, says that they were of the mesh.
    fn await_hosts(&mut self, hosts: &[HostName]) {
        let Some(asserting) = self.working.asserting.clone() else { return };
        let mut restored = asserting.restored.clone();
        for host in hosts {
            if !restored.awaited.contains(host) && restored.awaited.len() < HOST_AWAITED_MAX {
                restored.awaited.push(host.clone());
            }
        }
        self.keep_restored(restored);
    }

    fn keep_restored(&mut self, restored: Restored) {
        let asserting = Arc::new(Asserting::new(restored, &self.assertions));
        self.working.asserting = Some(asserting.clone());
        self.working.revision += 1;
        self.batch.asserting(self.working.revision, asserting);
    }

    /// When everybody was heard, the facts are what the backup and the hosts say together. The revision is moved ahead of
    /// all that anybody has seen, and so are the serial of the zones and what no host holds.
    fn look_whether_settled(&mut self, now: Now) {
        let Some(asserting) = self.working.asserting.clone().filter(|asserting| asserting.is_settled())
        else {
            return;
        };
        let seen = self.assertions.values().map(|assertion| assertion.revision).max().unwrap_or_default();
        let seen = seen.max(self.working.revision);
        let revision = seen + RESTORED_REVISIONS_AHEAD;
        let backup = self.working.capsules();
        let ahead = revision - asserting.restored.revision.min(revision);
        let resolution = assertions::resolve(backup, &self.assertions, ahead, now.wall);
        for (id, _) in &resolution.removed {
            self.working.remove_capsule(*id);
        }
        for record in &resolution.put {
            self.working.put_capsule(record.clone());
        }
        // Each address that was given out since took a revision.
        let given_out = seen - asserting.restored.revision.min(seen);
        self.locator_next = self.rules.pools.advanced(self.locator_next, given_out);
        self.assertions.clear();
        self.working.asserting = None;
        self.working.revision = revision;
        self.batch.settled(revision, resolution, self.locator_next);
    }
}
