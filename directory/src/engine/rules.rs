//! Rules of the policy: operators' hosts make and end them.

use directory_api::policy::Terms;
use directory_api::{ApiError, Response, Rule, RuleId, RuleSet};
use overlay_proto::HostName;

use super::{Engine, Now};
use crate::limits::RULES_MAX;

impl Engine {
    /// Makes a rule hold. One that says the opposite of the same connects ends with it; one that says the same stays.
    pub(super) fn set_rule(
        &mut self,
        caller: &HostName,
        terms: Terms,
        now: Now,
    ) -> Result<Response, ApiError> {
        self.check_operator(caller)?;
        let same = self.working.policy.rules().iter().find(|rule| rule.terms.is_about_the_same(&terms));
        let replaced = match same {
            Some(rule) if rule.terms == terms => return Ok(self.one_rule(rule.clone())),
            Some(rule) => Some(rule.id),
            None if self.working.policy.rules().len() >= RULES_MAX => {
                return Err(ApiError::TooManyRules { limit: u64::try_from(RULES_MAX).unwrap_or(u64::MAX) });
            }
            None => None,
        };
        if let Some(id) = replaced {
            self.take_rule(id);
        }
        self.working.revision += 1;
        let id = RuleId::new(self.working.revision);
        let rule = Rule { id, terms, set_at: now.wall, set_by: caller.clone() };
        self.working.policy.put(rule.clone());
        self.batch.rule(self.working.revision, rule.clone());
        Ok(self.one_rule(rule))
    }

    pub(super) fn remove_rule(&mut self, caller: &HostName, id: RuleId) -> Result<Response, ApiError> {
        self.check_operator(caller)?;
        if self.working.policy.rules().iter().all(|rule| rule.id != id) {
            return Err(ApiError::UnknownRule { id: id.number() });
        }
        self.take_rule(id);
        Ok(Response::Done)
    }

    pub(super) fn take_rule(&mut self, id: RuleId) {
        self.working.policy.remove(id);
        self.working.revision += 1;
        self.batch.rule_removed(self.working.revision, id);
    }

    fn one_rule(&self, rule: Rule) -> Response {
        Response::Rules(RuleSet { revision: self.working.revision, rules: vec![rule] })
    }
}
