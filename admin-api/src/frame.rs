//! Frames: `[kind u8][length u32, big endian][payload]`.
//!
//! Kinds with the high bit set may be left out by a reader that doesn't know
//! them; any other unknown kind is an error. That is how hints can be added.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::{error::ErrorView, limits, request::Call};

const HEADER_BYTES: usize = 5;
const OPTIONAL: u8 = 0x80;

mod kind {
    pub(super) const CALL: u8 = 1;
    pub(super) const STDIN: u8 = 2;
    pub(super) const STDIN_END: u8 = 3;
    pub(super) const SIGNAL: u8 = 4;
    pub(super) const CANCEL: u8 = 5;
    pub(super) const FILE: u8 = 6;
    pub(super) const FILE_END: u8 = 7;
    pub(super) const STDOUT: u8 = 16;
    pub(super) const STDERR: u8 = 17;
    pub(super) const POSITION: u8 = 18;
    pub(super) const PROGRESS: u8 = 0x80 | 19;
    pub(super) const RESULT: u8 = 32;
    pub(super) const ERROR: u8 = 33;
    pub(super) const EXIT: u8 = 34;
    pub(super) const MOVED: u8 = 35;
}

/// One message of either direction.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// The request; the client's first frame.
    Call(Call),
    /// Input for the program.
    Stdin(Bytes),
    /// The input's end.
    StdinEnd,
    /// A signal for the program, by its Linux number.
    Signal(i32),
    /// Ctrl-C in `move`: undo, if it is not too late.
    Cancel,
    /// A piece of a capsule file, to the client in `suspend`, from it in `resume`.
    File(Bytes),
    /// In `suspend`: the file is whole, and the client is to make it durable; it says the same when it has. In
    /// `resume`: that was all of the file.
    FileEnd,
    /// The program's output.
    Stdout(Bytes),
    /// The program's error output.
    Stderr(Bytes),
    /// The log position after all output sent so far. Comes after at most
    /// [`limits::GROUP_BYTES_MAX`] of output; a client writes the output out
    /// only when the position has come, so a cut repeats and loses nothing.
    Position(u64),
    /// How far it is.
    Progress(Progress),
    /// It is done; the last frame.
    Result(Body),
    /// It failed; the last frame.
    Error(ErrorView),
    /// The program ended with this code, 128 + n for signal n; the last frame.
    Exit(i32),
    /// The capsule left this host; the last frame. The client calls again.
    Moved(Moved),
}

/// How far a long verb is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The phase, one word.
    pub phase: String,
    /// Whether the capsule runs at this moment.
    pub state: RunState,
    /// Done of this phase; absent where bytes mean nothing.
    #[serde(default)]
    pub done_bytes: Option<u64>,
    /// To do in this phase, as far as it is known.
    #[serde(default)]
    pub total_bytes: Option<u64>,
    /// More in words, such as "round 2" or what it waits for.
    #[serde(default)]
    pub message: String,
    /// How long the capsule has been paused.
    #[serde(default)]
    pub paused_ms: Option<f64>,
    /// The phase is over and took this long.
    #[serde(default)]
    pub finished_ms: Option<f64>,
}

/// Whether a capsule runs at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RunState {
    /// Its processes run.
    #[default]
    Running,
    /// Its processes stand still.
    Paused,
}

impl RunState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Paused => "PAUSED",
        }
    }
}

/// Where a capsule went while its output was followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The host it is on.
    pub to: String,
    /// Its generation there.
    #[serde(default)]
    pub generation: u64,
}

/// The JSON of an answer, passed through as it is until someone wants its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body(Bytes);

impl Body {
    /// The JSON of an answer.
    ///
    /// # Panics
    /// Never for the structs of [`crate::result`]: all their keys are strings.
    pub fn of<T: Serialize>(answer: &T) -> Self {
        Self(json(answer))
    }

    /// The answer in it.
    ///
    /// # Errors
    /// When it is no such answer.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.0)
    }

    /// The JSON text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A frame that was not looked into, for passing on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawFrame {
    /// The kind's number.
    pub kind: u8,
    /// The payload.
    pub payload: Bytes,
}

/// Bytes that are no frame.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The stream failed.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// The stream ended inside a frame.
    #[error("the connection ended in the middle of a frame")]
    Cut,
    /// The length is beyond [`limits::FRAME_BYTES_MAX`].
    #[error("a frame of {0} bytes is longer than allowed")]
    TooLong(usize),
    /// A kind that this version doesn't know and may not leave out.
    #[error("frames of kind {0} are not known to this version")]
    UnknownKind(u8),
    /// A payload of the wrong length.
    #[error("a frame of kind {kind} has a payload of {bytes} bytes")]
    Length {
        /// The frame's kind.
        kind: u8,
        /// The payload's length.
        bytes: usize,
    },
    /// A payload that is not the JSON it should be.
    #[error("a frame of kind {kind} can't be read: {source}")]
    Json {
        /// The frame's kind.
        kind: u8,
        /// Why not.
        source: serde_json::Error,
    },
}

