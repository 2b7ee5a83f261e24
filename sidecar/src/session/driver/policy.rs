//! The policy, which may end a session.

use overlay_proto::Role;

use super::Driver;

impl Driver {
    /// Ends a session that the policy forbids: both programs see a reset. The server's side decides.
    pub(super) fn obey_policy(&mut self) {
        let changes = self.routes.policy_changes();
        let over = self.forbidden || self.linger.is_some();
        if self.half.role() != Role::Acceptor || over || self.judged == Some(changes) {
            return;
        }
        self.judged = Some(changes);
        let Some(judgement) = self.routes.forbids(&self.facts) else { return };
        tracing::info!(session = %self.half.id(), capsule = %self.facts.own, peer = %self.facts.peer,
            port = self.facts.local.port(), %judgement, "a session is ended by the policy");
        self.forbidden = true;
        self.routes.ended_by_policy(&self.facts.own);
        self.half.peer_gone();
    }
}
