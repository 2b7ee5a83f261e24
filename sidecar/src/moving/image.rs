//! The image of a capsule's processes on its way: files of a tmpfs, one behind the other.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::capsule::{Capsule, engine};
use crate::limits::{IMAGE_BYTES_MAX, IMAGE_FILES_MAX};

/// A directory in memory of its own; gone with all it holds when dropped.
#[derive(Debug)]
pub(super) struct MemoryDirectory(PathBuf);

impl MemoryDirectory {
    /// The one of a capsule's images.
    pub(super) fn of(capsule: &Capsule) -> anyhow::Result<Self> {
        Ok(Self(engine::mount_images(capsule)?))
    }

    pub(super) fn path(&self) -> &Path {
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
pub(super) fn list(directory: &Path) -> anyhow::Result<Vec<(String, u64)>> {
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

/// Sends the listed files.
pub(super) async fn send(
    send: &mut quinn::SendStream,
    directory: &Path,
    files: &[(String, u64)],
) -> anyhow::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    for (name, length) in files {
        let mut file = tokio::fs::File::open(directory.join(name)).await?;
        file.set_max_buf_size(1 << 20);
        let mut left = *length;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let count = file.read(&mut buffer[..want]).await?;
            ensure!(count > 0, "{name} became shorter while it was sent");
            send.write_all(&buffer[..count]).await?;
            left -= count as u64;
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
    let total: u64 = files.iter().map(|(_, length)| length).sum();
    ensure!(total <= IMAGE_BYTES_MAX, "an image of {total} bytes is too large");
    for (name, length) in files {
        let plain = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
        ensure!(plain, "the image has a file named {name:?}");
        let mut file = tokio::fs::File::create_new(directory.join(name)).await?;
        file.set_max_buf_size(1 << 20);
        let mut left = *length;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(1 << 20);
            let chunk = receive.read_chunk(want, true).await?.context("the image ended early")?;
            left -= chunk.bytes.len() as u64;
            file.write_all(&chunk.bytes).await?;
        }
        file.flush().await?;
    }
    Ok(())
}
