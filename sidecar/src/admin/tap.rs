//! Captures what a capsule sends and receives, as its programs see it: with the capsule's addresses, before the overlay.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use admin_api::result::TapResult;
use admin_api::{Body, ErrorView, Frame};
use bytes::Bytes;
use overlay_proto::HostName;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::sync::CancellationToken;

use super::{Input, Output, write};
use crate::capsule::{Capsule, Stage};
use crate::limits::{TAP_BUFFER_KIB, TAP_CHUNK_BYTES, TAP_WORDS_BYTES};
use crate::sidecar::Sidecar;

/// A tcpdump in the capsule's network, ended with what asked for it: a process that stayed would keep the namespace of a
/// capsule that has left.
struct Tcpdump(Option<Child>);

impl Tcpdump {
    fn start(filter: &[String]) -> std::io::Result<Self> {
        // All that a capsule says goes over its loopback, where each packet is seen twice: as it leaves and as it comes.
        // setpriv: it ends with the thread that started it, which is the network's, and so with the sidecar too.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "tcpdump"])
            // Each packet at once: what the kernel has gathered is lost when tcpdump ends.
            .args(["--immediate-mode", "-B", TAP_BUFFER_KIB, "-U"])
            .args(["-i", "lo", "-Q", "in", "-n", "-s", "0", "-w", "-", "-Z", "root", "--"])
            .args(filter)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Self(Some(child)))
    }

    /// Lets it write out what it has, and end.
    fn interrupt(&self) {
        let Some(child) = &self.0 else { return };
        let pid = rustix::process::Pid::from_child(child);
        if let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::INT) {
            tracing::debug!(%error, "tcpdump has ended by itself");
        }
    }
}

impl Drop for Tcpdump {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        let _ = child.kill();
        // The kernel may take its time to clear a process away, and whoever drops this may be a task among others.
        let mut reap = move || drop(child.wait());
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(reap)),
            Err(_) => reap(),
        }
    }
}

/// Why a capture ended.
enum Ending {
    /// It was asked for, or the capsule ended.
    Over,
    /// By itself.
    GaveUp,
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
        return Err(ErrorView::new("tap/no-network", format!("{name} can't be tapped"))
            .why("it does not run, so it has no network")
            .next(format!("capsule start {name}")));
    };
    let closed = network.closed();
    let started = network.in_netns(move || Tcpdump::start(&filter)).await;
    // Only until here: when the capsule leaves, its network ends, and tcpdump with it, even if the client is stuck.
    drop(network);
    let mut tcpdump = started.map_err(|error| {
        failed(format!("tcpdump does not start on {}: {error}", sidecar.me))
            .next("install it on the capsule's host: apt-get install tcpdump")
    })?;
    let pipes = tcpdump.0.as_mut().map(|child| (child.stdout.take(), child.stderr.take()));
    let Some((Some(packets), Some(words))) = pipes else { return Err(failed("tcpdump has no pipes".into())) };
    let packets =
        tokio::process::ChildStdout::from_std(packets).map_err(|error| failed(error.to_string()))?;
    let words = tokio::process::ChildStderr::from_std(words).map_err(|error| failed(error.to_string()))?;
    let said = tokio::spawn(all_of(words));
    let ending = pass_on(sidecar, capsule, &tcpdump, &closed, packets, input, output).await?;
    if let Some(mut child) = tcpdump.0.take() {
        let _ = tokio::task::spawn_blocking(move || child.wait()).await;
    }
    let said = said.await.unwrap_or_default();
    let moved_to = match ending {
        Ending::Unheard => return Ok(()),
        Ending::GaveUp => {
            return Err(failed(complaint(&said)).next("a filter is written as for tcpdump: man pcap-filter"));
        }
        Ending::Moved(to) => Some(to.to_string()),
        Ending::Over => None,
    };
    let (capsule, dropped) = (name.to_string(), dropped(&said));
    let result = TapResult { capsule, dropped, moved_to, ..TapResult::default() };
    write(output, &Frame::Result(Body::of(&result))).await
}

/// Where the capsule is, now that its network on this host has ended.
fn gone(sidecar: &Sidecar, capsule: &Capsule) -> Ending {
    match capsule.stage() {
        Stage::Left { to, .. } => Ending::Moved(to),
        _ => match sidecar.places.capsule(&capsule.id()) {
            Some(record) if record.host != sidecar.me => Ending::Moved(record.host),
            _ => Ending::Over,
        },
    }
}

/// Everything up to tcpdump's end.
async fn pass_on(
    sidecar: &Sidecar,
    capsule: &Capsule,
    tcpdump: &Tcpdump,
    closed: &CancellationToken,
    mut packets: impl AsyncRead + Unpin,
    input: &mut Input,
    output: &mut Output,
) -> Result<Ending, ErrorView> {
    let mut stages = capsule.stages();
    let (mut ending, mut buffer) = (None, vec![0; TAP_CHUNK_BYTES]);
    loop {
        let over = async {
            tokio::select! {
                () = closed.cancelled() => {}
                _ = stages.wait_for(|stage| matches!(stage, Stage::Left { .. } | Stage::Stopped(_))) => {}
            }
        };
        tokio::select! {
            count = packets.read(&mut buffer) => match count {
                Ok(count) if count > 0 => {
                    write(output, &Frame::Stdout(Bytes::copy_from_slice(&buffer[..count]))).await?;
                }
                // With the network tcpdump ends, too.
                _ if ending.is_none() && closed.is_cancelled() => return Ok(gone(sidecar, capsule)),
                _ => return Ok(ending.unwrap_or(Ending::GaveUp)),
            },
            () = over, if ending.is_none() => {
                ending = Some(gone(sidecar, capsule));
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

/// How many packets were lost, by the counts with which tcpdump ends.
fn dropped(said: &str) -> u64 {
    let line = said.lines().find(|line| line.contains("dropped by kernel"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
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
        assert_eq!((dropped(said), dropped("")), (1, 0));
        assert_eq!(
            complaint("tcpdump: can't parse filter expression: syntax error\n"),
            "can't parse filter expression: syntax error"
        );
        assert_eq!(complaint(""), "tcpdump ended without a word");
    }
}
