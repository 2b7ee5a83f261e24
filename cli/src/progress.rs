//! Shows how far a move is: one line, rewritten, for a person; a line for each
//! finished phase, and one every ten seconds, for a log.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use admin_api::{Progress, RunState};

use crate::{
    amounts,
    terminal::{Stream, Tone},
};

/// How often a line on a terminal is drawn anew.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// How often a log hears of a phase that takes long.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// What is shown of a move.
pub(crate) struct Display {
    capsule: String,
    stream: Stream,
    current: Option<Progress>,
    phase_since: Instant,
    paused_since: Option<Instant>,
    told_at: Instant,
    drawn: bool,
}

impl Display {
    /// Nothing is known so far.
    pub(crate) fn new(capsule: &str, stream: Stream) -> Self {
        let now = Instant::now();
        Self {
            capsule: capsule.to_owned(),
            stream,
            current: None,
            phase_since: now,
            paused_since: None,
            told_at: now,
            drawn: false,
        }
    }

    /// Something was heard.
    pub(crate) fn step(&mut self, progress: Progress) {
        let now = Instant::now();
        if self.current.as_ref().is_none_or(|current| current.phase != progress.phase) {
            self.phase_since = now;
        }
        self.paused_since = match (progress.state, progress.paused_ms) {
            (RunState::Running, _) => None,
            (RunState::Paused, Some(paused_ms)) => {
                now.checked_sub(Duration::try_from_secs_f64(paused_ms / 1000.0).unwrap_or_default())
            }
            (RunState::Paused, None) => self.paused_since.or(Some(now)),
        };
        let finished = progress.finished_ms.is_some();
        self.current = Some(progress);
        if self.stream.is_terminal {
            self.draw();
        } else if finished {
            self.log();
        }
    }

    /// Time passed.
    pub(crate) fn tick(&mut self) {
        if self.stream.is_terminal {
            self.draw();
        } else if self.told_at.elapsed() >= LOG_EVERY {
            self.log();
        }
    }

    /// Takes the line away, so that something else can be said.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let _ = write!(io::stderr(), "\r\x1b[2K");
        }
    }

    fn draw(&mut self) {
        let line = self.line();
        let columns = self.stream.columns.map_or(usize::MAX, usize::from);
        let fitted: String = line.chars().take(columns.saturating_sub(1)).collect();
        let tone = if self.paused_since.is_some() { Tone::Warn } else { Tone::Plain };
        let mut stderr = io::stderr().lock();
        // A stderr that is gone must not end a move.
        let _ = write!(stderr, "\r\x1b[2K{}", self.stream.paint(&fitted, tone));
        let _ = stderr.flush();
        self.drawn = true;
    }

    fn log(&mut self) {
        self.told_at = Instant::now();
        let _ = writeln!(io::stderr(), "{}", self.line());
    }

    fn line(&self) -> String {
        let capsule = &self.capsule;
        let Some(progress) = &self.current else {
            return format!("{capsule}  asking");
        };
        // The state first: it must not be what a narrow terminal cuts off.
        let mut line = format!("{capsule} {}", progress.state.as_str());
        if let Some(since) = self.paused_since {
            line += &format!(" {:.1} s", since.elapsed().as_secs_f64());
        }
        line = line + "  " + &progress.phase;
        if let Some(amount) = self.amount(progress) {
            line = line + "  " + &amount;
        }
        if !progress.message.is_empty() {
            line = line + "  " + &progress.message;
        }
        if let Some(finished_ms) = progress.finished_ms {
            line = line + "  done in " + &amounts::milliseconds(finished_ms);
        }
        self.stream.clean(&line)
    }

    fn amount(&self, progress: &Progress) -> Option<String> {
        let done = progress.done_bytes?;
        let mut text = amounts::bytes(done);
        if let Some(total) = progress.total_bytes {
            text = text + " of " + &amounts::bytes(total);
        }
        let seconds = self.phase_since.elapsed().as_secs_f64();
        if progress.finished_ms.is_none() && seconds > 0.5 && done > 0 {
            let rate = done as f64 / seconds;
            text = text + "  " + &amounts::bytes(rate as u64) + "/s";
            if let Some(left) = progress.total_bytes.and_then(|total| total.checked_sub(done)) {
                text = text + &format!("  {:.0} s left", left as f64 / rate);
            }
        }
        Some(text)
    }
}
