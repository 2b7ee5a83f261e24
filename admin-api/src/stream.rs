//! Frames over any byte stream.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{
    frame::{Frame, FrameError, RawFrame},
    limits,
};

const READ_BYTES: usize = 16 << 10;

/// Reads frames. Dropping a pending read loses nothing.
#[derive(Debug)]
pub struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from `stream`.
    pub fn new(stream: R) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    /// The next frame; `None` when the stream ended between two frames.
    ///
    /// # Errors
    /// When the stream fails, ends inside a frame or carries something else.
    pub async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        while let Some(raw) = self.next_raw().await? {
            if let Some(frame) = raw.read()? {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// The next frame, not looked into: for passing on.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn next_raw(&mut self) -> Result<Option<RawFrame>, FrameError> {
        loop {
            if let Some(raw) = RawFrame::decode(&mut self.buffer)? {
                return Ok(Some(raw));
            }
            self.buffer.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(FrameError::Cut) };
            }
        }
    }
}

/// Writes frames. A write that was begun must be finished: dropping it may cut a
/// frame in two.
#[derive(Debug)]
pub struct FrameWriter<W> {
    stream: W,
    buffer: BytesMut,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes to `stream`.
    pub fn new(stream: W) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    /// Writes one frame and flushes.
    ///
    /// # Errors
    /// When the stream fails or the frame is too long.
    pub async fn write(&mut self, frame: &Frame) -> Result<(), FrameError> {
        self.write_raw(&frame.to_raw()).await
    }

    /// Writes a frame as it came.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn write_raw(&mut self, raw: &RawFrame) -> Result<(), FrameError> {
        self.buffer.clear();
        raw.encode(&mut self.buffer)?;
        self.stream.write_all(&self.buffer).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// Writes bytes of any length as frames made by `frame`, such as
    /// `Frame::Stdout`.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn write_bytes(
        &mut self,
        frame: fn(Bytes) -> Frame,
        mut bytes: Bytes,
    ) -> Result<(), FrameError> {
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(limits::CHUNK_BYTES));
            self.write(&frame(chunk)).await?;
        }
        Ok(())
    }

    /// Says that nothing follows, and gives the stream back.
    ///
    /// # Errors
    /// When the stream fails.
    pub async fn finish(mut self) -> Result<W, FrameError> {
        self.stream.shutdown().await?;
        Ok(self.stream)
    }
}
