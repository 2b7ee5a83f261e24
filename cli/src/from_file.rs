//! Going on from a capsule file: the whole file is checked before a sidecar is asked, then sent to it, with the progress
//! shown. Ctrl-C undoes as long as nothing is committed.

use std::io::Read;
use std::path::PathBuf;

use admin_api::{AskError, ErrorView, Frame, Request, limits::FILE_CHUNK_BYTES};
use bytes::Bytes;
use capsule_file::{FileError, Keys};
use clap::Args;
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, time::interval};

use crate::{
    capsule_file::{checked, open, passphrase, secret},
    context::Context,
    failure::Failure,
    progress::{Display, TICK},
    sidecar::{self, Open},
    signals::Signals,
};

/// Pieces of the file that wait to be sent.
const PIECES: usize = 4;

/// A verb in words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verb {
    /// As in a code.
    pub(crate) name: &'static str,
    /// What it makes of a capsule.
    pub(crate) done: &'static str,
}

pub(crate) const RESUME: Verb = Verb { name: "resume", done: "resumed" };
pub(crate) const RECOVER: Verb = Verb { name: "recover", done: "recovered" };

/// What opens an encrypted file.
#[derive(Args, Debug)]
pub(crate) struct Unlock {
    /// An age identity file that opens it, if it is encrypted
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,

    /// A file with the passphrase that opens it, if it is encrypted
    #[arg(long, value_name = "FILE", conflicts_with = "identity")]
    passphrase_file: Option<PathBuf>,
}

impl Unlock {
    fn keys(&self) -> Result<Keys, Failure> {
        Ok(match (&self.identity, &self.passphrase_file) {
            (Some(path), _) => Keys::Identities(secret(path)?),
            (None, Some(path)) => Keys::Passphrase(passphrase(path)?),
            (None, None) => Keys::None,
        })
    }
}

/// A file that a capsule goes on from.
#[derive(Debug)]
pub(crate) struct FromFile {
    pub(crate) file: PathBuf,
    pub(crate) unlock: Unlock,
    pub(crate) verb: Verb,
}

impl FromFile {
    /// Checks the file, makes the call with it, and waits for the answer.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        context: &Context,
        request: Request,
    ) -> Result<T, Failure> {
        let (file, keys, verb) = (self.file.clone(), self.unlock.keys()?, self.verb);
        let looked = tokio::task::spawn_blocking(move || {
            let manifest = checked(&file, &keys, verb)?;
            Ok::<_, Failure>((manifest, open(&file, &keys, verb)?))
        });
        let (manifest, opened) = looked.await.map_err(|error| self.unreadable(&error.to_string()))??;
        let signals = Signals::catch()?;
        let call = sidecar::open(context, request).await?;
        let mut display = Display::new(manifest.name.as_str(), context.stderr);
        let outcome = self.watch(context, call, signals, &mut display, pieces(opened)).await;
        display.clear();
        outcome
    }

    async fn watch<T: DeserializeOwned>(
        &self,
        context: &Context,
        mut call: Open,
        mut signals: Signals,
        display: &mut Display,
        mut pieces: mpsc::Receiver<std::io::Result<Bytes>>,
    ) -> Result<T, Failure> {
        let mut tick = interval(TICK);
        let (mut cancelled, mut sending, mut broken) = (false, true, None);
        loop {
            let frame = tokio::select! {
                frame = call.reader.next() => frame,
                piece = pieces.recv(), if sending => {
                    let frame = match piece {
                        Some(Ok(bytes)) => Frame::File(bytes),
                        None => Frame::FileEnd,
                        Some(Err(error)) => {
                            broken = Some(error);
                            Frame::Cancel
                        }
                    };
                    sending = matches!(frame, Frame::File(_));
                    // A sidecar that reads no further has said why.
                    sending &= call.writer.write(&frame).await.is_ok();
                    continue;
                }
                _ = tick.tick() => {
                    display.tick();
                    continue;
                }
                _ = signals.end() => {
                    display.clear();
                    let (verb, file) = (self.verb.name, self.file.display());
                    if std::mem::replace(&mut cancelled, true) {
                        context.note("still undoing; it is safe to wait, and not done yet");
                    } else {
                        context.note(&format!("undoing the {verb} of {file}, unless it is committed"));
                        sending = false;
                        let _ = call.writer.write(&Frame::Cancel).await;
                    }
                    continue;
                }
            };
            match frame.map_err(|error| self.explain(error.into(), context))? {
                Some(Frame::Progress(progress)) => display.step(progress),
                Some(Frame::Result(body)) => return sidecar::read(body),
                Some(Frame::Error(error)) => {
                    return Err(match broken {
                        Some(why) => self.unreadable(&FileError::from_io(why).to_string()),
                        None => error.into(),
                    });
                }
                Some(_) => {}
                None => return Err(self.explain(AskError::Gone, context)),
            }
        }
    }

    fn unreadable(&self, why: &str) -> Failure {
        let what = format!("{} can't be read any more; nothing was changed", self.file.display());
        ErrorView::new(format!("{}/file", self.verb.name), what).why(why).into()
    }

    fn explain(&self, error: AskError, context: &Context) -> Failure {
        match sidecar::explain(error, context) {
            Failure::Told { mut error, exit } if error.code == "sidecar/gone" => {
                let Verb { name, done } = self.verb;
                error.what = format!("the sidecar went away while {} was {done}", self.file.display());
                error.why = format!("the {name} is finished or undone without it, never both");
                error.next = format!("see with capsule ps; if the capsule is where it was, {name} it again");
                Failure::Told { error, exit }
            }
            other => other,
        }
    }
}

/// Reads the file on a thread of its own.
fn pieces(mut opened: impl Read + Send + 'static) -> mpsc::Receiver<std::io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut piece = Vec::with_capacity(FILE_CHUNK_BYTES);
            let piece = match (&mut opened).take(FILE_CHUNK_BYTES as u64).read_to_end(&mut piece) {
                Ok(0) => return,
                Ok(_) => Ok(Bytes::from(piece)),
                Err(error) => Err(error),
            };
            let last = piece.is_err();
            if sender.blocking_send(piece).is_err() || last {
                return;
            }
        }
    });
    receiver
}
