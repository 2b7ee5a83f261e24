//! `capsule start`

use admin_api::{Request, result::RunResult};
use clap::Args;

use crate::{context::Context, failure::Failure, sidecar};

/// Start the program of a stopped capsule again
#[derive(Args, Debug)]
pub(crate) struct Start {
    /// The capsule
    name: String,
}

impl Start {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let answer: RunResult = sidecar::ask(context, Request::Start { name: self.name }).await?;
        context.answer(&answer, |answer, stream| {
            let already = if answer.already { " already" } else { "" };
            stream.clean(&format!("{} runs{already} on {}", answer.capsule, answer.host)) + "\n"
        })?;
        Ok(0)
    }
}
