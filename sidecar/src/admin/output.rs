//! Verbs whose answer is a stream: `logs`, `logs --follow` and foreground `run`, `exec`.

use std::sync::Arc;

use admin_api::request::Exec;
use admin_api::result::LogsResult;
use admin_api::{ErrorView, Frame, FrameError, Moved};
use bytes::Bytes;
use directory_api::CapsuleRecord;
use overlay_proto::{CapsuleId, CapsuleName};
use tokio::io::AsyncReadExt;

use super::{Input, Output, write};
use crate::capsule::{Capsule, Stage, engine};
use crate::sidecar::Sidecar;

/// Pause between looks at a log that has nothing new.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(20);

/// The log as it is.
pub(super) async fn logs(capsule: &Arc<Capsule>, output: &mut Output) -> Result<LogsResult, ErrorView> {
    let mut position = 0;
    loop {
        let next = pass_on(capsule, position, output).await?;
        if next == position {
            let (capsule, id) = (capsule.name().to_string(), capsule.id().to_string());
            return Ok(LogsResult { capsule, id, position });
        }
        position = next;
    }
}

/// Sends what the log has after `position`; returns the position after that.
async fn pass_on(capsule: &Arc<Capsule>, position: u64, output: &mut Output) -> Result<u64, ErrorView> {
    let of = capsule.clone();
    let read = tokio::task::spawn_blocking(move || engine::read_log(&of, position)).await;
    let (chunks, next) = match read {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => {
            return Err(ErrorView::new(
                "logs/unreadable",
                format!("the log of {} can't be read", capsule.name()),
            )
            .why(format!("{error:#}")));
        }
        Err(_) => return Ok(position),
    };
    for (is_error, bytes) in chunks {
        let bytes = Bytes::from(bytes);
        write(output, &if is_error { Frame::Stderr(bytes) } else { Frame::Stdout(bytes) }).await?;
    }
    if next != position {
        write(output, &Frame::Position(next)).await?;
    }
    Ok(next)
}

/// The record of a capsule that is followed; one that is moving is waited for.
pub(super) async fn settled(
    sidecar: &Arc<Sidecar>,
    name: &str,
    id: &str,
) -> Result<CapsuleRecord, ErrorView> {
    let gone = || {
        ErrorView::new("capsule/removed", format!("{name} was removed"))
            .next("capsule ps lists those there are")
    };
    let id: CapsuleId = id.parse().map_err(|_| gone())?;
    let limit = std::time::Duration::from_secs(600);
    let began = std::time::Instant::now();
    loop {
        let _ = sidecar.places.refresh(&id).await;
        let Some(record) = sidecar.places.capsule(&id) else { return Err(gone()) };
        if record.suspension.is_some() {
            return Err(suspended(name));
        }
        if record.host != sidecar.me {
            return Ok(record);
        }
        match sidecar.capsules.get(&id).map(|capsule| capsule.stage()) {
            Some(Stage::Arriving | Stage::Left { .. }) | None if began.elapsed() < limit => {
                sidecar.places.changed_or(LOOK_AGAIN).await;
            }
            _ => return Ok(record),
        }
    }
}

fn suspended(name: &str) -> ErrorView {
    ErrorView::new("capsule/suspended", format!("{name} was suspended"))
        .why("it lies in a capsule file, and so does what it wrote")
        .next(format!("capsule logs -f {name}, when it was resumed"))
}

