//! Calls, from the side that makes them.

use std::path::Path;

use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::{
    error::ErrorView,
    frame::{Body, Frame, FrameError, Progress},
    request::Call,
    stream::{FrameReader, FrameWriter},
};

/// A call under way.
#[derive(Debug)]
pub struct Conversation<R, W> {
    /// What the server says.
    pub reader: FrameReader<R>,
    /// What the client adds to its request.
    pub writer: FrameWriter<W>,
}

/// Why a call had no result.
#[derive(Debug, Error)]
pub enum AskError {
    /// The server says that it failed.
    #[error("{0}")]
    Refused(Box<ErrorView>),
    /// The stream ended before the answer.
    #[error("the sidecar went away before it answered")]
    Gone,
    /// The stream carried something else than frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The answer is not the one asked for.
    #[error("the sidecar answered something else: {0}")]
    Answer(#[from] serde_json::Error),
}

/// Opens the admin socket.
///
/// # Errors
/// As `connect(2)` says.
pub async fn connect(socket: &Path) -> std::io::Result<Conversation<OwnedReadHalf, OwnedWriteHalf>> {
    let (reader, writer) = UnixStream::connect(socket).await?.into_split();
    Ok(Conversation::new(reader, writer))
}

/// Makes a call on a stream of any kind.
///
/// # Errors
/// When the stream fails.
pub async fn call<R, W>(reader: R, writer: W, call: Call) -> Result<Conversation<R, W>, FrameError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut conversation = Conversation::new(reader, writer);
    conversation.writer.write(&Frame::Call(call)).await?;
    Ok(conversation)
}

/// Makes a call on the admin socket and waits for its result.
///
/// # Errors
/// When there is no result.
pub async fn ask<T: DeserializeOwned>(socket: &Path, call: Call) -> Result<T, AskError> {
    let mut conversation = connect(socket).await.map_err(FrameError::Io)?;
    conversation.writer.write(&Frame::Call(call)).await?;
    Ok(conversation.outcome(|_| ()).await?.parse()?)
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Conversation<R, W> {
    /// A call that was not made yet.
    pub fn new(reader: R, writer: W) -> Self {
        Self { reader: FrameReader::new(reader), writer: FrameWriter::new(writer) }
    }

    /// Waits for the result, showing progress. Output is thrown away.
    ///
    /// # Errors
    /// When there is none.
    pub async fn outcome(&mut self, mut progress: impl FnMut(Progress)) -> Result<Body, AskError> {
        loop {
            match self.reader.next().await? {
                Some(Frame::Result(body)) => return Ok(body),
                Some(Frame::Error(error)) => return Err(AskError::Refused(Box::new(error))),
                Some(Frame::Progress(step)) => progress(step),
                Some(Frame::Exit(_) | Frame::Moved(_)) | None => return Err(AskError::Gone),
                Some(_) => {}
            }
        }
    }
}
