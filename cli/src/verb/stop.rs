//! `capsule stop`

use admin_api::{Request, result::StopResult};
use clap::Args;

use crate::{context::Context, failure::Failure, sidecar};

/// End the program of a capsule; the capsule stays
///
/// Its files, name and locator stay; start starts it again.
#[derive(Args, Debug)]
pub(crate) struct Stop {
    /// The capsule
    name: String,

    /// How long it may take after SIGTERM before SIGKILL
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,
}

impl Stop {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let request = Request::Stop { name: self.name, timeout_s: self.timeout };
        let answer: StopResult = sidecar::ask(context, request).await?;
        context.answer(&answer, |answer, stream| stream.clean(&read(answer)) + "\n")?;
        Ok(0)
    }
}

fn read(answer: &StopResult) -> String {
    let name = &answer.capsule;
    if answer.already {
        return format!("{name} was stopped already");
    }
    let killed = if answer.killed { ", by SIGKILL after the time was over" } else { "" };
    match answer.exit_code {
        Some(code) => format!("{name} stopped, exit code {code}{killed}"),
        None => format!("{name} stopped{killed}"),
    }
}
