//! Private files on their way: a list of what to remove, then rsync at both ends, joined by a request stream.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail, ensure};
use overlay_proto::{HostName, OfferId};
use runtime::files::limits::REMOVALS_PIECE_BYTES;
use runtime::files::private::{Ended, Pace, Remover, Round, ended, pieces, rsync_receiver, rsync_sender};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;

use super::conversation::{hear, say};
use crate::requests::{self, Kind};
use crate::sidecar::Sidecar;

/// Which tree of an arriving capsule files go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Tree {
    /// The private layer.
    Private,
    /// Base files that differ.
    Base,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    offer: OfferId,
    tree: Tree,
}

/// Sends a round of `directory` (or all of it) to the host that prepared for `offer`; says how many bytes that took.
pub(super) async fn send(
    sidecar: &Sidecar,
    host: &HostName,
    offer: OfferId,
    tree: Tree,
    directory: &Path,
    round: Option<&Round>,
    pace: Pace,
) -> anyhow::Result<(Ended, u64)> {
    let meeting = Meeting::make(&sidecar.data.join("moves").join(format!("{offer}.rsync")))?;
    let program = sidecar.programs.join("capsule-sidecar");
    let command = rsync_sender(directory, &program, &meeting.socket, round, pace)?;
    let mut command = tokio::process::Command::from(command);
    let rsync = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().context("starting rsync")?;
    let sent = AtomicU64::new(0);
    let joined = async {
        let (stream, _) = meeting.listener.accept().await?;
        let (mut send, receive) = requests::open(sidecar, host, Kind::Files).await?;
        say(&mut send, &Header { offer, tree }).await?;
        say_removed(&mut send, round).await?;
        let (mut from_rsync, mut to_rsync) = stream.into_split();
        let mut receive = receive;
        let out = async {
            let bytes = tokio::io::copy(&mut from_rsync, &mut send).await?;
            sent.store(bytes, Ordering::Relaxed);
            let _ = send.finish();
            Ok::<_, std::io::Error>(())
        };
        let back = async {
            tokio::io::copy(&mut receive, &mut to_rsync).await?;
            to_rsync.shutdown().await
        };
        // When one way breaks both end, and rsync with them.
        tokio::try_join!(out, back)?;
        anyhow::Ok(())
    };
    let finished = rsync.wait_with_output();
    tokio::pin!(finished);
    let output = tokio::select! {
        output = &mut finished => output?,
        joined = joined => {
            joined?;
            finished.await?
        }
    };
    let ended = ended(output.status, &String::from_utf8_lossy(&output.stderr), directory, pace)?;
    Ok((ended, sent.into_inner()))
}

/// The list of what is gone, as pieces with their length, and an empty one.
async fn say_removed(send: &mut quinn::SendStream, round: Option<&Round>) -> anyhow::Result<()> {
    if let Some(round) = round {
        for piece in pieces(round.removed()) {
            send.write_all(&u32::try_from(piece.len())?.to_be_bytes()).await?;
            send.write_all(&piece).await?;
        }
    }
    send.write_all(&0_u32.to_be_bytes()).await?;
    Ok(())
}

/// Removes what the list names, before rsync writes: a file may take the place of a directory.
async fn remove(directory: &Path, receive: &mut quinn::RecvStream) -> anyhow::Result<()> {
    let mut remover = Remover::of(directory)?;
    loop {
        let mut length = [0; 4];
        receive.read_exact(&mut length).await.context("the list of what to remove ended early")?;
        let length = u32::from_be_bytes(length) as usize;
        if length == 0 {
            return Ok(());
        }
        ensure!(length <= REMOVALS_PIECE_BYTES, "a piece of {length} bytes of what to remove is too long");
        let mut piece = vec![0; length];
        receive.read_exact(&mut piece).await.context("the list of what to remove ended early")?;
        remover = tokio::task::spawn_blocking(move || remover.remove(&piece).map(|()| remover)).await??;
    }
}

/// The socket at which rsync's remote shell meets us.
struct Meeting {
    directory: PathBuf,
    socket: PathBuf,
    listener: UnixListener,
}

impl Meeting {
    fn make(directory: &Path) -> anyhow::Result<Self> {
        let _ = std::fs::remove_dir_all(directory);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("creating {}", directory.display()))?;
        let socket = directory.join("s");
        let listener =
            UnixListener::bind(&socket).with_context(|| format!("binding {}", socket.display()))?;
        Ok(Self { directory: directory.to_owned(), socket, listener })
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Takes files of a capsule that `host` is moving here.
///
/// # Errors
/// No such move is under way, the list of what to remove is not to be believed, or rsync failed.
pub async fn receive(
    sidecar: Arc<Sidecar>,
    host: HostName,
    mut send: quinn::SendStream,
    mut receive: quinn::RecvStream,
) -> anyhow::Result<()> {
    let header: Header = hear(&mut receive).await?;
    let Some(directory) = sidecar.arrivals.directory(&host, header.offer, header.tree) else {
        bail!("files of a move that is not under way");
    };
    remove(&directory, &mut receive).await?;
    let mut rsync = tokio::process::Command::from(rsync_receiver(&directory))
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("starting rsync")?;
    let (Some(mut input), Some(mut output)) = (rsync.stdin.take(), rsync.stdout.take()) else {
        bail!("rsync without its pipes");
    };
    let fill = async {
        let _ = tokio::io::copy(&mut receive, &mut input).await;
        drop(input);
    };
    let drain = async {
        let _ = tokio::io::copy(&mut output, &mut send).await;
        let _ = send.finish();
    };
    let ((), (), finished) = tokio::join!(fill, drain, rsync.wait_with_output());
    let finished = finished?;
    ended(finished.status, &String::from_utf8_lossy(&finished.stderr), &directory, Pace::Frozen)?;
    Ok(())
}
