//! `capsule policy`

use admin_api::{
    Request,
    result::{PolicyResult, PolicyTestResult, RemoveRuleResult, RuleResult, RuleView},
};
use clap::{Args, Subcommand};

use crate::{
    context::Context,
    failure::Failure,
    sidecar,
    table::{Table, plain},
    terminal::{Stream, Tone},
};

/// Say who may connect to whom
///
/// Without rules capsules of one owner may connect to each other, and others may not. A deny rule
/// wins over an allow rule. Capsules are named NAME, or OWNER/NAME, where either may be * and NAME
/// may contain it. A change also ends open sessions that it forbids.
#[derive(Args, Debug)]
pub(crate) struct Policy {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the rules
    Show {
        /// Only those that concern this capsule
        name: Option<String>,
    },
    /// Let FROM connect to TO
    Allow(Terms),
    /// Don't let FROM connect to TO
    Deny(Terms),
    /// End a rule
    Remove {
        /// Its number; capsule policy show lists them
        number: u64,
    },
    /// Say whether a connect would be allowed, and why; exit code 1 when not
    Test {
        /// Who would connect: NAME or OWNER/NAME
        from: String,

        /// To whom: NAME or OWNER/NAME
        to: String,

        /// At which port
        port: u16,
    },
}

#[derive(Args, Debug)]
struct Terms {
    /// Who connects: NAME or OWNER/NAME, with *
    from: String,

    /// To whom: NAME or OWNER/NAME, with *
    to: String,

    /// At which port, such as 5432 or 8000-8099; without it every port
    ports: Option<String>,
}

impl Policy {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        match self.what {
            What::Show { name } => {
                let answer: PolicyResult = sidecar::ask(context, Request::PolicyShow { name }).await?;
                context.answer(&answer, |answer, stream| table(answer, *stream))?;
            }
            What::Allow(terms) => terms.set(context, true).await?,
            What::Deny(terms) => terms.set(context, false).await?,
            What::Remove { number } => {
                let answer: RemoveRuleResult =
                    sidecar::ask(context, Request::PolicyRemove { id: number }).await?;
                context.answer(&answer, |answer, _| removed(answer))?;
            }
            What::Test { from, to, port } => {
                let answer: PolicyTestResult =
                    sidecar::ask(context, Request::PolicyTest { from, to, port }).await?;
                context.answer(&answer, tested)?;
                return Ok(i32::from(!answer.allowed));
            }
        }
        Ok(0)
    }
}

impl Terms {
    async fn set(self, context: &Context, allow: bool) -> Result<(), Failure> {
        let Self { from, to, ports } = self;
        let answer: RuleResult = sidecar::ask(context, Request::PolicySet { allow, from, to, ports }).await?;
        context.answer(&answer, |answer, stream| stream.clean(&said(&answer.rule)) + "\n")
    }
}

fn said(rule: &RuleView) -> String {
    let port = if rule.ports == "*" { String::new() } else { format!(" at port {}", rule.ports) };
    format!("rule {}: {} {} to {}{port}", rule.id, rule.effect, rule.from, rule.to)
}

fn removed(answer: &RemoveRuleResult) -> String {
    match answer.removed {
        true => format!("rule {} removed\n", answer.id),
        false => format!("there is no rule {}; nothing was changed\n", answer.id),
    }
}

fn tested(answer: &PolicyTestResult, stream: &Stream) -> String {
    let text = format!("{} to {} at port {}: {}", answer.from, answer.to, answer.port, answer.because);
    stream.clean(&text) + "\n"
}

fn table(answer: &PolicyResult, stream: Stream) -> String {
    let mut table = Table::new(stream, &[">RULE", "EFFECT", "FROM", "TO", "PORTS", "SET", "BY"]);
    for rule in &answer.rules {
        table.row(vec![
            plain(rule.id.to_string()),
            effect(rule),
            plain(&rule.from),
            plain(&rule.to),
            plain(&rule.ports),
            plain(rule.set_at.to_string()),
            plain(&rule.set_by),
        ]);
    }
    let default =
        "without a rule: within one owner allow, across owners deny, to the outlet of its host allow\n";
    let cached = "! the directory does not answer; this is what was known last\n";
    table.render() + default + if answer.source == "cache" { cached } else { "" }
}

fn effect(rule: &RuleView) -> (String, Tone) {
    let tone = if rule.effect == "deny" { Tone::Bad } else { Tone::Good };
    (rule.effect.clone(), tone)
}