impl Frame {
    /// Appends the frame to `out`.
    ///
    /// # Errors
    /// [`FrameError::TooLong`].
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), FrameError> {
        self.to_raw().encode(out)
    }

    /// Takes the first whole frame off `buffer`; `None` when more bytes are
    /// needed. Unknown frames that may be left out are left out.
    ///
    /// # Errors
    /// When the bytes are no frame; nothing useful can follow.
    pub fn decode(buffer: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        while let Some(raw) = RawFrame::decode(buffer)? {
            if let Some(frame) = raw.read()? {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// Whether nothing follows it.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Result(_) | Self::Error(_) | Self::Exit(_) | Self::Moved(_))
    }

    /// The frame as it travels.
    pub fn to_raw(&self) -> RawFrame {
        let (kind, payload) = match self {
            Self::Call(call) => (kind::CALL, json(call)),
            Self::Stdin(bytes) => (kind::STDIN, bytes.clone()),
            Self::StdinEnd => (kind::STDIN_END, Bytes::new()),
            Self::Signal(number) => (kind::SIGNAL, Bytes::copy_from_slice(&number.to_be_bytes())),
            Self::Cancel => (kind::CANCEL, Bytes::new()),
            Self::File(bytes) => (kind::FILE, bytes.clone()),
            Self::FileEnd => (kind::FILE_END, Bytes::new()),
            Self::Stdout(bytes) => (kind::STDOUT, bytes.clone()),
            Self::Stderr(bytes) => (kind::STDERR, bytes.clone()),
            Self::Position(offset) => (kind::POSITION, Bytes::copy_from_slice(&offset.to_be_bytes())),
            Self::Progress(progress) => (kind::PROGRESS, json(progress)),
            Self::Result(body) => (kind::RESULT, body.0.clone()),
            Self::Error(error) => (kind::ERROR, json(error)),
            Self::Exit(code) => (kind::EXIT, Bytes::copy_from_slice(&code.to_be_bytes())),
            Self::Moved(moved) => (kind::MOVED, json(moved)),
        };
        RawFrame { kind, payload }
    }
}

impl RawFrame {
    /// Appends the frame to `out`.
    ///
    /// # Errors
    /// [`FrameError::TooLong`].
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), FrameError> {
        let bytes = self.payload.len();
        let length = u32::try_from(bytes)
            .ok()
            .filter(|_| bytes <= limits::FRAME_BYTES_MAX)
            .ok_or(FrameError::TooLong(bytes))?;
        out.reserve(HEADER_BYTES + bytes);
        out.put_u8(self.kind);
        out.put_u32(length);
        out.extend_from_slice(&self.payload);
        Ok(())
    }

    /// Takes the first whole frame off `buffer`; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError::TooLong`].
    pub fn decode(buffer: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let Some((&[kind, a, b, c, d], _)) = buffer.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let bytes = u32::from_be_bytes([a, b, c, d]) as usize;
        if bytes > limits::FRAME_BYTES_MAX {
            return Err(FrameError::TooLong(bytes));
        }
        if buffer.len() < HEADER_BYTES + bytes {
            return Ok(None);
        }
        buffer.advance(HEADER_BYTES);
        Ok(Some(Self { kind, payload: buffer.split_to(bytes).freeze() }))
    }

    /// Looks into the frame; `None` when it may be left out.
    ///
    /// # Errors
    /// When it is of an unknown kind or its payload is not what the kind says.
    pub fn read(self) -> Result<Option<Frame>, FrameError> {
        let frame = match self.kind {
            kind::CALL => Frame::Call(self.json()?),
            kind::STDIN => Frame::Stdin(self.payload),
            kind::STDIN_END => Frame::StdinEnd,
            kind::SIGNAL => Frame::Signal(i32::from_be_bytes(self.fixed()?)),
            kind::CANCEL => Frame::Cancel,
            kind::FILE => Frame::File(self.payload),
            kind::FILE_END => Frame::FileEnd,
            kind::STDOUT => Frame::Stdout(self.payload),
            kind::STDERR => Frame::Stderr(self.payload),
            kind::POSITION => Frame::Position(u64::from_be_bytes(self.fixed()?)),
            kind::PROGRESS => Frame::Progress(self.json()?),
            kind::RESULT => Frame::Result(Body(self.payload)),
            kind::ERROR => Frame::Error(self.json()?),
            kind::EXIT => Frame::Exit(i32::from_be_bytes(self.fixed()?)),
            kind::MOVED => Frame::Moved(self.json()?),
            unknown if unknown & OPTIONAL != 0 => return Ok(None),
            unknown => return Err(FrameError::UnknownKind(unknown)),
        };
        Ok(Some(frame))
    }

    fn json<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        serde_json::from_slice(&self.payload).map_err(|source| FrameError::Json { kind: self.kind, source })
    }

    fn fixed<const N: usize>(&self) -> Result<[u8; N], FrameError> {
        self.payload
            .as_ref()
            .try_into()
            .map_err(|_| FrameError::Length { kind: self.kind, bytes: self.payload.len() })
    }
}

fn json<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).expect("structs with string keys are always JSON").into()
}

#[cfg(test)]
mod tests;
