//! The way from `backup` to the directory that serves, which has the store to itself: a socket in the data directory.
//! Whoever connects gets the facts as the last commit left them, and nothing else.
//!
//! ```text
//!  answer: 0 │ length (8, big-endian) │ facts        or: 1 │ why not, as text
//! ```

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{decode_facts, encode_facts};
use crate::limits::{BACKUP_BYTES_MAX, BACKUP_TIME, HTTP_TIME};
use crate::store::Contents;
use crate::writer::Writer;

const NAME: &str = "backup.sock";

/// Why a running directory gave no facts.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Nobody serves this data directory.
    #[error("no directory serves it")]
    NotServing,
    /// The way there failed.
    #[error("asking the directory that serves it: {0}")]
    Broken(#[from] io::Error),
    /// The directory says why.
    #[error("the directory that serves it could not read its store: {0}")]
    Refused(String),
    /// What came is cut off or something else.
    #[error("the answer of the directory that serves it is cut off, or of another version")]
    Unreadable,
}

/// Opens the socket. The caller has the store, so a socket that is there is an earlier process's.
///
/// # Errors
/// When the folder can't be written.
pub fn bind(data: &Path) -> io::Result<UnixListener> {
    remove(data)?;
    // By way of the folder: the path of a socket has at most 107 characters.
    let (_folder, path) = through(data)?;
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Removes the socket.
///
/// # Errors
/// When the folder can't be written.
pub fn remove(data: &Path) -> io::Result<()> {
    match fs::remove_file(data.join(NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Serves until it is dropped, one after the other.
pub async fn serve(listener: UnixListener, writer: Writer) {
    loop {
        let mut stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "cannot take a connection for a backup");
                sleep(HTTP_TIME).await;
                continue;
            }
        };
        let answer = match writer.contents().await {
            Ok(facts) => {
                info!(
                    revision = facts.revision,
                    capsules = facts.capsules.len(),
                    "giving the facts to a backup"
                );
                whole(&encode_facts(&facts))
            }
            Err(error) => [&[1], error.to_string().as_bytes()].concat(),
        };
        let sent = timeout(BACKUP_TIME, async {
            stream.write_all(&answer).await?;
            stream.shutdown().await
        });
        // Whoever asked sees by the length that it is not all.
        let _ = sent.await;
    }
}

fn whole(facts: &[u8]) -> Vec<u8> {
    let length = u64::try_from(facts.len()).unwrap_or(u64::MAX).to_be_bytes();
    [&[0], length.as_slice(), facts].concat()
}

/// Asks the directory that serves a data directory for the facts.
///
/// # Errors
/// When none serves it, or it does not give them.
pub fn ask(data: &Path) -> Result<Contents, SocketError> {
    let (_folder, path) = through(data)?;
    let mut stream = match UnixStream::connect(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Err(SocketError::NotServing);
        }
        other => other?,
    };
    stream.set_read_timeout(Some(BACKUP_TIME))?;
    let mut answer = Vec::new();
    stream.by_ref().take(BACKUP_BYTES_MAX).read_to_end(&mut answer)?;
    match answer.split_first() {
        Some((0, rest)) => {
            let (length, facts) = rest.split_first_chunk::<8>().ok_or(SocketError::Unreadable)?;
            if usize::try_from(u64::from_be_bytes(*length)) != Ok(facts.len()) {
                return Err(SocketError::Unreadable);
            }
            decode_facts(facts).map_err(|_| SocketError::Unreadable)
        }
        Some((1, why)) => Err(SocketError::Refused(String::from_utf8_lossy(why).into_owned())),
        Some(_) | None => Err(SocketError::Unreadable),
    }
}

/// A short path to the socket, good as long as the folder is held.
fn through(data: &Path) -> io::Result<(File, PathBuf)> {
    let folder = File::open(data)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(NAME);
    Ok((folder, path))
}
