//! The data streams of sessions: one direction each, over QUIC or inside this process.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::limits::{LOCAL_STREAM_CHUNKS, READ_CHUNK_BYTES};

/// The stream broke: its link went, or the other side wants no more of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data stream broke")]
pub struct StreamBroken;

/// The sending end.
#[derive(Debug)]
pub enum Sender {
    /// Over the link to another host.
    Quic(quinn::SendStream),
    /// To a half on this host.
    Local(mpsc::Sender<Bytes>),
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
    Local(mpsc::Receiver<Bytes>),
}

/// Makes both ends of a stream that stays on this host.
pub(super) fn local() -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::channel(LOCAL_STREAM_CHUNKS);
    (Sender::Local(sender), Receiver { head: Bytes::new(), carrier: ReceiverCarrier::Local(receiver) })
}

impl Sender {
    /// Writes some of `pending` and takes what was written off its front; cancelling loses nothing.
    ///
    /// # Errors
    /// The stream broke; what was written before may or may not have arrived.
    pub async fn write(&mut self, pending: &mut Bytes) -> Result<usize, StreamBroken> {
        let before = pending.len();
        match self {
            Self::Quic(stream) => {
                stream.write_chunks(std::slice::from_mut(pending)).await.map_err(|_| StreamBroken)?;
            }
            Self::Local(sender) => {
                let permit = sender.reserve().await.map_err(|_| StreamBroken)?;
                permit.send(std::mem::take(pending));
            }
        }
        Ok(before - pending.len())
    }

    /// Ends the stream after what was written.
    pub fn finish(self) {
        if let Self::Quic(mut stream) = self {
            let _ = stream.finish();
        }
    }

    /// Ends the stream and drops what is not sent yet.
    pub fn abandon(self) {
        if let Self::Quic(mut stream) = self {
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
            ReceiverCarrier::Local(receiver) => Ok(receiver.recv().await),
        }
    }
}
