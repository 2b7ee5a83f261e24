//! Passing a call to the sidecar of another host, frame by frame.

use std::sync::Arc;

use admin_api::{Body, Call, ErrorView, Frame, FrameReader, FrameWriter, Request};
use overlay_proto::HostName;

use super::{Input, Output, write};
use crate::asker;
use crate::requests::{self, Kind};
use crate::sidecar::Sidecar;

/// Asks `host` something whose answer is one frame.
pub(crate) async fn ask(
    sidecar: &Arc<Sidecar>,
    host: &HostName,
    request: Request,
) -> Result<Body, ErrorView> {
    let away = |why: String| ErrorView::new("link/host-away", format!("host {host} can't be asked")).why(why);
    let opened = requests::open(sidecar, host, Kind::Admin).await;
    let (send, receive) = opened.map_err(|error| away(format!("{error:#}")))?;
    let mut reader = FrameReader::new(receive);
    let mut writer = FrameWriter::new(send);
    let call = Call::new(request).forwarded(sidecar.me.to_string(), asker::to_forward());
    writer.write(&Frame::Call(call)).await.map_err(|error| away(caused(error)))?;
    loop {
        match reader.next().await {
            Ok(Some(Frame::Result(body))) => return Ok(body),
            Ok(Some(Frame::Error(error))) => return Err(error),
            Ok(Some(_)) => {}
            Ok(None) => return Err(away("its sidecar went away before it answered".into())),
            Err(error) => return Err(away(caused(error))),
        }
    }
}

/// With what lies behind it: that a connection was lost says too little.
fn caused(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}

/// Carries a call to `host` and everything that is answered back.
pub(super) async fn pass_on(
    sidecar: &Arc<Sidecar>,
    host: &HostName,
    call: Call,
    input: &mut Input,
    output: &mut Output,
) -> Result<(), ErrorView> {
    let next = match &call.request {
        Request::Rm { name, .. } => format!(
            "is its sidecar running? capsule hosts shows {host}; if the host is gone for good: capsule hosts remove {host}, \
             then capsule rm {name}"
        ),
        _ => format!("is its sidecar running? capsule hosts shows {host}"),
    };
    let away = |why: String| {
        ErrorView::new("link/host-away", format!("host {host} can't be asked")).why(why).next(next.clone())
    };
    let opened = requests::open(sidecar, host, Kind::Admin).await;
    let (send, receive) = opened.map_err(|error| away(format!("{error:#}")))?;
    let mut reader = FrameReader::new(receive);
    let mut writer = FrameWriter::new(send);
    let call = call.forwarded(sidecar.me.to_string(), asker::to_forward());
    writer.write(&Frame::Call(call)).await.map_err(|error| away(caused(error)))?;
    loop {
        tokio::select! {
            answer = reader.next() => {
                let frame = match answer {
                    Ok(Some(frame)) => frame,
                    Ok(None) => return Err(away("its sidecar went away before it answered".into())),
                    Err(error) => return Err(away(caused(error))),
                };
                write(output, &frame).await?;
                if frame.is_last() {
                    return Ok(());
                }
            }
            said = input.next() => match said {
                Ok(Some(frame)) => { let _ = writer.write(&frame).await; }
                // The far side sees the end of this stream and stops what it does for a client that is gone.
                Ok(None) | Err(_) => {
                    let _ = writer.finish().await;
                    return Ok(());
                }
            },
        }
    }
}
