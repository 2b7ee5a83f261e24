//! `capsule move`

use admin_api::{
    AskError, Frame, Memory, Request,
    result::{MoveResult, PreflightResult},
};
use clap::{Args, ValueEnum, builder::PossibleValue};
use tokio::time::interval;

use super::preflight;
use crate::{
    amounts,
    context::Context,
    failure::Failure,
    progress::{Display, TICK},
    sidecar::{self, Open},
    signals::Signals,
    terminal::Stream,
};

/// Move a running capsule to another host, with its open connections
///
/// Ctrl-C undoes the move as long as the capsule is not claimed by the target. When a move
/// fails, the capsule runs on where it was. Returns when the move is complete: nothing of the
/// capsule is left on the old host then.
#[derive(Args, Debug)]
pub(crate) struct Move {
    /// The capsule
    name: String,

    /// The host to move it to; capsule hosts lists them
    #[arg(long, value_name = "HOST")]
    to: String,

    /// How its memory goes
    #[arg(long, value_name = "HOW", default_value = "auto")]
    memory: MemoryChoice,

    /// Have the old host carry on the connections to machines outside that leave from it without a
    /// gateway; without this they end at the move
    #[arg(long)]
    keep_anchored: bool,

    /// Check everything and do nothing; exit code 1 when the move would fail
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug)]
struct MemoryChoice(Memory);

impl ValueEnum for MemoryChoice {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [MemoryChoice; 4] = [
            MemoryChoice(Memory::Auto),
            MemoryChoice(Memory::Full),
            MemoryChoice(Memory::Lazy),
            MemoryChoice(Memory::Precopy),
        ];
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self.0 {
            Memory::Auto => "What is safe and fastest",
            Memory::Full => "All of it inside the pause",
            Memory::Lazy => {
                "After the pause, on demand; until the last page came, losing either host loses the capsule"
            }
            Memory::Precopy => "Most of it ahead of the pause",
        };
        Some(PossibleValue::new(self.0.as_str()).help(help))
    }
}

impl Move {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let request = Request::Move {
            name: self.name.clone(),
            to: self.to.clone(),
            memory: self.memory.0,
            keep_anchored: self.keep_anchored,
            dry_run: self.dry_run,
        };
        if self.dry_run {
            let answer: PreflightResult = sidecar::ask(context, request).await?;
            return preflight::tell(context, &answer);
        }
        // Before the call: from the moment the sidecar knows of it, Ctrl-C means undo.
        let signals = Signals::catch()?;
        let open = sidecar::open(context, request).await?;
        let mut display = Display::new(&self.name, context.stderr);
        let outcome = self.watch(context, open, signals, &mut display).await;
        display.clear();
        context.answer(&outcome?, read)?;
        Ok(0)
    }

    async fn watch(
        &self,
        context: &Context,
        mut open: Open,
        mut signals: Signals,
        display: &mut Display,
    ) -> Result<MoveResult, Failure> {
        let mut tick = interval(TICK);
        let mut cancelled = false;
        loop {
            let frame = tokio::select! {
                frame = open.reader.next() => frame,
                _ = tick.tick() => {
                    display.tick();
                    continue;
                }
                _ = signals.end() => {
                    display.clear();
                    if cancelled {
                        context.note(&format!(
                            "still undoing the move of {}; it is safe to wait, and not done yet",
                            self.name
                        ));
                    } else {
                        cancelled = true;
                        context.note(&format!("undoing the move of {}, unless it is committed", self.name));
                        // When this fails the reader says why.
                        let _ = open.writer.write(&Frame::Cancel).await;
                    }
                    continue;
                }
            };
            match frame.map_err(|error| self.explain(error.into(), context))? {
                Some(Frame::Progress(progress)) => display.step(progress),
                Some(Frame::Result(body)) => return sidecar::read(body),
                Some(Frame::Error(error)) => return Err(error.into()),
                Some(_) => {}
                None => return Err(self.explain(AskError::Gone, context)),
            }
        }
    }

    fn explain(&self, error: AskError, context: &Context) -> Failure {
        match sidecar::explain(error, context) {
            Failure::Told { mut error, exit } if error.code == "sidecar/gone" => {
                let name = &self.name;
                error.what = format!("the sidecar went away while {name} moved");
                error.why = "the move is finished or undone without it, never both".to_owned();
                error.next = format!(
                    "see where it is with capsule ps, or join it with capsule move {name} --to {}",
                    self.to
                );
                Failure::Told { error, exit }
            }
            other => other,
        }
    }
}

/// What is left on the old host.
fn left(moved: &MoveResult) -> String {
    let (from, anchored) = (&moved.from, amounts::count(moved.anchored, "connection"));
    let nothing = format!("Nothing of it is left on {from}.");
    match (moved.anchored, moved.anchored_kept) {
        (0, _) => nothing,
        (_, false) => format!("{nothing} {anchored} to machines outside ended, bound to {from}."),
        (_, true) => format!(
            "Host {from} carries {anchored} to machines outside on, for as long as it is up; nothing else of it is left there."
        ),
    }
}

fn read(moved: &MoveResult, stream: &Stream) -> String {
    let (name, to) = (&moved.capsule, &moved.to);
    if moved.already {
        return stream.clean(&format!("{name} is already on {to}")) + "\n";
    }
    let sessions = if moved.sessions_before > 0 {
        format!("{} of {} kept", moved.sessions, amounts::count(moved.sessions_before, "session"))
    } else {
        format!("{} kept", amounts::count(moved.sessions, "session"))
    };
    let summary = format!(
        "{name} moved {} → {to} in {}: paused {}, {sessions}, generation {}. {}",
        moved.from,
        amounts::milliseconds(moved.duration_ms),
        amounts::milliseconds(moved.blackout_ms),
        moved.generation,
        left(moved),
    );
    let sent = format!(
        "  sent {} of memory ({}) and {} of files",
        amounts::bytes(moved.bytes.memory),
        moved.memory,
        amounts::bytes(moved.bytes.files)
    );
    let phases: Vec<_> =
        moved.phases_ms.iter().map(|(phase, milliseconds)| format!("{phase} {milliseconds:.0}")).collect();
    let phases = format!("  ms  {}", phases.join(" "));
    [summary, sent, phases].iter().map(|line| stream.clean(line) + "\n").collect()
}
