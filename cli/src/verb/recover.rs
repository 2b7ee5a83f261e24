//! `capsule recover`

use std::path::PathBuf;

use admin_api::{
    Request,
    result::{RecoverResult, RecoveredFrom},
};
use clap::Args;

use crate::{
    context::Context,
    failure::Failure,
    from_file::{FromFile, RECOVER, Unlock},
    sidecar,
};

/// Go on with a capsule whose host is gone, from what is left of it elsewhere
///
/// What is left is the frozen copy that an unfinished move keeps on its other host, wherever that
/// is, or a capsule file. Peers' connections go on from the copy. A host that was only cut off
/// freezes what it still runs of the capsule as soon as it hears of this, and keeps it (superseded
/// in capsule ps); run on that host, recover goes on from that copy.
///
/// A capsule file takes the capsule back to when it was suspended, on this host: what it did since is
/// lost. Connections whose peers have seen none of that go on, the others are reset. It is refused
/// while the capsule's host answers.
#[derive(Args, Debug)]
pub(crate) struct Recover {
    /// The capsule
    name: String,

    /// The host is gone, though the directory may not have missed it yet: you answer for that
    #[arg(long)]
    host_is_gone: bool,

    /// Go back to this capsule file, on this machine
    #[arg(long, value_name = "FILE", requires = "host_is_gone")]
    from: Option<PathBuf>,

    #[command(flatten)]
    unlock: Unlock,
}

impl Recover {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let (name, host_is_gone) = (self.name, self.host_is_gone);
        let answer: RecoverResult = match self.from {
            None => sidecar::ask(context, Request::Recover { name, host_is_gone, from: None }).await?,
            Some(file) => {
                let from = Some(file.display().to_string());
                let file = FromFile { file, unlock: self.unlock, verb: RECOVER };
                file.ask(context, Request::Recover { name, host_is_gone, from }).await?
            }
        };
        context.answer(&answer, |answer, stream| stream.clean(&read(answer)) + "\n")?;
        Ok(0)
    }
}

fn read(answer: &RecoverResult) -> String {
    let (name, host, generation) = (&answer.capsule, &answer.host, answer.generation);
    let from = match answer.from {
        RecoveredFrom::Move => "the copy that its move left",
        RecoveredFrom::Superseded => "the copy that this host kept",
        RecoveredFrom::File => "its capsule file",
        RecoveredFrom::Unknown => "what was left of it",
    };
    let state = if answer.running { "runs" } else { "is stopped" };
    format!("{name} {state} on {host}, from {from}, generation {generation}")
}
