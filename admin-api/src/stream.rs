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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{io::duplex, time::timeout};

    use super::*;
    use crate::{
        client::{AskError, call},
        error::ErrorView,
        frame::{Body, Progress},
        request::{Call, Request},
    };

    #[tokio::test]
    async fn a_dropped_read_loses_nothing() {
        let (near, mut far) = duplex(64);
        let mut reader = FrameReader::new(near);
        let mut bytes = BytesMut::new();
        Frame::Stdout(Bytes::from_static(b"hello")).encode(&mut bytes).unwrap();
        for byte in bytes {
            assert!(timeout(Duration::from_millis(1), reader.next()).await.is_err());
            far.write_all(&[byte]).await.unwrap();
        }
        assert_eq!(reader.next().await.unwrap(), Some(Frame::Stdout(Bytes::from_static(b"hello"))));
        far.write_all(&[1, 0]).await.unwrap();
        drop(far);
        assert!(matches!(reader.next().await, Err(FrameError::Cut)));
    }

    #[tokio::test]
    async fn long_output_goes_in_chunks() {
        let (near, far) = duplex(1 << 20);
        let sent: Bytes = vec![7; 2 * limits::CHUNK_BYTES + 1].into();
        let mut writer = FrameWriter::new(near);
        writer.write_bytes(Frame::Stderr, sent.clone()).await.unwrap();
        drop(writer.finish().await.unwrap());
        let mut reader = FrameReader::new(far);
        let mut seen = Vec::new();
        while let Some(frame) = reader.next().await.unwrap() {
            let Frame::Stderr(bytes) = frame else { panic!("{frame:?}") };
            assert!(bytes.len() <= limits::CHUNK_BYTES);
            seen.extend_from_slice(&bytes);
        }
        assert_eq!(seen, sent);
    }

    /// As a sidecar passes a verb on: a call on one stream, frames as they come
    /// on the other.
    #[tokio::test]
    async fn a_call_passed_on_reads_as_if_it_were_near() {
        let (client, server) = duplex(1 << 16);
        let (read, write) = tokio::io::split(client);
        let mut asking = call(read, write, Call::new(Request::Hosts).forwarded("a", None)).await.unwrap();
        let (read, write) = tokio::io::split(server);
        let (mut reader, mut writer) = (FrameReader::new(read), FrameWriter::new(write));
        let Some(Frame::Call(call)) = reader.next().await.unwrap() else { panic!("no call") };
        assert_eq!((call.request, call.forwarded_by.as_deref()), (Request::Hosts, Some("a")));
        let answer = Frame::Result(Body::of(&vec![1, 2]));
        for frame in [Frame::Progress(Progress::default()), answer] {
            writer.write_raw(&frame.to_raw()).await.unwrap();
        }
        let mut steps = 0;
        let body = asking.outcome(|_| steps += 1).await.unwrap();
        assert_eq!((body.parse::<Vec<u8>>().unwrap(), steps), (vec![1, 2], 1));
        writer.write(&Frame::Error(ErrorView::new("a/b", "no"))).await.unwrap();
        assert!(matches!(asking.outcome(|_| ()).await, Err(AskError::Refused(error)) if error.code == "a/b"));
    }
}
