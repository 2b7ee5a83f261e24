//! The program's output so far goes along: most of it ahead of the freeze, the rest inside.

use std::collections::HashMap;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::conversation::{ToTarget, say};

/// Bytes sent at a time.
const PIECE_BYTES: usize = 1 << 20;

/// What of the log the target has.
#[derive(Debug, Default)]
pub(super) struct LogSent(HashMap<PathBuf, (u64, u64)>);

impl LogSent {
    /// Sends what the log has grown by.
    pub(super) async fn send_news(
        &mut self,
        send: &mut quinn::SendStream,
        directory: &Path,
    ) -> anyhow::Result<()> {
        for path in [shim::place::log_before(directory), shim::place::log(directory)] {
            let Ok(file) = std::fs::File::open(&path) else { continue };
            let metadata = file.metadata()?;
            let (inode, sent) = self.0.get(&path).copied().unwrap_or((metadata.ino(), 0));
            // A log that was put aside is another file by now.
            let mut offset = if inode == metadata.ino() { sent } else { 0 };
            let name =
                path.file_name().and_then(|name| name.to_str()).context("the log has a name")?.to_owned();
            while offset < metadata.len() {
                let bytes = usize::try_from(metadata.len() - offset).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
                let mut piece = vec![0; bytes];
                file.read_exact_at(&mut piece, offset)?;
                say(send, &ToTarget::Log { name: name.clone(), offset, bytes: bytes as u64 }).await?;
                send.write_all(&piece).await?;
                offset += bytes as u64;
            }
            self.0.insert(path, (metadata.ino(), offset));
        }
        Ok(())
    }
}

/// Writes a piece of the log at its place.
pub(super) async fn receive(
    receive: &mut quinn::RecvStream,
    directory: &Path,
    name: &str,
    offset: u64,
    bytes: u64,
) -> anyhow::Result<()> {
    let known = [shim::place::log_before(directory), shim::place::log(directory)];
    let path = known.into_iter().find(|path| path.file_name().is_some_and(|known| known == name));
    let path = path.with_context(|| format!("{name:?} is no log"))?;
    ensure!(bytes <= PIECE_BYTES as u64, "a piece of {bytes} bytes is too long");
    let mut piece = vec![0; usize::try_from(bytes)?];
    receive.read_exact(&mut piece).await.context("the log ended early")?;
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
    if offset == 0 {
        file.set_len(0)?;
    }
    file.write_all_at(&piece, offset).with_context(|| format!("writing {}", path.display()))
}
