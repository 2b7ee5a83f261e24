//! Captures what a capsule sends and receives, as its programs see it: with the capsule's addresses, before the overlay.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use admin_api::result::TapResult;
use admin_api::{Body, ErrorView, Frame};
use bytes::Bytes;
use overlay_proto::HostName;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{Input, Output, write};
use crate::capsule::{Capsule, Stage};
use crate::limits::{TAP_CHUNK_BYTES, TAP_WORDS_BYTES};
use crate::sidecar::Sidecar;

/// A tcpdump in the capsule's network, ended with what asked for it: a process that stayed would keep the namespace of a
/// capsule that has left.
struct Tcpdump(Child);

impl Tcpdump {
    fn start(filter: &[String]) -> std::io::Result<Self> {
        // All that a capsule says goes over its loopback, where each packet is seen twice: as it leaves and as it comes.
        // setpriv: it ends with the thread that started it, which is the network's, and so with the sidecar too.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "tcpdump"])
            .args(["-i", "lo", "-Q", "in", "-n", "-U", "-s", "0", "-w", "-", "-Z", "root", "--"])
            .args(filter)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Self(child))
    }

    /// Lets it write out what it has, and end.
    fn interrupt(&self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        if let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::INT) {
            tracing::debug!(%error, "tcpdump has ended by itself");
        }
    }
}

impl Drop for Tcpdump {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Why a capture ended.
enum Ending {
    /// It was asked for, or tcpdump gave up.
    Over,
    /// The capsule went elsewhere.
    Moved(HostName),
    /// The client is gone.
    Unheard,
}

/// Sends a capture in pcap form until the client has enough, or the capsule ends or leaves.
pub(super) async fn tap(
    sidecar: &Arc<Sidecar>,
    capsule: &Arc<Capsule>,
    filter: Vec<String>,
    input: &mut Input,
    output: &mut Output,
) -> Result<(), ErrorView> {
    let name = capsule.name();
    let failed = |why: String| ErrorView::new("tap/not-started", format!("{name} can't be tapped")).why(why);
    let Some(network) = sidecar.networks.of(&capsule.id()) else {
        return Err(
            failed("it does not run, so it has no network".into()).next(format!("capsule start {name}"))
        );
    };
    let started = network.in_netns(move || Tcpdump::start(&filter)).await;
    let mut tcpdump = started.map_err(|error| {
        failed(format!("tcpdump does not start on {}: {error}", sidecar.me))
            .next("install it on the capsule's host: apt-get install tcpdump")
    })?;
    let pipes = (tcpdump.0.stdout.take(), tcpdump.0.stderr.take());
    let (Some(packets), Some(words)) = pipes else { return Err(failed("tcpdump has no pipes".into())) };
    let packets =
        tokio::process::ChildStdout::from_std(packets).map_err(|error| failed(error.to_string()))?;
    let words = tokio::process::ChildStderr::from_std(words).map_err(|error| failed(error.to_string()))?;
    let said = tokio::spawn(all_of(words));
    let ending = pass_on(capsule, &tcpdump, packets, input, output).await?;
    let ended = tokio::task::spawn_blocking(move || tcpdump.0.wait()).await;
    let said = said.await.unwrap_or_default();
    let moved_to = match ending {
        Ending::Unheard => return Ok(()),
        Ending::Moved(to) => Some(to.to_string()),
        Ending::Over if matches!(ended, Ok(Ok(status)) if status.success()) => None,
        Ending::Over => {
            return Err(failed(complaint(&said)).next("a filter is written as for tcpdump: man pcap-filter"));
        }
    };
    let result = TapResult { moved_to, ..counted(name.as_str(), &said) };
    write(output, &Frame::Result(Body::of(&result))).await
}

/// Everything up to tcpdump's end.
async fn pass_on(
    capsule: &Arc<Capsule>,
    tcpdump: &Tcpdump,
    mut packets: impl AsyncRead + Unpin,
    input: &mut Input,
    output: &mut Output,
) -> Result<Ending, ErrorView> {
    let mut stages = capsule.stages();
    let (mut ending, mut buffer) = (None, vec![0; TAP_CHUNK_BYTES]);
    loop {
        let gone = async {
            let ends = |stage: &Stage| {
                matches!(stage, Stage::Left { .. } | Stage::Stopped(_) | Stage::Suspended | Stage::Removed)
            };
            stages.wait_for(ends).await.map(|stage| stage.clone())
        };
        tokio::select! {
            count = packets.read(&mut buffer) => match count {
                Ok(count) if count > 0 => {
                    write(output, &Frame::Stdout(Bytes::copy_from_slice(&buffer[..count]))).await?;
                }
                _ => return Ok(ending.unwrap_or(Ending::Over)),
            },
            stage = gone, if ending.is_none() => {
                ending = Some(match stage {
                    Ok(Stage::Left { to, .. }) => Ending::Moved(to),
                    _ => Ending::Over,
                });
                tcpdump.interrupt();
            }
            said = input.next(), if ending.is_none() => match said {
                Ok(Some(Frame::Cancel)) => {
                    ending = Some(Ending::Over);
                    tcpdump.interrupt();
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    ending = Some(Ending::Unheard);
                    tcpdump.interrupt();
                }
            },
        }
    }
}

/// What tcpdump says besides packets; it is little.
async fn all_of(words: impl AsyncRead + Unpin) -> String {
    let mut said = String::new();
    let _ = words.take(TAP_WORDS_BYTES).read_to_string(&mut said).await;
    said
}

/// The counts with which tcpdump ends.
fn counted(name: &str, said: &str) -> TapResult {
    let count = |what: &str| {
        let line = said.lines().find(|line| line.contains(what))?;
        line.split_whitespace().next()?.parse().ok()
    };
    TapResult {
        capsule: name.to_owned(),
        packets: count("captured").unwrap_or_default(),
        dropped: count("dropped by kernel").unwrap_or_default(),
        ..TapResult::default()
    }
}

/// The last thing that tcpdump says when it gives up.
fn complaint(said: &str) -> String {
    let line = said.lines().rfind(|line| !line.trim().is_empty());
    line.unwrap_or("tcpdump ended without a word").trim_start_matches("tcpdump: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tcpdump_says_is_understood() {
        let said = "tcpdump: listening on lo, link-type EN10MB (Ethernet), snapshot length 262144 bytes\n\
                    12 packets captured\n25 packets received by filter\n1 packet dropped by kernel\n";
        let result = counted("db", said);
        assert_eq!((result.capsule.as_str(), result.packets, result.dropped), ("db", 12, 1));
        assert_eq!(
            complaint("tcpdump: can't parse filter expression: syntax error\n"),
            "can't parse filter expression: syntax error"
        );
        assert_eq!(complaint(""), "tcpdump ended without a word");
    }
}
