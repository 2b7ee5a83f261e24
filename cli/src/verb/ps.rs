//! `capsule ps`

use std::time::SystemTime;

use admin_api::{
    Request, Timestamp,
    result::{CapsuleState, CapsuleView, PsResult},
};
use clap::Args;

use crate::{
    amounts,
    context::Context,
    failure::Failure,
    sidecar,
    table::{Table, or_dash, plain},
    terminal::{Stream, Tone},
};

/// List the capsules of the whole mesh
///
/// STATE is running, moving→HOST with the phase, suspended (it lies in a file and its peers
/// hold), lost (its host is silent), stopped (its program ended) or superseded (a frozen copy of a
/// capsule that was taken over elsewhere; see capsule recover and capsule rm --local). SESSIONS are its open
/// connections; held ones wait for their other side. GEN rises whenever it changes its place.
#[derive(Args, Debug)]
pub(crate) struct Ps {
    /// Only the capsules on this host
    #[arg(long)]
    local: bool,

    /// Print names only
    #[arg(short, long)]
    quiet: bool,
}

impl Ps {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let answer: PsResult = sidecar::ask(context, Request::Ps { local: self.local }).await?;
        context.answer(
            &answer,
            |answer, stream| {
                if self.quiet { names(answer, stream) } else { table(answer, *stream) }
            },
        )?;
        Ok(0)
    }
}

fn names(answer: &PsResult, stream: &Stream) -> String {
    answer.capsules.iter().map(|capsule| stream.clean(&capsule.name) + "\n").collect()
}

/// The table, and on a terminal a line for every capsule that needs someone.
pub(crate) fn table(answer: &PsResult, stream: Stream) -> String {
    let now = Timestamp::from(SystemTime::now());
    let mut table = Table::new(
        stream,
        &["NAME", "STATE", "HOST", "LOCATOR", ">SESSIONS", ">MEMORY", ">AGE", ">GEN", "OWNER"],
    );
    for capsule in &answer.capsules {
        table.row(vec![
            plain(&capsule.name),
            state(capsule, &stream),
            or_dash(capsule.host.as_deref()),
            or_dash(capsule.locators.first().map(ToString::to_string)),
            plain(sessions(capsule)),
            or_dash(capsule.memory_bytes.map(amounts::bytes)),
            plain(amounts::age(capsule.created_at.until(now))),
            plain(capsule.generation.to_string()),
            plain(&capsule.owner),
        ]);
    }
    let mut text = table.render();
    if stream.is_terminal {
        for capsule in &answer.capsules {
            if let Some(remark) = remark(capsule) {
                text = text + &stream.paint("!", Tone::Warn) + " " + &stream.clean(&remark) + "\n";
            }
        }
    }
    text
}

/// A capsule's state, with where it is going.
pub(crate) fn state(capsule: &CapsuleView, stream: &Stream) -> (String, Tone) {
    let word = capsule.state.as_str();
    match capsule.state {
        CapsuleState::Running => (word.to_owned(), Tone::Good),
        CapsuleState::Moving => {
            let mut text = word.to_owned();
            if let Some(to) = &capsule.moving_to {
                text = text + stream.arrow() + to;
            }
            if let Some(phase) = &capsule.phase {
                text = text + " " + phase;
            }
            (text, Tone::Warn)
        }
        CapsuleState::Lost | CapsuleState::Superseded => (word.to_owned(), Tone::Bad),
        CapsuleState::Stopped => match capsule.exit_code {
            Some(code) => (format!("{word} ({code})"), Tone::Plain),
            None => (word.to_owned(), Tone::Plain),
        },
        CapsuleState::Suspended | CapsuleState::Unknown => (word.to_owned(), Tone::Plain),
    }
}

fn sessions(capsule: &CapsuleView) -> String {
    match (capsule.sessions, capsule.sessions_held.unwrap_or_default()) {
        (None, _) => "-".to_owned(),
        (Some(all), 0) => all.to_string(),
        (Some(all), held) if all == held => format!("{held} held"),
        (Some(all), held) => format!("{all}, {held} held"),
    }
}

fn remark(capsule: &CapsuleView) -> Option<String> {
    let name = &capsule.name;
    if capsule.state == CapsuleState::Superseded {
        return Some(format!(
            "{name} goes on elsewhere; this host keeps a frozen copy of it until capsule rm --local {name}"
        ));
    }
    if capsule.state != CapsuleState::Lost {
        return None;
    }
    let host = capsule.host.as_deref().unwrap_or("?");
    let silent =
        capsule.silent_s.map(|seconds| format!(" for {}", amounts::age_s(seconds))).unwrap_or_default();
    Some(format!(
        "{name}: host {host} silent{silent}. Its sessions hold and go on when {host} is back; if that is gone for good: capsule recover {name}"
    ))
}
