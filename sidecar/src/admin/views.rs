//! What the listing verbs show.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use admin_api::result::{
    CapsuleState, CapsuleView, Direction, DnsRecord, HostState, HostView, HostsResult, InspectResult,
    LinkState, LinkView, PsResult, ResolveResult, SessionKind, SessionState, SessionView, SessionsResult,
};
use admin_api::{ErrorView, Timestamp};
use directory_api::{self as directory, CapsuleRecord, HostRecord};
use overlay_proto::{CapsuleId, Role};

use super::{flows, policy, record};
use crate::capsule::Capsule;
use crate::limits::RECORDS_CALL;
use crate::moving::{anchored, superseded};
use crate::sidecar::Sidecar;

/// All capsules of the mesh, or of this host.
pub(super) async fn ps(sidecar: &Arc<Sidecar>, local: bool) -> PsResult {
    let mut records = sidecar.places.capsules();
    records.retain(|record| !record.is_of_its_host() && (!local || record.host == sidecar.me));
    records.sort_by(|a, b| a.name.cmp(&b.name));
    let mut capsules = Vec::with_capacity(records.len());
    for record in records {
        capsules.push(view(sidecar, &record).await);
    }
    let copies = sidecar.capsules.all().into_iter().filter(|capsule| superseded::is_superseded(capsule));
    capsules.extend(copies.map(|capsule| copy(sidecar, &capsule)));
    PsResult { capsules }
}

/// A copy that this host keeps of a capsule that goes on elsewhere.
fn copy(sidecar: &Sidecar, capsule: &Capsule) -> CapsuleView {
    let file = capsule.file();
    let record = sidecar.places.capsule(&file.id);
    CapsuleView {
        name: file.name.to_string(),
        id: file.id.to_string(),
        state: CapsuleState::Superseded,
        host: Some(sidecar.me.to_string()),
        generation: file.generation.number(),
        locators: vec![file.locators.v4.into(), file.locators.v6.into()],
        owner: file.owner.to_string(),
        created_at: record.map_or_else(Timestamp::default, |record| record.created_at.into()),
        memory_bytes: capsule.memory_bytes(),
        ..CapsuleView::default()
    }
}

async fn view(sidecar: &Arc<Sidecar>, record: &CapsuleRecord) -> CapsuleView {
    let silent = sidecar.places.host(&record.host).filter(|host| !host.alive).map(silent_s);
    let mut view = CapsuleView {
        name: record.name.to_string(),
        id: record.id.to_string(),
        state: state(record.state),
        host: record.suspension.is_none().then(|| record.host.to_string()),
        suspended_by: record.suspension.as_ref().map(|made| made.host.to_string()),
        suspended_at: record.suspension.as_ref().map(|made| made.at.into()),
        generation: record.generation.number(),
        locators: locators(record),
        owner: record.owner.to_string(),
        created_at: record.created_at.into(),
        moving_to: record.offer.as_ref().map(|offer| offer.target.to_string()),
        silent_s: silent,
        ..CapsuleView::default()
    };
    if let Some(capsule) = sidecar.capsules.get(&record.id).filter(|_| record.host == sidecar.me) {
        let sessions = sidecar.table.describe(Some(record.id)).await;
        let held = sessions.iter().filter(|session| session.state == "held").count();
        view.sessions = Some(sessions.len() as u64);
        view.sessions_held = Some(held as u64);
        view.memory_bytes = capsule.memory_bytes();
        view.exit_code = capsule.exit_code();
        view.phase = capsule.phase().map(str::to_owned);
    }
    view
}

fn locators(record: &CapsuleRecord) -> Vec<IpAddr> {
    vec![record.locators.v4.into(), record.locators.v6.into()]
}

pub(super) fn state(state: directory::CapsuleState) -> CapsuleState {
    match state {
        directory::CapsuleState::Running => CapsuleState::Running,
        directory::CapsuleState::Moving => CapsuleState::Moving,
        directory::CapsuleState::Suspended => CapsuleState::Suspended,
        directory::CapsuleState::Lost => CapsuleState::Lost,
        directory::CapsuleState::Stopped => CapsuleState::Stopped,
    }
}

