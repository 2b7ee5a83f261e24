//! Calls to the sidecar of this host.

use std::{future::Future, io, time::Duration};

use admin_api::{AskError, Body, Call, Conversation, ErrorView, Frame, FrameError, Progress, Request};
use serde::de::DeserializeOwned;
use tokio::{
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    time::sleep,
};

use crate::{context::Context, failure::Failure};

/// A call under way on the admin socket.
pub(crate) type Open = Conversation<OwnedReadHalf, OwnedWriteHalf>;

/// How long an answer may take before the wait is mentioned.
const SILENCE_MENTIONED_AFTER: Duration = Duration::from_secs(3);

/// Asks and waits for the answer.
pub(crate) async fn ask<T: DeserializeOwned>(context: &Context, request: Request) -> Result<T, Failure> {
    let mut open = open(context, request).await?;
    let notes = |progress: Progress| {
        if !progress.message.is_empty() {
            context.note(&progress.message);
        }
    };
    let outcome = mention_silence(context, open.outcome(notes)).await;
    read(outcome.map_err(|error| explain(error, context))?)
}

/// The answer in a body.
pub(crate) fn read<T: DeserializeOwned>(body: Body) -> Result<T, Failure> {
    body.parse().map_err(|error| {
        ErrorView::new("sidecar/version", "the sidecar answered something that capsule can't read")
            .why(error)
            .next("compare capsule --version with the VERSION of capsule hosts")
            .into()
    })
}

/// Makes a call and leaves the rest of the conversation to the caller.
pub(crate) async fn open(context: &Context, request: Request) -> Result<Open, Failure> {
    let mut open = admin_api::connect(&context.socket).await.map_err(|error| unreachable(context, &error))?;
    open.writer
        .write(&Frame::Call(Call::new(request)))
        .await
        .map_err(|error| explain(AskError::Frame(error), context))?;
    Ok(open)
}

/// Waits, and says so when it takes long.
async fn mention_silence<T>(context: &Context, answer: impl Future<Output = T>) -> T {
    tokio::pin!(answer);
    tokio::select! {
        answered = &mut answer => return answered,
        () = sleep(SILENCE_MENTIONED_AFTER) => {}
    }
    context.note(&format!("waiting for the sidecar at {}", context.socket.display()));
    answer.await
}

/// Puts a call without an answer into words.
pub(crate) fn explain(error: AskError, context: &Context) -> Failure {
    match error {
        AskError::Refused(error) => error.into(),
        AskError::Gone | AskError::Frame(FrameError::Io(_) | FrameError::Cut) => {
            ErrorView::new("sidecar/gone", "the sidecar went away before it answered")
                .on(context.socket.display().to_string())
                .why("what was asked for may or may not have been done")
                .next("look with capsule ps and ask again: repeating is harmless")
                .into()
        }
        AskError::Frame(error) => {
            ErrorView::new("sidecar/protocol", "what answers is not a sidecar of this version")
                .on(context.socket.display().to_string())
                .why(error)
                .next("--admin PATH picks another")
                .into()
        }
        AskError::Answer(error) => {
            Failure::local("sidecar/version", "the answer of the sidecar can't be read", error)
        }
    }
}

fn unreachable(context: &Context, error: &io::Error) -> Failure {
    let socket = context.socket.display().to_string();
    let view = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            ErrorView::new("sidecar/permission", format!("you may not use the sidecar at {socket}"))
                .why(error)
                .next("join the group capsule or use sudo; --admin PATH picks another socket")
        }
        _ => ErrorView::new("sidecar/away", format!("no sidecar answers at {socket}")).why(error).next(format!(
            "start it with capsule-sidecar serve --data DIR --listen ADDR:PORT --admin {socket} --http ADDR:PORT; \
             --admin PATH picks another"
        )),
    };
    view.on(socket).into()
}
