//! The admin socket.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use admin_api::{FrameReader, FrameWriter};
use anyhow::{Context, bail};
use tokio::net::{UnixListener, UnixStream};

use super::{Caller, serve};
use crate::sidecar::Sidecar;

/// Binds the admin socket; a socket that nobody serves any more is replaced.
///
/// # Errors
/// Another sidecar serves it, or the path can't be used.
pub async fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    }
    if UnixStream::connect(path).await.is_ok() {
        bail!("another sidecar serves {}; end it, or choose another --admin", path.display());
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("replacing {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("binding {}", path.display()))?;
    // Who may use it is as good as root here.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Serves calls for the life of the sidecar.
pub async fn accept(sidecar: Arc<Sidecar>, listener: UnixListener) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await.context("the admin socket")?;
        let peer = stream.peer_cred().ok();
        let (reader, writer) = stream.into_split();
        let input = FrameReader::new(Box::new(reader) as Box<_>);
        let output = FrameWriter::new(Box::new(writer) as Box<_>);
        tokio::spawn(serve(sidecar.clone(), input, output, Caller::Local(peer)));
    }
}
