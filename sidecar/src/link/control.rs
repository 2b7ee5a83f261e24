//! The tasks of one link: control frames out, control frames in, data streams in, requests in.

use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::BytesMut;
use overlay_proto::{Frame, StreamStart, frame};
use tokio::sync::mpsc;

use super::{Link, Receiver, Upcalls, datagram};

/// Writes queued frames in batches until the link goes down.
pub(super) async fn write_frames(
    link: &Link,
    mut stream: quinn::SendStream,
    mut frames: mpsc::Receiver<Frame>,
) -> anyhow::Result<()> {
    let mut buffer = BytesMut::new();
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            () = link.down.cancelled() => return Ok(()),
            taken = frames.recv_many(&mut batch, 256) => if taken == 0 { return Ok(()) },
        }
        for frame in batch.drain(..) {
            frame::encode(&frame, &mut buffer);
        }
        stream.write_chunk(buffer.split().freeze()).await.context("the control stream broke")?;
    }
}

/// Reads frames and passes them on until the link goes down.
pub(super) async fn read_frames(
    link: &Arc<Link>,
    mut stream: quinn::RecvStream,
    mut buffer: BytesMut,
    upcalls: &dyn Upcalls,
) -> anyhow::Result<()> {
    loop {
        while let Some(frame) = frame::decode(&mut buffer)? {
            match frame {
                Frame::Ping => link.transmit(Frame::Pong),
                Frame::Pong => link.ponged(),
                frame => upcalls.frame(link, frame),
            }
        }
        let Some(chunk) = stream.read_chunk(64 * 1024, true).await.context("the control stream broke")?
        else {
            bail!("the control stream ended");
        };
        buffer.extend_from_slice(&chunk.bytes);
    }
}

/// Reads the next of the frames with which the control stream begins.
pub(super) async fn read_first(
    stream: &mut quinn::RecvStream,
    buffer: &mut BytesMut,
) -> anyhow::Result<Frame> {
    loop {
        if let Some(frame) = frame::decode(buffer)? {
            return Ok(frame);
        }
        let Some(chunk) = stream.read_chunk(4096, true).await? else { bail!("the control stream ended") };
        buffer.extend_from_slice(&chunk.bytes);
    }
}

/// Accepts the streams of sessions and of large datagrams; each is passed on when its header is complete.
pub(super) async fn accept_data(
    link: &Arc<Link>,
    connection: &quinn::Connection,
    upcalls: &Arc<dyn Upcalls>,
) -> anyhow::Result<()> {
    loop {
        let stream = connection.accept_uni().await?;
        let (link, upcalls) = (link.clone(), upcalls.clone());
        tokio::spawn(async move {
            match read_start(stream).await {
                Ok((StreamStart::Session(header), stream, head)) => {
                    upcalls.data(&link, header, Receiver::quic(stream, head.freeze()));
                }
                Ok((StreamStart::Datagram, stream, head)) => {
                    datagram::read_large(&link, stream, head, upcalls.as_ref()).await;
                }
                Err(error) => tracing::debug!(host = %link.host, %error, "data stream without a header"),
            }
        });
    }
}

/// What the stream is for, and what came together with that.
async fn read_start(
    mut stream: quinn::RecvStream,
) -> anyhow::Result<(StreamStart, quinn::RecvStream, BytesMut)> {
    let mut buffer = BytesMut::new();
    loop {
        if let Some(start) = StreamStart::decode(&mut buffer)? {
            return Ok((start, stream, buffer));
        }
        let Some(chunk) = stream.read_chunk(64 * 1024, true).await? else { bail!("the stream ended") };
        buffer.extend_from_slice(&chunk.bytes);
    }
}

/// Accepts the request streams of the other sidecar.
pub(super) async fn accept_requests(
    link: &Arc<Link>,
    connection: &quinn::Connection,
    upcalls: &dyn Upcalls,
) -> anyhow::Result<()> {
    loop {
        let (send, receive) = connection.accept_bi().await?;
        upcalls.request(link, send, receive);
    }
}
