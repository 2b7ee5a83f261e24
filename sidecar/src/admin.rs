//! The verbs of `capsule`: taken from the admin socket or from another host's sidecar, carried out here or passed
//! on to the host concerned.

mod flows;
mod forward;
mod listen;
mod output;
mod policy;
mod preflight;
mod publish;
mod recover;
mod tap;
mod views;

use std::sync::Arc;

use admin_api::result::RmResult;
use admin_api::{Body, Call, ErrorView, Frame, FrameReader, FrameWriter, Request, Timestamp};
use directory_api::CapsuleRecord;
use overlay_proto::{CapsuleName, HostName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::UCred;

use crate::asker;
use crate::capsule::lifecycle;
use crate::moving::{self, superseded};
use crate::sidecar::Sidecar;
use crate::suspend;

pub(crate) use forward::ask;
pub use listen::{accept, listen};

/// What a client sends.
pub type Input = FrameReader<Box<dyn AsyncRead + Send + Unpin>>;
/// What a client gets.
pub type Output = FrameWriter<Box<dyn AsyncWrite + Send + Unpin>>;

/// Who asks.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Someone at this host's admin socket, as far as the kernel says who.
    Local(Option<UCred>),
    /// The sidecar of another host.
    Host(HostName),
}

/// One call, from its first frame to its last.
pub async fn serve(sidecar: Arc<Sidecar>, mut input: Input, mut output: Output, caller: Caller) {
    let mut call = match input.next().await {
        Ok(Some(Frame::Call(call))) => call,
        Ok(None) => return,
        Ok(Some(_)) | Err(_) => {
            let error = ErrorView::new("admin/protocol", "the call was not understood")
                .next("use a capsule command of this host's version");
            let _ = output.write(&Frame::Error(error)).await;
            return;
        }
    };
    tracing::debug!(verb = call.request.verb(), ?caller, "call");
    let person = match &caller {
        Caller::Local(Some(peer)) => asker::at_socket(*peer, sidecar.me.clone()).await,
        Caller::Local(None) => None,
        Caller::Host(host) => call.asked_by.take().map(|asker| asker::as_said(asker, host.clone())),
    };
    let done = dispatch(&sidecar, call, &mut input, &mut output, &caller);
    if let Err(error) = asker::for_person(person, done).await {
        let _ = output.write(&Frame::Error(error)).await;
    }
}

