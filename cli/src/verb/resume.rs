//! `capsule resume`

use std::io::Read;
use std::path::PathBuf;

use admin_api::{AskError, ErrorView, Frame, Request, limits::FILE_CHUNK_BYTES, result::ResumeResult};
use bytes::Bytes;
use capsule_file::{FileError, Keys};
use clap::Args;
use tokio::{sync::mpsc, time::interval};

use crate::{
    amounts,
    capsule_file::{checked, open, passphrase, secret},
    context::Context,
    failure::Failure,
    progress::{Display, TICK},
    sidecar::{self, Open},
    signals::Signals,
    terminal::Stream,
};

/// Pieces of the file that wait to be sent.
const PIECES: usize = 4;

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

    /// An age identity file that opens it, if it is encrypted
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,

    /// A file with the passphrase that opens it, if it is encrypted
    #[arg(long, value_name = "FILE", conflicts_with = "identity")]
    passphrase_file: Option<PathBuf>,
}

impl Resume {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let keys = match (&self.identity, &self.passphrase_file) {
            (Some(path), _) => Keys::Identities(secret(path)?),
            (None, Some(path)) => Keys::Passphrase(passphrase(path)?),
            (None, None) => Keys::None,
        };
        let (file, checking) = (self.file.clone(), keys);
        let looked = tokio::task::spawn_blocking(move || {
            let manifest = checked(&file, &checking)?;
            Ok::<_, Failure>((manifest, open(&file, &checking)?))
        });
        let (manifest, opened) = looked.await.map_err(|error| self.unreadable(&error.to_string()))??;
        let signals = Signals::catch()?;
        let call = sidecar::open(context, Request::Resume { to: self.to.clone() }).await?;
        let mut display = Display::new(manifest.name.as_str(), context.stderr);
        let outcome = self.watch(context, call, signals, &mut display, pieces(opened)).await;
        display.clear();
        context.answer(&outcome?, read)?;
        Ok(0)
    }

    async fn watch(
        &self,
        context: &Context,
        mut call: Open,
        mut signals: Signals,
        display: &mut Display,
        mut pieces: mpsc::Receiver<std::io::Result<Bytes>>,
    ) -> Result<ResumeResult, Failure> {
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
                    let file = self.file.display();
                    if std::mem::replace(&mut cancelled, true) {
                        context.note("still undoing; it is safe to wait, and not done yet");
                    } else {
                        context.note(&format!("undoing the resume of {file}, unless it is committed"));
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
        ErrorView::new("resume/file", what).why(why).into()
    }

    fn explain(&self, error: AskError, context: &Context) -> Failure {
        match sidecar::explain(error, context) {
            Failure::Told { mut error, exit } if error.code == "sidecar/gone" => {
                error.what = format!("the sidecar went away while {} was resumed", self.file.display());
                error.why = "the resume is finished or undone without it, never both".to_owned();
                error.next =
                    "see with capsule ps; if the capsule is suspended still, resume it again".to_owned();
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
