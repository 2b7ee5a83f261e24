//! The data streams of sessions: one direction each, over QUIC or inside this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};

use crate::limits::{LOCAL_STREAM_CHUNKS, READ_CHUNK_BYTES};

/// The stream broke: its link went, or the other side wants no more of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data stream broke")]
pub struct StreamBroken;

/// Why a write failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteError {
    /// The stream broke.
    Broken,
    /// The other side has no room, and dropped the stream with what it had not used: it attaches again when it has.
    Parked,
}

/// What a stream is stopped with when it is parked.
const PARKED: quinn::VarInt = quinn::VarInt::from_u32(1);

/// The sending end.
#[derive(Debug)]
pub enum Sender {
    /// Over the link to another host.
    Quic(quinn::SendStream, Arc<Semaphore>),
    /// To a half on this host.
    Local(mpsc::Sender<Bytes>, Arc<AtomicBool>),
}

/// The receiving end.
#[derive(Debug)]
pub struct Receiver {
    /// Bytes that arrived together with the stream's header.
    head: Bytes,
    carrier: ReceiverCarrier,
}

#[derive(Debug)]
enum ReceiverCarrier {
    Quic(quinn::RecvStream),
    Local(mpsc::Receiver<Bytes>, Arc<AtomicBool>),
}

/// Makes both ends of a stream that stays on this host.
pub(super) fn local() -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::channel(LOCAL_STREAM_CHUNKS);
    let parked = Arc::new(AtomicBool::new(false));
    let carrier = ReceiverCarrier::Local(receiver, parked.clone());
    (Sender::Local(sender, parked), Receiver { head: Bytes::new(), carrier })
}

impl Sender {
    /// Writes some of `pending` and takes what was written off its front; cancelling loses nothing.
    ///
    /// # Errors
    /// The stream broke or was parked; what was written before may or may not have arrived.
    pub async fn write(&mut self, pending: &mut Bytes) -> Result<usize, WriteError> {
        let before = pending.len();
        match self {
            Self::Quic(stream, _) => {
                stream.write_chunks(std::slice::from_mut(pending)).await.map_err(|error| match error {
                    quinn::WriteError::Stopped(PARKED) => WriteError::Parked,
                    _ => WriteError::Broken,
                })?;
            }
            Self::Local(sender, parked) => {
                let permit = sender.reserve().await.map_err(|_| match parked.load(Ordering::Acquire) {
                    true => WriteError::Parked,
                    false => WriteError::Broken,
                })?;
                permit.send(std::mem::take(pending));
            }
        }
        Ok(before - pending.len())
    }

    /// Permits to write much, of all streams of the link; none where streams share nothing.
    pub fn turns(&self) -> Option<&Arc<Semaphore>> {
        match self {
            Self::Quic(_, turns) => Some(turns),
            Self::Local(..) => None,
        }
    }

    /// Ends the stream after what was written.
    pub fn finish(self) {
        if let Self::Quic(mut stream, _) = self {
            let _ = stream.finish();
        }
    }

    /// Ends the stream and drops what is not sent yet.
    pub fn abandon(self) {
        if let Self::Quic(mut stream, _) = self {
            let _ = stream.reset(quinn::VarInt::from_u32(0));
        }
    }
}

impl Receiver {
    /// A stream from another host whose header was followed by `head`.
    pub fn quic(stream: quinn::RecvStream, head: Bytes) -> Self {
        Self { head, carrier: ReceiverCarrier::Quic(stream) }
    }

    /// The next bytes, or `None` at the end of the stream; cancelling loses nothing.
    ///
    /// # Errors
    /// The stream broke.
    pub async fn read(&mut self) -> Result<Option<Bytes>, StreamBroken> {
        if !self.head.is_empty() {
            return Ok(Some(std::mem::take(&mut self.head)));
        }
        match &mut self.carrier {
            ReceiverCarrier::Quic(stream) => match stream.read_chunk(READ_CHUNK_BYTES, true).await {
                Ok(chunk) => Ok(chunk.map(|chunk| chunk.bytes)),
                Err(_) => Err(StreamBroken),
            },
            ReceiverCarrier::Local(receiver, _) => Ok(receiver.recv().await),
        }
    }

    /// Drops the stream and what it still holds, because there is no room for it; the sender waits for an attach.
    pub fn park(self) {
        match self.carrier {
            ReceiverCarrier::Quic(mut stream) => {
                let _ = stream.stop(PARKED);
            }
            ReceiverCarrier::Local(_, parked) => parked.store(true, Ordering::Release),
        }
    }
}
