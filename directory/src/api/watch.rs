//! The long streams.

use directory_api::limits::RESPONSE_BYTES_MAX;
use directory_api::{ApiError, Change, frame};
use overlay_proto::HostName;
use quinn::SendStream;

use super::Answers;

/// Sends every change after `from` for as long as the client listens. A slow client holds only itself back: when the
/// changes it has not seen are no longer kept, it gets a snapshot.
pub(super) async fn send(
    stream: &mut SendStream,
    answers: &Answers,
    caller: &HostName,
    mut from: u64,
) -> Result<(), frame::FrameError> {
    let (published, _open) = (answers.published(), answers.metrics().watch());
    let mut revisions = published.revisions();
    if let Err(refusal) = answers.check_reached(from).await {
        return refuse(stream, &refusal).await;
    }
    loop {
        revisions.borrow_and_update();
        if let Err(refusal) = answers.check_member(caller).await {
            return refuse(stream, &refusal).await;
        }
        // A restored directory says nothing before it knows what happened since the backup.
        let told = if published.awaited().is_some() { vec![] } else { published.since(from) };
        if told.is_empty() {
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() { return Ok(()) },
                _ = stream.stopped() => return Ok(()),
            }
            continue;
        }
        for told in told {
            from = told.change.revision();
            for frame in told.frames()? {
                stream.write_chunk(frame.clone()).await?;
            }
        }
    }
}

/// Says why there is nothing to watch.
pub(super) async fn refuse(stream: &mut SendStream, refusal: &ApiError) -> Result<(), frame::FrameError> {
    frame::write(stream, &Change::encode_refusal(refusal), RESPONSE_BYTES_MAX).await?;
    let _ = stream.finish();
    let _ = stream.stopped().await;
    Ok(())
}
