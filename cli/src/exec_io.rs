//! Carries input, output and signals of a program run by `exec`.

use std::future::{Future, pending};

use admin_api::{AskError, Frame, FrameError, FrameReader, FrameWriter, limits};
use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, Stdin},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
};

use crate::{
    context::Context,
    failure::Failure,
    output::{Output, Piece},
    sidecar::{self, Open},
    signals::{self, Signals},
};

/// The code of a program ended by SIGINT: used when we leave without having
/// been able to pass it on.
const INTERRUPTED: i32 = 130;

/// Carries everything until the program ended; its code.
pub(crate) async fn carry(
    context: &Context,
    open: Open,
    input: Option<Stdin>,
    output: &mut Output,
    signals: &mut Signals,
) -> Result<i32, Failure> {
    let (mut reader, mut writer) = (open.reader, open.writer);
    tokio::select! {
        code = receive(context, &mut reader, output) => code,
        () = send(&mut writer, input, signals) => Ok(INTERRUPTED),
    }
}

async fn receive(
    context: &Context,
    reader: &mut FrameReader<OwnedReadHalf>,
    output: &mut Output,
) -> Result<i32, Failure> {
    loop {
        let frame = reader.next().await.map_err(|error| sidecar::explain(error.into(), context))?;
        match frame {
            Some(Frame::Stdout(bytes)) => output.write([Piece::Stdout(bytes)]).await?,
            Some(Frame::Stderr(bytes)) => output.write([Piece::Stderr(bytes)]).await?,
            Some(Frame::Progress(progress)) if !progress.message.is_empty() => {
                context.note(&progress.message);
            }
            Some(Frame::Exit(code)) => return Ok(code),
            Some(Frame::Error(error)) => return Err(error.into()),
            Some(_) => {}
            None => return Err(sidecar::explain(AskError::Gone, context)),
        }
    }
}

/// Sends input and signals. Returns only when asked to end for the second time
/// while the program takes no input, so that the first could not be sent.
async fn send(writer: &mut FrameWriter<OwnedWriteHalf>, mut input: Option<Stdin>, signals: &mut Signals) {
    let mut buffer = BytesMut::new();
    let mut ended = false;
    loop {
        let frame = tokio::select! {
            frame = read(&mut input, &mut buffer), if !ended => frame,
            number = signals.next() => Frame::Signal(number),
        };
        ended |= frame == Frame::StdinEnd;
        match write_or_leave(writer.write(&frame), signals).await {
            Written::All(waiting) => {
                for number in waiting {
                    if writer.write(&Frame::Signal(number)).await.is_err() {
                        return pending().await;
                    }
                }
            }
            // The reader learns why, and has the last word.
            Written::Failed => return pending().await,
            Written::Left => return,
        }
    }
}

async fn read(input: &mut Option<Stdin>, buffer: &mut BytesMut) -> Frame {
    let Some(stdin) = input else {
        return Frame::StdinEnd;
    };
    buffer.reserve(limits::CHUNK_BYTES);
    match stdin.read_buf(buffer).await {
        Ok(0) | Err(_) => Frame::StdinEnd,
        Ok(_) => Frame::Stdin(buffer.split().freeze()),
    }
}

enum Written {
    All(Vec<i32>),
    Failed,
    Left,
}

async fn write_or_leave(
    writing: impl Future<Output = Result<(), FrameError>>,
    signals: &mut Signals,
) -> Written {
    tokio::pin!(writing);
    let mut waiting = Vec::new();
    loop {
        let number = tokio::select! {
            written = &mut writing => {
                return if written.is_ok() { Written::All(waiting) } else { Written::Failed };
            }
            number = signals.next() => number,
        };
        if signals::asks_to_end(number) && waiting.iter().any(|&number| signals::asks_to_end(number)) {
            return Written::Left;
        }
        if !waiting.contains(&number) {
            waiting.push(number);
        }
    }
}