/// Answers a call; an error is the last frame.
async fn dispatch(
    sidecar: &Arc<Sidecar>,
    call: Call,
    input: &mut Input,
    output: &mut Output,
    caller: &Caller,
) -> Result<(), ErrorView> {
    may_ask(sidecar, &call, caller)?;
    if let Some(host) = elsewhere(sidecar, &call).await? {
        return forward::pass_on(sidecar, &host, call, input, output).await;
    }
    // What only looks on goes on with the next sidecar.
    let lasts = matches!(call.request, Request::Follow { .. } | Request::Exec(_) | Request::Tap { .. });
    let _acting = (!call.request.reads_only() && !lasts).then(|| sidecar.acting.clone());
    let body = match call.request {
        Request::Ps { local } => Body::of(&views::ps(sidecar, local).await),
        Request::Hosts => Body::of(&views::hosts(sidecar)),
        Request::Resolve { name } => Body::of(&views::resolve(sidecar, &name).await?),
        Request::Sessions { name } => Body::of(&views::sessions(sidecar, name.as_deref()).await?),
        Request::Inspect { name } => Body::of(&views::inspect(sidecar, &name).await?),
        Request::PolicyShow { name } => Body::of(&policy::show(sidecar, name.as_deref()).await?),
        Request::PolicySet { allow, from, to, ports } => {
            Body::of(&policy::set(sidecar, allow, &from, &to, ports.as_deref()).await?)
        }
        Request::PolicyRemove { id } => Body::of(&policy::remove(sidecar, id).await?),
        Request::PolicyTest { from, to, port } => Body::of(&policy::test(sidecar, &from, &to, port).await?),
        Request::Publish { name, port, host_port, udp, proxy_protocol, gateway: _ } => {
            let wanted = publish::Wanted { port, host_port, udp, proxy_protocol };
            Body::of(&publish::publish(sidecar, &name, wanted).await?)
        }
        Request::Unpublish { name, port, host_port, udp, gateway: _ } => {
            Body::of(&publish::unpublish(sidecar, &name, port, host_port, udp).await?)
        }
        Request::Published { gateway } => {
            Body::of(&publish::all(sidecar, gateway.as_deref(), call.forwarded_by.is_some()).await?)
        }
        Request::Run(run) => Body::of(&lifecycle::run(sidecar, run).await?),
        Request::Start { name } => Body::of(&lifecycle::start(sidecar, &local(sidecar, &name)?).await?),
        Request::Stop { name, timeout_s } => {
            Body::of(&lifecycle::stop(sidecar, &local(sidecar, &name)?, timeout_s).await?)
        }
        Request::Rm { name, local: true, .. } => Body::of(&superseded::remove(sidecar, &name).await?),
        Request::Recover { name, host_is_gone, from: Some(_) } => {
            Body::of(&suspend::recover(sidecar, &name, host_is_gone, input, output).await?)
        }
        Request::Recover { name, host_is_gone, from: None } => {
            Body::of(&recover::recover(sidecar, &name, host_is_gone, caller).await?)
        }
        Request::RemoveHost { name, force } => Body::of(&recover::remove_host(sidecar, &name, force).await?),
        Request::Rm { name, .. }
            if record(sidecar, &name).is_err_and(|error| error.code == "capsule/unknown") =>
        {
            Body::of(&RmResult { capsule: name, ..RmResult::default() })
        }
        Request::Rm { name, .. }
            if record(sidecar, &name).is_ok_and(|record| is_on_no_host(sidecar, &record)) =>
        {
            Body::of(&suspend::remove(sidecar, &record(sidecar, &name)?).await?)
        }
        Request::Rm { name, force, local: false } => {
            Body::of(&lifecycle::remove(sidecar, &local(sidecar, &name)?, force).await?)
        }
        Request::Preflight { name, to } => {
            Body::of(&preflight::check_all(sidecar, name.as_deref(), to.as_deref(), false).await?)
        }
        Request::Move { name, to, keep_anchored, dry_run: true, .. } => {
            Body::of(&preflight::check_all(sidecar, Some(&name), Some(&to), keep_anchored).await?)
        }
        Request::Move { name, to, memory, keep_anchored, dry_run: false } => {
            let (capsule, how) = (local(sidecar, &name)?, moving::How { memory, keep_anchored });
            let result = moving::command(sidecar, &capsule, &to, how, input, output).await?;
            Body::of(&result)
        }
        Request::Suspend { name } => {
            Body::of(&suspend::save(sidecar, &local(sidecar, &name)?, input, output).await?)
        }
        Request::Resume { .. } => Body::of(&suspend::resume(sidecar, input, output).await?),
        Request::Logs { name } => {
            let capsule = local(sidecar, &name)?;
            Body::of(&output::logs(&capsule, output).await?)
        }
        Request::Follow { name, id, from_position, signals } => {
            return output::follow(sidecar, &name, &id, from_position, signals, input, output).await;
        }
        Request::Tap { name, filter } => {
            return tap::tap(sidecar, &local(sidecar, &name)?, filter, input, output).await;
        }
        Request::Exec(exec) => {
            let capsule = local(sidecar, &exec.name)?;
            return output::exec(&capsule, exec, input, output).await;
        }
    };
    write(output, &Frame::Result(body)).await
}

/// Another host may always read; it may act only if its operators may (D8).
fn may_ask(sidecar: &Sidecar, call: &Call, caller: &Caller) -> Result<(), ErrorView> {
    let Caller::Host(host) = caller else { return Ok(()) };
    if call.request.reads_only() || sidecar.places.host(host).is_some_and(|record| record.operator) {
        return Ok(());
    }
    Err(ErrorView::new("admin/not-operator", format!("{} is refused", call.request.verb()))
        .why(format!("host {host} joined without operator rights, so its verbs only read"))
        .next("run the command on another host"))
}

