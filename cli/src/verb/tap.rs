//! `capsule tap`

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use admin_api::{AskError, ErrorView, Frame, Request, result::TapResult};
use clap::Args;
use tokio::fs::File;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, sleep_until};

use crate::{
    context::Context,
    failure::Failure,
    pcap::Joined,
    sidecar::{self, Open},
    signals::Signals,
    terminal::Stream,
};

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

/// What a capsule that is on its way answers: it is looked for again.
const ON_ITS_WAY: [&str; 5] =
    ["admin/moved", "capsule/not-here", "link/host-away", "tap/no-network", "sidecar/gone"];

/// Where the capture goes.
struct Sink {
    to: Box<dyn AsyncWrite + Unpin>,
    joined: Joined,
}

impl Sink {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let whole = self.joined.take(bytes);
        self.to.write_all(&whole).await?;
        self.to.flush().await
    }
}

/// When a person has enough.
struct Enough {
    signals: Signals,
    at: Option<Instant>,
    asked: bool,
}

impl Enough {
    /// Waits for it; the second Ctrl-C does not wait for an answer.
    async fn comes(&mut self) -> Result<(), Failure> {
        let time = async {
            match self.at {
                Some(at) if !self.asked => sleep_until(at.into()).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = time => {}
            _ = self.signals.end() => if self.asked {
                return Err(ErrorView::new("tap/left", "the capture was left before its sidecar ended it").into());
            },
        }
        self.asked = true;
        Ok(())
    }
}

impl Tap {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let mut sink = Sink { to: self.sink(context).await?, joined: Joined::default() };
        let at = self.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let mut enough = Enough { signals: Signals::catch()?, at, asked: false };
        let mut sum = TapResult { capsule: self.name.clone(), ..TapResult::default() };
        let mut moved: Option<Instant> = None;
        loop {
            let call = async {
                let open = sidecar::open(context, self.request()).await?;
                one_call(context, open, &mut sink, &mut enough).await
            };
            match call.await {
                Ok(part) => {
                    sum.dropped += part.dropped;
                    let Some(to) = part.moved_to.filter(|_| !enough.asked) else { break };
                    context.note(&format!("capsule: {} moved to {to}; the capture goes on there", self.name));
                    sum.moves += 1;
                    sink.joined.next_stream();
                    moved = Some(Instant::now());
                }
                Err(error) if !moved.is_some_and(|at| at.elapsed() < AGAIN_MAX && is_on_its_way(&error)) => {
                    return Err(error);
                }
                Err(_) => tokio::select! {
                    () = sleep(AGAIN) => {}
                    left = enough.comes() => left?,
                },
            }
            if enough.asked {
                break;
            }
        }
        sum.packets = sink.joined.packets;
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

    async fn sink(&self, context: &Context) -> Result<Box<dyn AsyncWrite + Unpin>, Failure> {
        let refused = |why: &str| {
            ErrorView::new("tap/output", format!("the capture of {} has nowhere to go", self.name)).why(why)
        };
        match &self.to {
            Some(path) => match File::create(path).await {
                Ok(file) => Ok(Box::new(file)),
                Err(error) => Err(refused(&format!("{}: {error}", path.display())).into()),
            },
            None if context.json => {
                Err(refused("stdout has the JSON document").next("name a file with --to").into())
            }
            None if context.stdout.is_terminal => Err(refused("packets are nothing for a terminal")
                .next(format!("capsule tap {0} --to {0}.pcap, or | wireshark -k -i -", self.name))
                .into()),
            None => Ok(Box::new(tokio::io::stdout())),
        }
    }
}

fn is_on_its_way(error: &Failure) -> bool {
    matches!(error, Failure::Told { error, .. } if ON_ITS_WAY.contains(&error.code.as_str()))
}

async fn one_call(
    context: &Context,
    mut open: Open,
    sink: &mut Sink,
    enough: &mut Enough,
) -> Result<TapResult, Failure> {
    loop {
        let frame = tokio::select! {
            frame = open.reader.next() => frame,
            left = enough.comes() => {
                left?;
                // When this fails the reader says why.
                let _ = open.writer.write(&Frame::Cancel).await;
                continue;
            }
        };
        match frame.map_err(|error| sidecar::explain(error.into(), context))? {
            Some(Frame::Stdout(bytes)) => {
                let written = sink.write(&bytes);
                tokio::pin!(written);
                // Whoever reads may have stopped.
                loop {
                    tokio::select! {
                        written = &mut written => break written?,
                        left = enough.comes() => {
                            left?;
                            let _ = open.writer.write(&Frame::Cancel).await;
                        }
                    }
                }
            }
            Some(Frame::Result(body)) => return sidecar::read(body),
            Some(Frame::Error(error)) => return Err(error.into()),
            Some(_) => {}
            None => return Err(sidecar::explain(AskError::Gone, context)),
        }
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
