//! Messages on a QUIC stream: four bytes of length (big-endian), then the message.

use bytes::Bytes;
use quinn::{ReadExactError, RecvStream, SendStream};

/// Why a message did not come or go.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream or its connection broke.
    #[error("the connection broke: {0}")]
    Read(#[from] ReadExactError),
    /// The stream or its connection broke.
    #[error("the connection broke: {0}")]
    Write(#[from] quinn::WriteError),
    /// Longer than allowed.
    #[error("a message of {bytes} bytes is longer than the {bytes_max} allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
}

/// Writes one message.
///
/// # Errors
/// When it is longer than `bytes_max`, or the stream breaks.
pub async fn write(stream: &mut SendStream, message: &[u8], bytes_max: usize) -> Result<(), FrameError> {
    Ok(stream.write_chunk(framed(message, bytes_max)?).await?)
}

/// The bytes of one message as they stand on a stream, for messages that go out on many.
///
/// # Errors
/// When it is longer than `bytes_max`.
pub fn framed(message: &[u8], bytes_max: usize) -> Result<Bytes, FrameError> {
    let too_long = FrameError::TooLong { bytes: message.len(), bytes_max };
    let Ok(length) = u32::try_from(message.len()) else { return Err(too_long) };
    if message.len() > bytes_max {
        return Err(too_long);
    }
    // One write for short messages: two would be two packets when the sender is idle.
    let mut bytes = Vec::with_capacity(4 + message.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(message);
    Ok(bytes.into())
}

/// Reads one message; `None` when the stream ended before one began.
///
/// # Errors
/// When it is longer than `bytes_max`, or the stream breaks or ends inside.
pub async fn read(stream: &mut RecvStream, bytes_max: usize) -> Result<Option<Vec<u8>>, FrameError> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > bytes_max {
        return Err(FrameError::TooLong { bytes: length, bytes_max });
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}
