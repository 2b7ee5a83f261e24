//! Connections to machines outside that are bound to a host: they left from its outlet. They don't leave it when their
//! capsule does; they end then, unless the host is to carry them on.

use admin_api::result::{AnchoredView, CheckView, Level};
use overlay_proto::{CapsuleId, CapsuleName, HostName};

use super::examine::check;
use crate::session::SessionView;
use crate::sidecar::Sidecar;

/// The host to which a session is bound, if it is to one.
pub(crate) fn host_of(sidecar: &Sidecar, session: &SessionView) -> Option<HostName> {
    let outlet = [session.facts.peer, session.facts.own].into_iter();
    let mut records = outlet.filter_map(|id| sidecar.places.capsule(&id));
    records.find(|record| record.is_outlet()).map(|record| record.host)
}

/// Those of a capsule on this host, whichever host they are bound to.
pub(crate) async fn of(sidecar: &Sidecar, capsule: CapsuleId) -> Vec<AnchoredView> {
    let mut sessions = sidecar.table.describe(Some(capsule)).await;
    sessions.sort_by_key(|session| session.facts.began);
    let view = |session: SessionView| {
        Some(AnchoredView {
            session: session.id.to_string(),
            host: host_of(sidecar, &session)?.to_string(),
            local: session.facts.local,
            remote: session.facts.remote,
        })
    };
    sessions.into_iter().filter_map(view).collect()
}

/// What becomes at a move of those that are bound to this host.
pub(crate) fn at_move(name: &CapsuleName, me: &HostName, count: usize, keep: bool) -> Option<CheckView> {
    if count == 0 {
        return None;
    }
    let what = if count == 1 { "connection leaves" } else { "connections leave" };
    let leave = format!("{count} {what} for machines outside from {me}");
    Some(match keep {
        true => {
            check(name.as_str(), "move/anchored", Level::Ok, format!("{leave}, which carries them on"), "")
        }
        false => check(
            name.as_str(),
            "move/anchored",
            Level::Warn,
            format!("{leave}, and end at the move"),
            "--keep-anchored has that host carry them on; by a gateway they move (outside_via)",
        ),
    })
}