/// Follows a capsule's output until its program ends or it leaves.
pub(super) async fn follow(
    sidecar: &Arc<Sidecar>,
    name: &str,
    id: &str,
    from_position: u64,
    signals: bool,
    input: &mut Input,
    output: &mut Output,
) -> Result<(), ErrorView> {
    let id: Result<CapsuleId, _> = id.parse();
    let found = id.ok().and_then(|id| sidecar.capsules.get(&id));
    let Some(capsule) = found else {
        return Err(ErrorView::new("capsule/not-here", format!("{name} is not on {}", sidecar.me)));
    };
    let mut position = from_position;
    // So that the client knows that it is heard, though the program may say nothing for long.
    write(output, &Frame::Position(position)).await?;
    let mut stages = capsule.stages();
    loop {
        let stage = stages.borrow_and_update().clone();
        if let Stage::Left { to, generation } = stage {
            let moved = Moved { to: to.to_string(), generation: generation.number() };
            return write(output, &Frame::Moved(moved)).await;
        }
        if stage != Stage::Moving {
            let next = pass_on(&capsule, position, output).await?;
            let more = next != position;
            position = next;
            match stage {
                _ if more => continue,
                Stage::Stopped(code) => return write(output, &Frame::Exit(code.unwrap_or(125))).await,
                Stage::Suspended => return Err(suspended(name)),
                Stage::Removed => {
                    return Err(ErrorView::new("capsule/removed", format!("{name} was removed")));
                }
                _ => {}
            }
        }
        tokio::select! {
            _ = stages.changed() => {}
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            said = input.next() => match said {
                Ok(Some(Frame::Signal(number))) if signals => {
                    let of = capsule.clone();
                    let _ = tokio::task::spawn_blocking(move || engine::signal(&of, number)).await;
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return Ok(()),
            },
        }
    }
}

/// Runs a program inside a running capsule.
pub(super) async fn exec(
    capsule: &Arc<Capsule>,
    exec: Exec,
    input: &mut Input,
    output: &mut Output,
) -> Result<(), ErrorView> {
    let name = capsule.name().clone();
    let not_started = |why: String| {
        ErrorView::new("exec/not-started", format!("the command was not started in {name}")).why(why)
    };
    if matches!(capsule.stage(), Stage::Moving | Stage::Arriving | Stage::Starting) {
        return Err(
            not_started(format!("{name} is being moved or started")).next("try again when that is done")
        );
    }
    if capsule.stage() != Stage::Running {
        return Err(not_started(format!("{name} does not run")).next(format!("capsule start {name}")));
    }
    let of = capsule.clone();
    let started = tokio::task::spawn_blocking(move || engine::exec(&of, &exec)).await;
    let mut running = match started {
        Ok(Ok(running)) => running,
        Ok(Err(error)) => return Err(not_started(format!("{error:#}"))),
        Err(error) => return Err(not_started(error.to_string())),
    };
    let mut stages = capsule.stages();
    let (mut out, mut err) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let (mut out_open, mut err_open, mut listening, mut code) = (true, true, true, None);
    while out_open || err_open || code.is_none() {
        let left = async {
            let wanted =
                |stage: &Stage| matches!(stage, Stage::Left { .. } | Stage::Suspended | Stage::Removed);
            let _ = stages.wait_for(wanted).await;
        };
        let room = running.room();
        tokio::select! {
            count = running.stdout.read(&mut out), if out_open => match count {
                Ok(count) if count > 0 => write(output, &Frame::Stdout(Bytes::copy_from_slice(&out[..count]))).await?,
                _ => out_open = false,
            },
            count = running.stderr.read(&mut err), if err_open => match count {
                Ok(count) if count > 0 => write(output, &Frame::Stderr(Bytes::copy_from_slice(&err[..count]))).await?,
                _ => err_open = false,
            },
            ended = &mut running.exit, if code.is_none() => {
                code = Some(ended.ok().flatten().unwrap_or(125));
            }
            said = next_with_room(input, room), if listening => match said {
                Ok(Some(Frame::Stdin(bytes))) => running.feed(bytes),
                Ok(Some(Frame::StdinEnd)) => running.end_input(),
                Ok(Some(Frame::Signal(number))) => running.signal(number),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    running.signal(9);
                    listening = false;
                }
            },
            () = left, if code.is_none() => {
                return Err(ended_by_move(&name));
            }
        }
    }
    // The end of a move kills what was run beside the program: that is no end of its own.
    let settled = |stage: &Stage| *stage != Stage::Moving;
    if let Ok(stage) = stages.wait_for(settled).await.map(|stage| stage.clone())
        && matches!(stage, Stage::Left { .. } | Stage::Suspended)
    {
        return Err(ended_by_move(&name));
    }
    if !running.was_started() {
        return Err(not_started("it is not there, or can't be executed".into()));
    }
    write(output, &Frame::Exit(code.unwrap_or(125))).await
}

fn ended_by_move(name: &CapsuleName) -> ErrorView {
    ErrorView::new("exec/ended", format!("the command ended: {name} has left this host"))
        .next(format!("run it again: capsule exec {name} -- …"))
}

/// The client's next frame, read only while the program's input has room for what it may bring.
async fn next_with_room(
    input: &mut Input,
    room: impl Future<Output = ()>,
) -> Result<Option<Frame>, FrameError> {
    room.await;
    input.next().await
}
