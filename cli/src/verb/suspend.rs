//! `capsule suspend`

use std::path::PathBuf;

use admin_api::{AskError, ErrorView, Frame, Request, result::SuspendResult};
use capsule_file::Lock;
use clap::Args;
use tokio::time::interval;

use crate::{
    amounts,
    capsule_file::{Draft, passphrase},
    context::Context,
    failure::Failure,
    progress::{Display, TICK},
    sidecar::{self, Open},
    signals::Signals,
    terminal::Stream,
};

/// Suspend a running capsule to a file, with its open connections
///
/// The file has the capsule's memory, private files, connections and log; its peers hold their ends for as long as it
/// takes. It can be resumed once, on any host of the mesh: capsule resume FILE. Whoever can read the file can read all
/// that the capsule had in memory: it is made readable for you alone, and may be encrypted. Ctrl-C undoes the suspend as
/// long as it is not committed. When it fails, the capsule runs on, and there is no file.
#[derive(Args, Debug)]
pub(crate) struct Suspend {
    /// The capsule
    name: String,

    /// The file to write, on this machine; there must be none of this name
    #[arg(long, value_name = "FILE")]
    to: PathBuf,

    /// Encrypt the file to an age recipient (age1…); may be repeated
    #[arg(long, value_name = "RECIPIENT")]
    recipient: Vec<String>,

    /// Encrypt the file with the passphrase in a file
    #[arg(long, value_name = "FILE", conflicts_with = "recipient")]
    passphrase_file: Option<PathBuf>,
}

impl Suspend {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let lock = match &self.passphrase_file {
            Some(path) => Lock::Passphrase(passphrase(path)?),
            None if self.recipient.is_empty() => Lock::None,
            None => Lock::Recipients(self.recipient.clone()),
        };
        let encrypted = !matches!(lock, Lock::None);
        // Before the call: from the moment the sidecar knows of it, Ctrl-C means undo.
        let signals = Signals::catch()?;
        let mut draft = Draft::create(&self.to, &lock)?;
        let open = sidecar::open(context, Request::Suspend { name: self.name.clone() }).await?;
        let mut display = Display::new(&self.name, context.stderr);
        let outcome = self.watch(context, open, signals, &mut display, &mut draft).await;
        display.clear();
        let mut suspended = match outcome {
            Ok(suspended) => suspended,
            Err(error) => {
                if is_in_doubt(&error) && draft.is_stored() {
                    draft.keep();
                }
                return Err(error);
            }
        };
        draft.keep();
        suspended.file = std::path::absolute(&self.to).unwrap_or(self.to).display().to_string();
        suspended.encrypted = encrypted;
        context.answer(&suspended, read)?;
        Ok(0)
    }

    async fn watch(
        &self,
        context: &Context,
        mut open: Open,
        mut signals: Signals,
        display: &mut Display,
        draft: &mut Draft,
    ) -> Result<SuspendResult, Failure> {
        let mut tick = interval(TICK);
        let (mut cancelled, mut broken) = (false, None);
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
                            "still undoing the suspend of {}; it is safe to wait, and not done yet",
                            self.name
                        ));
                    } else {
                        cancelled = true;
                        context.note(&format!("undoing the suspend of {}, unless it is committed", self.name));
                        // When this fails the reader says why.
                        let _ = open.writer.write(&Frame::Cancel).await;
                    }
                    continue;
                }
            };
            match frame.map_err(|error| self.explain(error.into(), context))? {
                Some(Frame::Progress(progress)) => display.step(progress),
                Some(Frame::File(bytes)) if broken.is_none() => broken = draft.write(&bytes).err(),
                Some(Frame::FileEnd) if broken.is_none() => {
                    broken = draft.store().err();
                    if broken.is_none() {
                        let _ = open.writer.write(&Frame::FileEnd).await;
                    }
                }
                Some(Frame::Result(body)) => return sidecar::read(body),
                Some(Frame::Error(error)) => {
                    return Err(match broken {
                        Some(why) => self.not_written(&why),
                        None => error.into(),
                    });
                }
                Some(_) => {}
                None => return Err(self.explain(AskError::Gone, context)),
            }
            if broken.is_some() && !cancelled {
                cancelled = true;
                let _ = open.writer.write(&Frame::Cancel).await;
            }
        }
    }

    fn not_written(&self, why: &std::io::Error) -> Failure {
        let what = format!("{} can't be written; {} runs on", self.to.display(), self.name);
        ErrorView::new("suspend/file", what).why(why).next("make room, or name another file").into()
    }

    fn explain(&self, error: AskError, context: &Context) -> Failure {
        match sidecar::explain(error, context) {
            Failure::Told { mut error, exit } if error.code == "sidecar/gone" => {
                let (name, file) = (&self.name, self.to.display());
                error.what = format!("the sidecar went away while {name} was suspended");
                error.why = "the suspend is committed or undone without it, never both".to_owned();
                error.next = format!(
                    "see with capsule ps: if {name} is suspended, it lies in {file}; if it runs, remove {file}"
                );
                Failure::Told { error, exit }
            }
            other => other,
        }
    }
}

/// Whether the capsule may lie in the file all the same.
fn is_in_doubt(error: &Failure) -> bool {
    matches!(error, Failure::Told { error, .. } if error.code == "sidecar/gone" || error.code == "link/host-away")
}

fn read(suspended: &SuspendResult, stream: &Stream) -> String {
    let name = &suspended.capsule;
    let sessions = amounts::count(suspended.sessions, "session");
    let lock = if suspended.encrypted { ", encrypted" } else { "" };
    let summary = format!(
        "{name} is suspended to {} ({}{lock}), with {sessions}; generation {}. Nothing of it is left on {}.",
        suspended.file,
        amounts::bytes(suspended.file_bytes),
        suspended.generation,
        suspended.from,
    );
    let packed = format!(
        "  packed {} of memory and {} of files in {}; the file can be resumed once: capsule resume FILE",
        amounts::bytes(suspended.bytes.memory),
        amounts::bytes(suspended.bytes.files),
        amounts::milliseconds(suspended.duration_ms),
    );
    [summary, packed].iter().map(|line| stream.clean(line) + "\n").collect()
}
