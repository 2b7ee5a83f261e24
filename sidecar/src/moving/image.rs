//! The image of a capsule's processes on its way: files of a tmpfs, one behind the other.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use bytes::BytesMut;

use crate::capsule::{Capsule, engine};
use crate::limits::{IMAGE_BYTES_MAX, IMAGE_FILES_MAX};

/// Bytes of an image handled at a time.
const PIECE_BYTES: usize = 1 << 20;

/// A directory in memory of its own; gone with all it holds when dropped.
#[derive(Debug)]
pub(crate) struct MemoryDirectory(PathBuf);

impl MemoryDirectory {
    /// The one of a capsule's images.
    pub(crate) fn of(capsule: &Capsule) -> anyhow::Result<Self> {
        Ok(Self(engine::mount_images(capsule)?))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for MemoryDirectory {
    fn drop(&mut self) {
        if let Err(error) = runtime::memory::unmount(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "memory of a move was not unmounted");
        }
    }
}

/// The files of an image with their lengths.
pub(crate) fn list(directory: &Path) -> anyhow::Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_file() {
            let name = entry.file_name().into_string().ok().context("a file of the image has an odd name")?;
            files.push((name, metadata.len()));
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a name leads nowhere else.
pub(crate) fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && name != "." && name != ".."
}

/// Sends the listed files.
pub(super) async fn send(
    send: &mut quinn::SendStream,
    directory: &Path,
    files: &[(String, u64)],
) -> anyhow::Result<()> {
    for (name, length) in files {
        // Memory, not disk: a piece is copied in less time than another thread would take to wake up.
        let mut file = std::fs::File::open(directory.join(name))?;
        let mut left = *length;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let mut piece = BytesMut::zeroed(want);
            file.read_exact(&mut piece)
                .with_context(|| format!("{name} became shorter while it was sent"))?;
            send.write_chunk(piece.freeze()).await?;
            left -= want as u64;
        }
    }
    Ok(())
}

/// Receives the listed files.
pub(super) async fn receive(
    receive: &mut quinn::RecvStream,
    directory: &Path,
    files: &[(String, u64)],
) -> anyhow::Result<()> {
    ensure!(files.len() <= IMAGE_FILES_MAX, "an image of {} files is too large", files.len());
    let total = files.iter().try_fold(0_u64, |total, (_, length)| total.checked_add(*length));
    ensure!(
        total.is_some_and(|total| total <= IMAGE_BYTES_MAX),
        "an image of more than {IMAGE_BYTES_MAX} bytes is too large"
    );
    for (name, length) in files {
        ensure!(is_plain(name), "the image has a file named {name:?}");
        // Memory again; packets are gathered, so that they don't cost a system call each.
        let file = std::fs::File::create_new(directory.join(name))?;
        let mut file = std::io::BufWriter::with_capacity(PIECE_BYTES, file);
        let mut left = *length;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let chunk = receive.read_chunk(want, true).await?.context("the image ended early")?;
            left -= chunk.bytes.len() as u64;
            file.write_all(&chunk.bytes)?;
        }
        file.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