fn silent_s(host: HostRecord) -> u64 {
    SystemTime::now().duration_since(host.last_seen).unwrap_or_default().as_secs()
}

/// All hosts of the mesh.
pub(super) fn hosts(sidecar: &Arc<Sidecar>) -> HostsResult {
    let capsules = sidecar.places.capsules();
    let mut records = sidecar.places.hosts();
    records.sort_by(|a, b| a.name.cmp(&b.name));
    let hosts = records.into_iter().map(|host| {
        let here = host.name == sidecar.me;
        HostView {
            name: host.name.to_string(),
            state: if host.alive { HostState::Ready } else { HostState::Silent },
            here,
            addresses: vec![host.address.to_string()],
            capsules: capsules
                .iter()
                .filter(|capsule| {
                    capsule.host == host.name && capsule.suspension.is_none() && !capsule.is_of_its_host()
                })
                .count() as u64,
            link: (!here).then(|| link(sidecar, &host)),
            seen_at: Some(host.last_seen.into()),
            silent_s: (!host.alive).then(|| silent_s(host.clone())),
            version: here.then(|| env!("CARGO_PKG_VERSION").to_owned()),
            operator: host.operator,
            ..HostView::default()
        }
    });
    let awaited = sidecar.assertions.awaited();
    let awaited = awaited.map(|hosts| hosts.iter().map(ToString::to_string).collect());
    HostsResult { hosts: hosts.collect(), awaited }
}

fn link(sidecar: &Sidecar, host: &HostRecord) -> LinkView {
    let Some(link) = sidecar.links.existing(&host.name) else {
        return LinkView { state: LinkState::Idle, ..LinkView::default() };
    };
    let Some(counters) = link.counters() else { return LinkView::default() };
    LinkView {
        state: LinkState::Up,
        state_s: Some(link.age().as_secs()),
        rtt_ms: Some(counters.rtt.as_secs_f64() * 1e3),
        loss_percent: Some(counters.lost_packets as f64 * 100.0 / counters.sent_packets.max(1) as f64),
        mtu_bytes: Some(u64::from(counters.mtu_bytes)),
        sessions: 0,
        path_changes: counters.path_changes,
        rebinds: counters.rebinds,
        path_checks: counters.path_checks,
        sent_packets: counters.sent_packets,
        lost_packets: counters.lost_packets,
        silent_ms: Some(counters.silent.as_secs_f64() * 1e3),
        serial: Some(link.serial),
    }
}

/// Where a capsule is, by name (with or without the zone) or locator.
pub(super) async fn resolve(sidecar: &Arc<Sidecar>, name: &str) -> Result<ResolveResult, ErrorView> {
    let record = match name.parse::<IpAddr>() {
        Ok(locator) => sidecar.places.by_locator(locator).await.ok_or_else(|| {
            ErrorView::new("capsule/unknown", format!("no capsule has the address {locator}"))
                .next("capsule ps lists those there are")
        })?,
        Err(_) => {
            let trimmed = name.trim_end_matches('.');
            let short = trimmed.strip_suffix(&format!(".{}", sidecar.zone)).unwrap_or(trimmed);
            record(sidecar, short)?
        }
    };
    Ok(ResolveResult {
        name: record.name.to_string(),
        id: record.id.to_string(),
        dns_name: format!("{}.{}", record.name, sidecar.zone),
        locators: locators(&record),
        host: record.suspension.is_none().then(|| record.host.to_string()),
        host_address: sidecar.places.host(&record.host).map(|host| host.address.to_string()),
        generation: record.generation.number(),
        state: state(record.state),
        owner: record.owner.to_string(),
        source: "watch".into(),
    })
}

