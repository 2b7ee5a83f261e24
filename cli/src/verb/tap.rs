//! `capsule tap`

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use admin_api::{AskError, ErrorView, Frame, Request, result::TapResult};
use clap::Args;
use tokio::time::{sleep, sleep_until};

use crate::{
    context::Context,
    failure::Failure,
    sidecar::{self, Open},
    signals::Signals,
    terminal::Stream,
};

/// Bytes of a pcap file before its first packet: known already when a capture goes on elsewhere.
const HEADER_BYTES: usize = 24;

/// Pause before asking again for a capsule that has just moved.
const AGAIN: Duration = Duration::from_millis(50);

/// How long a capsule that moved is looked for.
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// Capture what a capsule sends and receives, for Wireshark
///
/// Writes a pcap file with the packets as the capsule's programs see them: with locators and ports, decrypted, before they
/// go over the mesh. The capture follows the capsule when it moves. It ends with Ctrl-C, after --seconds, or when the
/// capsule ends. Without --to it goes to stdout: capsule tap web | wireshark -k -i -
#[derive(Args, Debug)]
pub(crate) struct Tap {
    /// The capsule
    name: String,

    /// Which packets, as for tcpdump: port 6379 and host 10.88.0.2
    filter: Vec<String>,

    /// The file to write, on this machine; one that is there is replaced
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,

    /// End after so many seconds
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
}

/// Where the capture goes.
struct Sink {
    to: Box<dyn Write>,
    /// Bytes of the header that the present host sends and that are written already.
    repeated: usize,
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let skipped = self.repeated.min(bytes.len());
        self.repeated -= skipped;
        self.to.write_all(&bytes[skipped..])?;
        self.to.flush()
    }
}

impl Tap {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let mut sink = Sink { to: self.sink(context)?, repeated: 0 };
        let mut signals = Signals::catch()?;
        let end = self.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let mut sum = TapResult { capsule: self.name.clone(), ..TapResult::default() };
        let mut away = None;
        loop {
            let call = async {
                let open = sidecar::open(context, self.request()).await?;
                self.one_call(context, open, &mut sink, &mut signals, end, &mut away).await
            };
            match call.await {
                Ok(part) => {
                    sum.packets += part.packets;
                    sum.dropped += part.dropped;
                    let Some(to) = part.moved_to else { break };
                    context.note(&format!("capsule: {} moved to {to}; the capture goes on there", self.name));
                    sum.moves += 1;
                    sink.repeated = HEADER_BYTES;
                    away = Some(Instant::now());
                }
                // It is on its way: who is asked knows where later than it left.
                Err(error) if away.is_some_and(|since: Instant| since.elapsed() < AGAIN_MAX) => {
                    tokio::select! {
                        () = sleep(AGAIN) => {}
                        _ = signals.end() => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        sum.file = self
            .to
            .as_ref()
            .map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string());
        if self.to.is_some() {
            context.answer(&sum, read)?;
        } else {
            context.note(read(&sum, &context.stderr).trim_end());
        }
        Ok(0)
    }

    fn request(&self) -> Request {
        Request::Tap { name: self.name.clone(), filter: self.filter.clone() }
    }

    fn sink(&self, context: &Context) -> Result<Box<dyn Write>, Failure> {
        let refused = |why: &str| {
            ErrorView::new("tap/output", format!("the capture of {} has nowhere to go", self.name)).why(why)
        };
        match &self.to {
            Some(path) => match File::create(path) {
                Ok(file) => Ok(Box::new(file)),
                Err(error) => Err(refused(&format!("{}: {error}", path.display())).into()),
            },
            None if context.json => {
                Err(refused("stdout has the JSON document").next("name a file with --to").into())
            }
            None if io::stdout().is_terminal() => Err(refused("packets are nothing for a terminal")
                .next(format!("capsule tap {0} --to {0}.pcap, or | wireshark -k -i -", self.name))
                .into()),
            None => Ok(Box::new(io::stdout())),
        }
    }

    async fn one_call(
        &self,
        context: &Context,
        mut open: Open,
        sink: &mut Sink,
        signals: &mut Signals,
        end: Option<Instant>,
        away: &mut Option<Instant>,
    ) -> Result<TapResult, Failure> {
        let mut asked_to_end = false;
        loop {
            let frame = tokio::select! {
                frame = open.reader.next() => frame,
                () = ends(end), if !asked_to_end => {
                    asked_to_end = true;
                    let _ = open.writer.write(&Frame::Cancel).await;
                    continue;
                }
                _ = signals.end() => {
                    if std::mem::replace(&mut asked_to_end, true) {
                        return Err(sidecar::explain(AskError::Gone, context));
                    }
                    // When this fails the reader says why.
                    let _ = open.writer.write(&Frame::Cancel).await;
                    continue;
                }
            };
            match frame.map_err(|error| sidecar::explain(error.into(), context))? {
                Some(Frame::Stdout(bytes)) => {
                    *away = None;
                    sink.write(&bytes)?;
                }
                Some(Frame::Result(body)) => return sidecar::read(body),
                Some(Frame::Error(error)) => return Err(error.into()),
                Some(_) => {}
                None => return Err(sidecar::explain(AskError::Gone, context)),
            }
        }
    }
}

async fn ends(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn read(result: &TapResult, stream: &Stream) -> String {
    let plural = |count: u64, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    let mut text = format!("{} of {}", plural(result.packets, "packet"), stream.clean(&result.capsule));
    if let Some(file) = &result.file {
        text += &format!(" in {}", stream.clean(file));
    }
    if result.moves > 0 {
        text += &format!(", through {}", plural(result.moves, "move"));
    }
    if result.dropped > 0 {
        text += &format!("; {} came too fast and are missing", plural(result.dropped, "packet"));
    }
    text + "\n"
}