/// The host that has to carry out the call, if it is not this one.
async fn elsewhere(sidecar: &Arc<Sidecar>, call: &Call) -> Result<Option<HostName>, ErrorView> {
    if let Request::Resume { to: Some(to) } = &call.request {
        let to = moving::source::target_named(sidecar, to)?;
        return Ok(Some(to).filter(|to| *to != sidecar.me && call.forwarded_by.is_none()));
    }
    if let Request::Publish { gateway, .. } | Request::Unpublish { gateway, .. } = &call.request {
        let here = call.forwarded_by.is_some();
        let host = if here { None } else { Some(publish::gateway_host(sidecar, gateway.as_deref())?) };
        return Ok(host.filter(|host| *host != sidecar.me));
    }
    let by_place = match &call.request {
        Request::Run(_) | Request::Ps { .. } | Request::Hosts | Request::Resolve { .. } => None,
        Request::Follow { name, id, .. } => Some(output::settled(sidecar, name, id).await?),
        Request::Sessions { name: None } | Request::Preflight { name: None, .. } => None,
        Request::Recover { .. } | Request::RemoveHost { .. } | Request::Rm { local: true, .. } => None,
        Request::Rm { name, .. } => {
            record(sidecar, name).ok().filter(|record| !is_on_no_host(sidecar, record))
        }
        request => match request.capsule() {
            Some(name) => Some(record(sidecar, name)?),
            None => None,
        },
    };
    // What lies in a file is on no host: any may say so.
    let elsewhere = |record: &CapsuleRecord| record.host != sidecar.me && record.suspension.is_none();
    let Some(record) = by_place.filter(elsewhere) else { return Ok(None) };
    if call.forwarded_by.is_some() {
        return Err(ErrorView::new(
            "admin/moved",
            format!("{} has just moved to {}", record.name, record.host),
        )
        .next("try again"));
    }
    Ok(Some(record.host))
}

/// The directory's record of a capsule that a person named.
pub(crate) fn record(sidecar: &Sidecar, name: &str) -> Result<CapsuleRecord, ErrorView> {
    let parsed: CapsuleName = name
        .parse()
        .map_err(|error| ErrorView::new("capsule/name", format!("{name:?} is no capsule name")).why(error))?;
    sidecar.places.named(&parsed).ok_or_else(|| {
        ErrorView::new("capsule/unknown", format!("there is no capsule {name}"))
            .next("capsule ps lists those there are")
    })
}

/// Whether no host of the mesh has anything of the capsule to remove: it lies in a file, its host was removed, or it is lost
/// and was this host's, which has nothing of it (after a restore of the directory).
fn is_on_no_host(sidecar: &Sidecar, record: &CapsuleRecord) -> bool {
    let lost_here = record.host == sidecar.me && record.state == directory_api::CapsuleState::Lost;
    let is_orphan = record.host != sidecar.me && sidecar.places.host(&record.host).is_none();
    record.suspension.is_some() || is_orphan || lost_here && sidecar.capsules.get(&record.id).is_none()
}

/// The capsule of this name on this host.
fn local(sidecar: &Sidecar, name: &str) -> Result<Arc<crate::capsule::Capsule>, ErrorView> {
    let record = record(sidecar, name)?;
    if record.is_outlet() {
        return Err(ErrorView::new("capsule/outlet", format!("{name} is no capsule")).why(format!(
            "by it capsules on host {} reach machines outside; it ends with that host",
            record.host
        )));
    }
    if record.is_outside() {
        return Err(ErrorView::new("capsule/gateway", format!("{name} is a gateway, not a capsule")).why(
            format!("host {} serves it; it ends when that host serves without --gateway", record.host),
        ));
    }
    if let Some(made) = &record.suspension {
        return Err(ErrorView::new("capsule/suspended", format!("{name} is suspended"))
            .why(format!("it lies in a capsule file since {}, by {}", Timestamp::from(made.at), made.host))
            .next("capsule resume FILE"));
    }
    sidecar.capsules.get(&record.id).ok_or_else(|| {
        ErrorView::new(
            "capsule/not-here",
            format!("{name} is placed on this host, but this sidecar does not have it"),
        )
        .why("its files could not be read when the sidecar started: see its log")
        .next("try again in a moment if it has just moved")
    })
}

/// Sends a frame; a client that is gone needs no error.
pub(crate) async fn write(output: &mut Output, frame: &Frame) -> Result<(), ErrorView> {
    output
        .write(frame)
        .await
        .map_err(|error| ErrorView::new("admin/client-gone", "the client went away").why(error))
}
