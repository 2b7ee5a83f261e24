//! `capsule recover`

use std::path::PathBuf;

use admin_api::{
    Request,
    result::{RecoverResult, RecoveredFrom},
};
use clap::Args;

use crate::{context::Context, failure::Failure, sidecar};

/// Go on with a capsule whose host is gone, from what is left of it elsewhere
///
/// What is left is the frozen copy that an unfinished move keeps on its other host, wherever that
/// is, or a capsule file. Peers' connections go on from the copy. A host that was only cut off
/// freezes what it still runs of the capsule as soon as it hears of this, and keeps it (superseded
/// in capsule ps); run on that host, recover goes on from that copy.
#[derive(Args, Debug)]
pub(crate) struct Recover {
    /// The capsule
    name: String,

    /// The host is gone, though the directory may not have missed it yet: you answer for that
    #[arg(long)]
    host_is_gone: bool,

    /// Go on from this capsule file
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

impl Recover {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let from = self.from.map(|path| std::path::absolute(&path).unwrap_or(path));
        let request = Request::Recover {
            name: self.name,
            host_is_gone: self.host_is_gone,
            from: from.map(|path| path.display().to_string()),
        };
        let answer: RecoverResult = sidecar::ask(context, request).await?;
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
