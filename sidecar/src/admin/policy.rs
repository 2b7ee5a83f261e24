//! The verbs of `capsule policy`, and what the views tell of it.

use std::sync::Arc;

use admin_api::result::{
    DenialView, PolicyCounts, PolicyResult, PolicyTestResult, RemoveRuleResult, RuleResult, RuleView,
};
use admin_api::{ErrorView, Timestamp};
use directory_api::policy::{Effect, Party, Ports, RuleError, Selector, Terms};
use directory_api::{ClientError, Policy, Rule, RuleId};
use overlay_proto::{CapsuleId, CapsuleName, Owner};

use super::record;
use crate::policy::{Counted, Counts, Denial};
use crate::sidecar::Sidecar;

/// All rules, or those that concern a capsule.
pub(super) async fn show(sidecar: &Arc<Sidecar>, name: Option<&str>) -> Result<PolicyResult, ErrorView> {
    let concerned = name.map(|name| record(sidecar, name)).transpose()?;
    let (rules, source) = match sidecar.places.directory().rules().await {
        Ok(set) => (set.rules, "directory"),
        Err(error) => match sidecar.places.policy().rules() {
            Some(rules) => (rules, "cache"),
            None => return Err(not_asked(&error)),
        },
    };
    let shown = |rule: &&Rule| {
        concerned.as_ref().is_none_or(|record| {
            let party = Party::from(record);
            rule.terms.from.fits(party) || rule.terms.to.fits(party)
        })
    };
    let rules = rules.iter().filter(shown).map(view).collect();
    Ok(PolicyResult { rules, source: source.to_owned() })
}

/// Makes a rule.
pub(super) async fn set(
    sidecar: &Arc<Sidecar>,
    allow: bool,
    from: &str,
    to: &str,
    ports: Option<&str>,
) -> Result<RuleResult, ErrorView> {
    let terms = Terms {
        effect: if allow { Effect::Allow } else { Effect::Deny },
        from: selector(sidecar, from)?,
        to: selector(sidecar, to)?,
        ports: ports.map_or(Ok(Ports::ALL), str::parse).map_err(|error| unreadable(&error))?,
    };
    let set = sidecar.places.directory().set_rule(terms).await;
    let rule = set.map_err(|error| refused("the policy was not changed", &error))?;
    Ok(RuleResult { rule: view(&rule) })
}

/// Ends a rule.
pub(super) async fn remove(sidecar: &Arc<Sidecar>, id: u64) -> Result<RemoveRuleResult, ErrorView> {
    let removed = sidecar.places.directory().remove_rule(RuleId::new(id)).await;
    let removed = removed.map_err(|error| refused("the policy was not changed", &error))?;
    Ok(RemoveRuleResult { id, removed })
}

/// Says what would become of a connect.
pub(super) async fn test(
    sidecar: &Arc<Sidecar>,
    from: &str,
    to: &str,
    port: u16,
) -> Result<PolicyTestResult, ErrorView> {
    let (from, to) = (party(sidecar, from)?, party(sidecar, to)?);
    let set = sidecar.places.directory().rules().await.map_err(|error| not_asked(&error))?;
    let as_party = |(owner, name)| Party { owner, name };
    let judgement =
        Policy::new(set.rules).judge(as_party((&from.0, &from.1)), as_party((&to.0, &to.1)), port);
    Ok(PolicyTestResult {
        from: format!("{}/{}", from.0, from.1),
        to: format!("{}/{}", to.0, to.1),
        port,
        allowed: judgement.is_allowed(),
        because: judgement.to_string(),
        rule: judgement.rule().map(RuleId::number),
    })
}

/// What the policy did to a capsule here, or to all.
pub(super) fn counts(sidecar: &Sidecar, own: Option<CapsuleId>) -> PolicyCounts {
    let Some(own) = own else { return counted(sidecar, sidecar.places.policy().totals()) };
    sidecar.networks.of(&own).map(|network| counted(sidecar, network.policed())).unwrap_or_default()
}

fn counted(sidecar: &Sidecar, counts: &Counts) -> PolicyCounts {
    let Counted { denied_in, denied_out, ended, last } = counts.counted();
    let last_denied = last.map(|denial| denial_view(sidecar, &denial));
    PolicyCounts { denied_in, denied_out, ended_sessions: ended, last_denied }
}

fn denial_view(sidecar: &Sidecar, denial: &Denial) -> DenialView {
    let name = |id: &CapsuleId| match sidecar.places.capsule(id) {
        Some(record) => record.name.to_string(),
        None => id.to_string(),
    };
    DenialView {
        from: name(&denial.from),
        to: name(&denial.to),
        port: denial.port,
        at: Timestamp::from(denial.at),
        because: denial.judgement.to_string(),
    }
}

/// A capsule that there is, or a pattern. A bare name stands for the capsule that has it, with its owner: somebody else's
/// capsule that has the name later is not meant.
fn selector(sidecar: &Sidecar, text: &str) -> Result<Selector, ErrorView> {
    if text.contains('/') {
        return text.parse().map_err(|error| unreadable(&error));
    }
    named(sidecar, text).map(|(owner, name)| Selector::one(&owner, &name))
}

/// A capsule that there is, or one that might be.
fn party(sidecar: &Sidecar, text: &str) -> Result<(Owner, CapsuleName), ErrorView> {
    let Some((owner, name)) = text.split_once('/') else { return named(sidecar, text) };
    match (owner.parse(), name.parse()) {
        (Ok(owner), Ok(name)) => Ok((owner, name)),
        _ => Err(ErrorView::new(
            "policy/selector",
            format!("{text:?} is no capsule: write NAME or OWNER/NAME"),
        )),
    }
}

fn named(sidecar: &Sidecar, name: &str) -> Result<(Owner, CapsuleName), ErrorView> {
    let record = record(sidecar, name).map_err(|error| {
        error.next("for one that is not there yet write OWNER/NAME; capsule ps lists those there are")
    })?;
    Ok((record.owner, record.name))
}

fn view(rule: &Rule) -> RuleView {
    RuleView {
        id: rule.id.number(),
        effect: rule.terms.effect.to_string(),
        from: rule.terms.from.to_string(),
        to: rule.terms.to.to_string(),
        ports: rule.terms.ports.to_string(),
        set_at: Timestamp::from(rule.set_at),
        set_by: rule.set_by.to_string(),
    }
}

fn unreadable(error: &RuleError) -> ErrorView {
    let code = match error {
        RuleError::Selector(_) => "policy/selector",
        RuleError::Ports(_) => "policy/ports",
        RuleError::Id(_) => "policy/rule",
    };
    ErrorView::new(code, error.to_string())
}

fn not_asked(error: &ClientError) -> ErrorView {
    ErrorView::new("policy/unknown", "the policy is not known here").why(error).next("try again")
}

fn refused(what: &str, error: &ClientError) -> ErrorView {
    ErrorView::new("policy/refused", what).why(error)
}
