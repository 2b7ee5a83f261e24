//! Where the demo is shown: lines with their time, colour on a terminal only.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

#[derive(Clone, Copy)]
pub(crate) enum Colour {
    Good,
    Bad,
    Faint,
    Strong,
}

/// Clones show in the same place.
#[derive(Clone)]
pub(crate) struct Stage {
    began: Instant,
    stopped: Arc<AtomicBool>,
    colour: bool,
    arrow: &'static str,
}

impl Stage {
    pub(crate) fn new() -> Stage {
        let set = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG")).unwrap_or_default();
        let unicode = locale.to_uppercase().replace('-', "").contains("UTF8");
        let colour = io::stdout().is_terminal()
            && set("NO_COLOR").is_none()
            && set("TERM").is_none_or(|term| term != "dumb");
        let arrow = if unicode { "→" } else { "->" };
        Stage { began: Instant::now(), stopped: Arc::default(), colour, arrow }
    }

    /// Between where something came from and where it went.
    pub(crate) fn arrow(&self) -> &'static str {
        self.arrow
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Shows one line with the time before it.
    pub(crate) fn event(&self, text: &str) {
        self.wait_if_stopped();
        self.line(&format!(
            "{} {text}",
            self.paint(Colour::Faint, &format!("{:5.1} s ", self.elapsed().as_secs_f64()))
        ));
    }

    /// Shows one line.
    pub(crate) fn line(&self, text: &str) {
        // Whoever reads this may have gone away: the demo ends in order all the same.
        let _ = writeln!(io::stdout(), "{text}");
    }

    pub(crate) fn paint(&self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Good => "32",
            Colour::Bad => "1;31",
            Colour::Faint => "2",
            Colour::Strong => "1",
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Lets nothing more be shown or started.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Never returns after `stop`: the process is about to end.
    pub(crate) fn wait_if_stopped(&self) {
        while self.stopped.load(Ordering::SeqCst) {
            thread::park();
        }
    }
}
