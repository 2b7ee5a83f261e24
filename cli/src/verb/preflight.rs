//! `capsule preflight`

use admin_api::{
    Request,
    result::{CheckView, Level, PreflightResult},
};
use clap::Args;

use crate::{
    amounts,
    context::Context,
    failure::Failure,
    sidecar,
    terminal::{Stream, Tone},
};

/// Check this host, or everything that a move would meet
///
/// Each check is ok, warn (it works, with a loss that the remedy names) or fail. Exit code 1
/// when one fails.
#[derive(Args, Debug)]
pub(crate) struct Preflight {
    /// The capsule that would move
    name: Option<String>,

    /// The host it would move to; capsule hosts lists them
    #[arg(long, value_name = "HOST")]
    to: Option<String>,
}

impl Preflight {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let request = Request::Preflight { name: self.name, to: self.to };
        tell(context, &sidecar::ask(context, request).await?)
    }
}

/// Shows checks; the exit code.
pub(crate) fn tell(context: &Context, answer: &PreflightResult) -> Result<i32, Failure> {
    context.answer(answer, read)?;
    Ok(i32::from(answer.count(Level::Fail) > 0))
}

fn read(answer: &PreflightResult, stream: &Stream) -> String {
    let mut groups: Vec<&str> = Vec::new();
    for check in &answer.checks {
        if !groups.contains(&check.group.as_str()) {
            groups.push(&check.group);
        }
    }
    let width = groups.iter().map(|group| stream.clean(group).chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for group in groups {
        let checks = answer.checks.iter().filter(|check| check.group == group);
        for (index, (level, line)) in lines(checks).into_iter().enumerate() {
            let heading = if index == 0 { stream.clean(group) } else { String::new() };
            let word = stream.paint(&format!("{:<4}", level.as_str()), tone(level));
            let line = stream.clean(&line);
            text.push_str(format!("{heading:<width$}  {word}  {line}").trim_end());
            text.push('\n');
        }
    }
    text + &stream.clean(&summary(answer)) + "\n"
}

/// What is well in one line, the rest in one line each.
fn lines<'a>(checks: impl Iterator<Item = &'a CheckView>) -> Vec<(Level, String)> {
    let (well, rest): (Vec<_>, Vec<_>) = checks.partition(|check| check.level == Level::Ok);
    let mut lines = Vec::new();
    if !well.is_empty() {
        let evidence: Vec<_> = well.iter().map(|check| check.evidence.as_str()).collect();
        lines.push((Level::Ok, evidence.join(", ")));
    }
    for check in rest {
        lines.push((check.level, format!("[{}]  {}   {}", check.code, check.evidence, check.remedy)));
    }
    lines
}

fn summary(answer: &PreflightResult) -> String {
    let mut text = String::new();
    if let (Some(capsule), Some(pause_ms)) = (&answer.capsule, answer.pause_expected_ms) {
        text = format!("{capsule} would pause about {}.  ", amounts::milliseconds(pause_ms));
    }
    let counts =
        [Level::Ok, Level::Warn, Level::Fail].map(|level| format!("{} {level}", answer.count(level)));
    text + &counts.join(", ")
}

fn tone(level: Level) -> Tone {
    match level {
        Level::Ok => Tone::Good,
        Level::Warn => Tone::Warn,
        Level::Fail => Tone::Bad,
        Level::Unknown => Tone::Plain,
    }
}
