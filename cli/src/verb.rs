//! The verbs, one file each.

mod completion;
mod exec;
mod hosts;
mod inspect;
mod logs;
mod man;
mod move_;
mod overview;
mod policy;
mod preflight;
mod ps;
mod publish;
mod recover;
mod resolve;
mod resume;
mod rm;
mod run;
mod sessions;
mod start;
mod stop;
mod suspend;
mod tap;

use clap::Subcommand;

use crate::{context::Context, failure::Failure};

/// A verb with its arguments.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Run(run::Run),
    Ps(ps::Ps),
    Inspect(inspect::Inspect),
    Logs(logs::Logs),
    Exec(exec::Exec),
    Start(start::Start),
    Stop(stop::Stop),
    Rm(rm::Rm),
    Move(move_::Move),
    Suspend(suspend::Suspend),
    Resume(resume::Resume),
    Recover(recover::Recover),
    Sessions(sessions::Sessions),
    Hosts(hosts::Hosts),
    Policy(policy::Policy),
    Publish(publish::Publish),
    Unpublish(publish::Unpublish),
    Published(publish::Published),
    Resolve(resolve::Resolve),
    Preflight(preflight::Preflight),
    Tap(tap::Tap),
    Completion(completion::Completion),
    #[command(hide = true)]
    Man(man::Man),
}

/// Does what the verb says; the exit code.
pub(crate) async fn run(verb: Option<Verb>, context: &Context) -> Result<i32, Failure> {
    let Some(verb) = verb else {
        return overview::run(context).await;
    };
    match verb {
        Verb::Run(verb) => verb.run(context).await,
        Verb::Ps(verb) => verb.run(context).await,
        Verb::Inspect(verb) => verb.run(context).await,
        Verb::Logs(verb) => verb.run(context).await,
        Verb::Exec(verb) => verb.run(context).await,
        Verb::Start(verb) => verb.run(context).await,
        Verb::Stop(verb) => verb.run(context).await,
        Verb::Rm(verb) => verb.run(context).await,
        Verb::Move(verb) => verb.run(context).await,
        Verb::Suspend(verb) => verb.run(context).await,
        Verb::Resume(verb) => verb.run(context).await,
        Verb::Recover(verb) => verb.run(context).await,
        Verb::Sessions(verb) => verb.run(context).await,
        Verb::Hosts(verb) => verb.run(context).await,
        Verb::Policy(verb) => verb.run(context).await,
        Verb::Publish(verb) => verb.run(context).await,
        Verb::Unpublish(verb) => verb.run(context).await,
        Verb::Published(verb) => verb.run(context).await,
        Verb::Resolve(verb) => verb.run(context).await,
        Verb::Preflight(verb) => verb.run(context).await,
        Verb::Tap(verb) => verb.run(context).await,
        Verb::Completion(verb) => verb.run(context),
        Verb::Man(verb) => verb.run(context),
    }
}