/// The sessions of one capsule on this host, or of all.
pub(super) async fn sessions(
    sidecar: &Arc<Sidecar>,
    name: Option<&str>,
) -> Result<SessionsResult, ErrorView> {
    let own = name.map(|name| record(sidecar, name)).transpose()?.map(|record| record.id);
    let name_of = |id: CapsuleId| sidecar.places.capsule(&id).map(|record| record.name.to_string());
    let mut sessions: Vec<_> = sidecar.table.describe(own).await;
    sessions.sort_by_key(|a| a.facts.began);
    let sessions = sessions.into_iter().map(|session| SessionView {
        id: session.id.to_string(),
        kind: SessionKind::Tcp,
        capsule: name_of(session.facts.own).unwrap_or_default(),
        direction: match session.role {
            Role::Opener => Direction::Out,
            Role::Acceptor => Direction::In,
        },
        local: session.facts.local,
        remote: session.facts.remote,
        outside: session.facts.way.as_ref().map(|way| way.outside),
        anchored: anchored::host_of(sidecar, &session).map(|host| host.to_string()),
        peer_capsule: name_of(session.facts.peer),
        peer_host: sidecar
            .places
            .capsule(&session.facts.peer)
            .filter(|record| record.suspension.is_none())
            .map(|record| record.host.to_string()),
        peer_state: sidecar.places.capsule(&session.facts.peer).map(|record| state(record.state)),
        state: match session.state {
            "open" => SessionState::Open,
            "parked" => SessionState::Parked,
            "closing" => SessionState::Closing,
            _ => SessionState::Held,
        },
        state_s: None,
        bytes_in: session.bytes_in,
        bytes_out: session.bytes_out,
        buffered_bytes: session.buffered_bytes,
        buffer_limit_bytes: session.limit_bytes,
        age_s: session.facts.began.elapsed().unwrap_or_default().as_secs(),
        datagrams_in: None,
        datagrams_out: None,
        quiet_s: None,
    });
    let sessions = sessions.chain(flows::of(sidecar, own)).collect();
    Ok(SessionsResult { sessions, policy: policy::counts(sidecar, own) })
}

/// Everything about one capsule on this host.
pub(super) async fn inspect(sidecar: &Arc<Sidecar>, name: &str) -> Result<InspectResult, ErrorView> {
    let record = record(sidecar, name)?;
    let mut result = InspectResult {
        capsule: view(sidecar, &record).await,
        dns_name: Some(format!("{}.{}", record.name, sidecar.zone)),
        records: added_records(sidecar, &record).await,
        ..InspectResult::default()
    };
    if let Some(capsule) = sidecar.capsules.get(&record.id).filter(|_| record.host == sidecar.me) {
        let file = capsule.file();
        result.argv = file.run.argv;
        result.env = file.run.env;
        result.workdir = file.run.workdir;
        result.user = file.run.user;
        result.rootfs = file.run.rootfs;
        result.volumes = file.run.volumes;
        result.started_at = file.started_at.map(Timestamp::from);
        result.pid = capsule.program_pid();
        result.processes = capsule.processes();
        result.shim_pid = capsule.shim_pid();
        result.log_bytes = capsule.log_bytes();
        let sessions = sidecar.table.describe(Some(record.id)).await;
        let budget = sidecar.around.routes.budget();
        result.buffer_bytes = Some(sessions.iter().map(|session| session.buffered_bytes).sum());
        result.buffer_granted_bytes = Some(budget.granted_to(&record.id));
        result.buffer_limit_bytes = Some(budget.limits().capsule_bytes);
        result.anchored = anchored::of(sidecar, record.id).await;
        result.datagrams = sidecar.networks.of(&record.id).map(|network| flows::counts(&network));
        result.last_move = file.last_move;
        result.policy = policy::counts(sidecar, Some(record.id));
    }
    Ok(result)
}

/// What the capsule's owner added to the zone; `None` when the directory does not say: it is away, or older than the question.
async fn added_records(sidecar: &Sidecar, record: &CapsuleRecord) -> Option<Vec<DnsRecord>> {
    let directory = sidecar.places.directory().with_call_time(RECORDS_CALL);
    let added = match directory.added_records(record.id).await {
        Ok(added) => added,
        Err(error) => {
            tracing::debug!(capsule = %record.name, %error, "the directory was asked for its DNS records in vain");
            return None;
        }
    };
    let own = format!("{}.{}", record.name, sidecar.zone);
    let shown = |added: directory::AddedRecord| DnsRecord {
        name: if added.below.is_empty() { own.clone() } else { format!("{}.{own}", added.below) },
        ttl_s: added.ttl_seconds,
        kind: added.kind,
        data: added.data,
    };
    Some(added.into_iter().map(shown).collect())
}
