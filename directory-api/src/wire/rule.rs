//! Rules of the policy.

use super::message as wire;
use super::record::{time_from_wire, time_to_wire};
use super::{WireError, needed, parsed};
use crate::policy::{Effect, Ports, Terms};
use crate::{Rule, RuleId};

pub(super) fn rule_to_wire(rule: &Rule) -> wire::Rule {
    wire::Rule {
        id: rule.id.number(),
        terms: Some(terms_to_wire(&rule.terms)),
        set_at_ms: time_to_wire(rule.set_at),
        set_by: rule.set_by.to_string(),
    }
}

pub(super) fn rule_from_wire(rule: wire::Rule) -> Result<Rule, WireError> {
    Ok(Rule {
        id: RuleId::new(rule.id),
        terms: terms_from_wire(&needed(rule.terms, "terms")?)?,
        set_at: time_from_wire(rule.set_at_ms)?,
        set_by: parsed(&rule.set_by, "set_by")?,
    })
}

pub(super) fn terms_to_wire(terms: &Terms) -> wire::Terms {
    let (first, last) = terms.ports.ends();
    wire::Terms {
        effect: match terms.effect {
            Effect::Allow => 1,
            Effect::Deny => 2,
        },
        from: terms.from.to_string(),
        to: terms.to.to_string(),
        port_first: first.into(),
        port_last: last.into(),
    }
}

pub(super) fn terms_from_wire(terms: &wire::Terms) -> Result<Terms, WireError> {
    let port = |number: u32| u16::try_from(number).map_err(|_| WireError::Field("port"));
    let ports = Ports::new(port(terms.port_first)?, port(terms.port_last)?);
    Ok(Terms {
        effect: match terms.effect {
            1 => Effect::Allow,
            2 => Effect::Deny,
            _ => return Err(WireError::Field("effect")),
        },
        from: parsed(&terms.from, "from")?,
        to: parsed(&terms.to, "to")?,
        ports: needed(ports, "port")?,
    })
}
