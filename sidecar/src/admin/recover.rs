//! `recover` and `hosts remove`: what a person does about a host that is gone.

use std::sync::Arc;
use std::time::Duration;

use admin_api::result::{RecoverResult, RecoveredFrom, RemoveHostResult};
use admin_api::{Body, ErrorView, Request};
use directory_api::{ApiError, CapsuleRecord, CapsuleState, ClientError};
use overlay_proto::{HostName, OfferId};

use super::{Caller, forward, record};
use crate::capsule::{Capsule, Stage};
use crate::moving::superseded;
use crate::moving::verdict::{Taken, Takeover};
use crate::sidecar::Sidecar;

/// Time that a capsule which was taken over gets to run before the person is told.
const RUNNING_WAIT: Duration = Duration::from_secs(10);

/// Carries out `recover`: here if the copy is here, else by the host that has it.
pub(super) async fn recover(
    sidecar: &Arc<Sidecar>,
    name: &str,
    host_is_gone: bool,
    caller: &Caller,
) -> Result<RecoverResult, ErrorView> {
    let record = record(sidecar, name)?;
    let (generation, id) = (record.generation, OfferId::from_bytes(crate::random::bytes()));
    let takeover = Takeover { generation, id, host_is_gone };
    if let Some(capsule) = sidecar.capsules.get(&record.id) {
        if let Some(taken) = capsule.wishes().wish(takeover).await {
            return recovered(sidecar, &capsule, taken, RecoveredFrom::Move).await;
        }
        // An older copy, so only where a person asks for this very one.
        if superseded::is_superseded(&capsule) && matches!(caller, Caller::Local(_)) {
            let revived = superseded::revive(sidecar, &capsule, takeover).await;
            let taken = revived.map_err(|error| {
                ErrorView::new("recover/failed", format!("{name} is placed here, but does not run"))
                    .why(format!("{error:#}"))
            })?;
            let capsule = sidecar.capsules.get(&record.id).unwrap_or(capsule);
            return recovered(sidecar, &capsule, taken, RecoveredFrom::Superseded).await;
        }
    }
    let none = || {
        ErrorView::new("recover/no-copy", format!("{name} was not recovered"))
            .why("no host that answers has a copy of it that an unfinished move left")
    };
    if let Caller::Host(_) = caller {
        return Err(none());
    }
    let mut others = sidecar.places.hosts();
    others.retain(|host| host.name != sidecar.me && host.alive);
    for host in others {
        let request = Request::Recover { name: name.to_owned(), host_is_gone, from: None };
        match forward::ask(sidecar, &host.name, request).await {
            Ok(body) => return parsed(&body, &host.name),
            Err(error) if error.code == "recover/no-copy" || error.code == "link/host-away" => {}
            Err(error) => return Err(error),
        }
    }
    let lost = format!(
        "capsule recover {name} --from FILE, if there is a capsule file; or wait for {}",
        record.host
    );
    Err(none().next(lost))
}

fn parsed(body: &Body, host: &HostName) -> Result<RecoverResult, ErrorView> {
    body.clone().parse().map_err(|error| {
        ErrorView::new("admin/protocol", format!("host {host} answered something else than expected"))
            .why(error)
    })
}

async fn recovered(
    sidecar: &Arc<Sidecar>,
    capsule: &Arc<Capsule>,
    taken: Taken,
    from: RecoveredFrom,
) -> Result<RecoverResult, ErrorView> {
    let record = taken.map_err(|error| refused(capsule, &error))?;
    let mut stages = capsule.stages();
    let going =
        |stage: &Stage| !matches!(stage, Stage::Moving | Stage::Arriving | Stage::Starting | Stage::Found);
    let _ = tokio::time::timeout(RUNNING_WAIT, stages.wait_for(going)).await;
    if capsule.stage() == Stage::Running {
        let told =
            sidecar.places.directory().set_state(record.id, record.generation, CapsuleState::Running).await;
        match told {
            Ok(record) => sidecar.places.take(record),
            // The lease says so again.
            Err(error) => {
                tracing::warn!(capsule = %record.name, %error, "the directory was not told that it runs")
            }
        }
    }
    Ok(RecoverResult {
        capsule: record.name.to_string(),
        host: record.host.to_string(),
        generation: record.generation.number(),
        from,
        running: capsule.stage() == Stage::Running,
    })
}

fn refused(capsule: &Capsule, error: &ClientError) -> ErrorView {
    let name = capsule.name();
    let view = ErrorView::new("recover/refused", format!("{name} was not recovered")).why(error);
    match error.refusal() {
        Some(ApiError::HostAlive { host }) => view.next(format!(
            "if {host} is gone all the same: capsule recover {name} --host-is-gone. What still runs there is frozen as \
             soon as it hears of that"
        )),
        _ => view,
    }
}

/// Carries out `hosts remove`.
pub(super) async fn remove_host(
    sidecar: &Arc<Sidecar>,
    name: &str,
    force: bool,
) -> Result<RemoveHostResult, ErrorView> {
    let unknown = || {
        ErrorView::new("hosts/unknown", format!("there is no host {name}"))
            .next("capsule hosts lists those there are")
    };
    let host: HostName = name.parse().map_err(|_| unknown())?;
    // A directory that was restored may wait for one that this host never heard of.
    let known = sidecar.places.host(&host).is_some();
    let placed = |record: &CapsuleRecord| record.host == host;
    let mut capsules: Vec<_> = sidecar.places.capsules().into_iter().filter(placed).collect();
    capsules.sort_by(|a, b| a.name.cmp(&b.name));
    match sidecar.places.directory().remove_host(host.clone(), force).await {
        Err(ClientError::Refused(ApiError::UnknownHost { .. })) if !known => return Err(unknown()),
        // An answer that was lost: it is done.
        Ok(()) | Err(ClientError::Refused(ApiError::UnknownHost { .. })) => {}
        Err(error) => {
            let view =
                ErrorView::new("hosts/not-removed", format!("host {name} was not removed")).why(&error);
            return Err(match error.refusal() {
                Some(ApiError::HostAlive { .. }) => view.next(format!(
                    "move its capsules away and stop its sidecar; or capsule hosts remove {name} --force, which makes it \
                     freeze what it runs"
                )),
                _ => view,
            });
        }
    }
    Ok(RemoveHostResult {
        host: name.to_owned(),
        capsules: capsules.into_iter().map(|record| record.name.to_string()).collect(),
    })
}
