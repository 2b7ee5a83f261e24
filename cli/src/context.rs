//! What every verb needs: whom to ask, and how to tell.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use admin_api::ErrorView;
use serde::Serialize;

use crate::{
    args::Global,
    failure::Failure,
    terminal::{Stream, Tone},
};

/// The global flags, and the two output streams.
#[derive(Debug)]
pub(crate) struct Context {
    /// The socket of the sidecar.
    pub(crate) socket: PathBuf,
    /// One document on stdout.
    pub(crate) json: bool,
    /// For results.
    pub(crate) stdout: Stream,
    /// For everything else.
    pub(crate) stderr: Stream,
}

#[derive(Serialize)]
struct ErrorDocument<'a> {
    error: &'a ErrorView,
}

impl Context {
    /// From the global flags.
    pub(crate) fn new(global: &Global) -> Self {
        Self {
            socket: global.socket(),
            json: global.json,
            stdout: Stream::stdout(global.color),
            stderr: Stream::stderr(global.color),
        }
    }

    /// Writes a result for people; it has its line ends.
    pub(crate) fn print(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        Ok(())
    }

    /// Writes the one document, on several lines for people.
    pub(crate) fn print_json(&self, document: &impl Serialize) -> Result<(), Failure> {
        let text = if self.stdout.is_terminal {
            serde_json::to_string_pretty(document)
        } else {
            serde_json::to_string(document)
        };
        let text = text.map_err(|error| Failure::local("output/failed", "can't write JSON", error))?;
        self.print(&(text + "\n"))
    }

    /// Writes a result in the way that was asked for.
    pub(crate) fn answer<T: Serialize>(
        &self,
        answer: &T,
        read: impl FnOnce(&T, &Stream) -> String,
    ) -> Result<(), Failure> {
        if self.json { self.print_json(answer) } else { self.print(&read(answer, &self.stdout)) }
    }

    /// Tells something on the side.
    pub(crate) fn note(&self, text: &str) {
        // Nothing can be done when stderr is closed, and the verb goes on.
        let _ = writeln!(io::stderr(), "{}", self.stderr.clean(text));
    }

    /// Tells of a failure, and says with which code to exit.
    pub(crate) fn fail(&self, failure: &Failure) -> i32 {
        if let Failure::Told { error, .. } = failure {
            self.tell(error);
            if self.json && self.print_json(&ErrorDocument { error }).is_err() {
                return Failure::OutputClosed.exit();
            }
        }
        failure.exit()
    }

    fn tell(&self, error: &ErrorView) {
        let line = self.stderr.clean(&error.to_string());
        let line = match line.strip_prefix("error") {
            Some(rest) => self.stderr.paint("error", Tone::Bad) + rest,
            None => line,
        };
        let mut text = line + "\n";
        let width = error.details.iter().map(|detail| detail.code.len()).max().unwrap_or(0);
        for detail in &error.details {
            let code = format!("[{}]", detail.code);
            let evidence = self.stderr.clean(&detail.evidence);
            let remedy = self.stderr.clean(&detail.remedy);
            let line = format!("  {code:<width$}  {evidence}   {remedy}", width = width + 2);
            text.push_str(line.trim_end());
            text.push('\n');
        }
        let _ = io::stderr().write_all(text.as_bytes());
    }
}
