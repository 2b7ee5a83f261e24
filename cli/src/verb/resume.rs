//! `capsule resume`

use std::path::PathBuf;

use admin_api::{Request, result::ResumeResult};
use clap::Args;

use crate::{
    amounts,
    context::Context,
    failure::Failure,
    from_file::{FromFile, RESUME, Unlock},
    terminal::Stream,
};

/// Resume a capsule from its file
///
/// It goes on where it was suspended, with its open connections. The whole file is checked before anything is changed. A
/// file can be resumed once: the directory gives the capsule to one of many. Ctrl-C undoes the resume as long as it is
/// not committed; the file is as good as before then.
#[derive(Args, Debug)]
pub(crate) struct Resume {
    /// The file, on this machine
    file: PathBuf,

    /// The host to resume it on; this one if not given
    #[arg(long, value_name = "HOST")]
    to: Option<String>,

    #[command(flatten)]
    unlock: Unlock,
}

impl Resume {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let from = FromFile { file: self.file, unlock: self.unlock, verb: RESUME };
        let resumed = from.ask(context, Request::Resume { to: self.to }).await?;
        context.answer(&resumed, read)?;
        Ok(0)
    }
}

fn read(resumed: &ResumeResult, stream: &Stream) -> String {
    let sessions = amounts::count(resumed.sessions_before, "session");
    let summary = format!(
        "{} runs on {} again, in {}: {} of {sessions} go on, generation {}. It lay in its file for {}.",
        resumed.capsule,
        resumed.to,
        amounts::milliseconds(resumed.duration_ms),
        resumed.sessions,
        resumed.generation,
        amounts::age_s(resumed.suspended_s),
    );
    let unpacked = format!(
        "  unpacked {} of memory and {} of files",
        amounts::bytes(resumed.bytes.memory),
        amounts::bytes(resumed.bytes.files),
    );
    [summary, unpacked].iter().map(|line| stream.clean(line) + "\n").collect()
}
