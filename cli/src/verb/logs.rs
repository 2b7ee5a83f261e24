//! `capsule logs`

use admin_api::{
    AskError, Frame, Request,
    result::{InspectResult, LogsResult},
};
use clap::Args;
use serde::Serialize;

use crate::{
    context::Context,
    failure::Failure,
    follow::{Followed, SignalRelay, follow},
    output::{KeptText, Output, Piece},
    sidecar,
};

/// Print what a capsule's program wrote
#[derive(Args, Debug)]
pub(crate) struct Logs {
    /// The capsule
    name: String,

    /// Go on until the program ends, wherever it moves
    #[arg(short, long)]
    follow: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    capsule: &'a str,
    id: &'a str,
    #[serde(flatten)]
    output: KeptText,
}

impl Logs {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let mut output = Output::new(context);
        let id = if self.follow {
            self.follow_on(context, &mut output).await?
        } else {
            self.as_it_is(context, &mut output).await?
        };
        if let Some(output) = output.kept() {
            context.print_json(&Document { capsule: &self.name, id: &id, output })?;
        }
        Ok(0)
    }

    async fn follow_on(&self, context: &Context, output: &mut Output) -> Result<String, Failure> {
        let inspect = Request::Inspect { name: self.name.clone() };
        let answer: InspectResult = sidecar::ask(context, inspect).await?;
        let mut followed = Followed { name: self.name.clone(), id: answer.capsule.id, position: 0 };
        follow(context, &mut followed, output, &mut SignalRelay::none()).await?;
        Ok(followed.id)
    }

    async fn as_it_is(&self, context: &Context, output: &mut Output) -> Result<String, Failure> {
        let mut open = sidecar::open(context, Request::Logs { name: self.name.clone() }).await?;
        loop {
            let frame = open.reader.next().await.map_err(|error| sidecar::explain(error.into(), context))?;
            match frame {
                Some(Frame::Stdout(bytes)) => output.write([Piece::Stdout(bytes)]).await?,
                Some(Frame::Stderr(bytes)) => output.write([Piece::Stderr(bytes)]).await?,
                Some(Frame::Result(body)) => return Ok(sidecar::read::<LogsResult>(body)?.id),
                Some(Frame::Error(error)) => return Err(error.into()),
                Some(_) => {}
                None => return Err(sidecar::explain(AskError::Gone, context)),
            }
        }
    }
}
