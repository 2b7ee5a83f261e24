//! `capsule rm`

use admin_api::{Request, result::RmResult};
use clap::Args;

use crate::{amounts, context::Context, failure::Failure, sidecar};

/// Remove a capsule for good: its files, its log, its name and its locator
///
/// What a host had that was removed from the mesh (capsule hosts remove) can be removed on any host with operator rights.
///
/// --local removes only the copy that this host keeps of a capsule that goes on elsewhere, after this host was declared
/// gone; capsule ps shows such copies as superseded.
#[derive(Args, Debug)]
pub(crate) struct Rm {
    /// The capsule
    name: String,

    /// Also when its program runs: end it, and its sessions
    #[arg(short, long)]
    force: bool,

    /// Only the superseded copy that this host keeps
    #[arg(long)]
    local: bool,
}

impl Rm {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let request = Request::Rm { name: self.name, force: self.force, local: self.local };
        let answer: RmResult = sidecar::ask(context, request).await?;
        context.answer(&answer, |answer, stream| stream.clean(&read(answer)) + "\n")?;
        Ok(0)
    }
}

fn read(answer: &RmResult) -> String {
    let name = &answer.capsule;
    match (&answer.id, answer.sessions_ended) {
        (None, _) => format!("{name} was not there"),
        (Some(_), 0) => format!("{name} removed"),
        (Some(_), ended) => format!("{name} removed, {} ended", amounts::count(ended, "session")),
    }
}
