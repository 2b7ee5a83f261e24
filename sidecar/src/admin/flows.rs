//! What the listing verbs show of datagrams.

use std::net::SocketAddr;
use std::sync::Arc;

use admin_api::result::{DatagramCounts, Direction, SessionKind, SessionState, SessionView};
use overlay_proto::{CapsuleId, SessionId};

use super::views;
use crate::capsule::network::Network;
use crate::datagram::{Flow, FlowKey, Lost};
use crate::sidecar::Sidecar;

/// The flows of one capsule on this host, or of all.
pub(super) fn of(sidecar: &Arc<Sidecar>, own: Option<CapsuleId>) -> Vec<SessionView> {
    let networks = match own {
        Some(own) => sidecar.networks.of(&own).into_iter().collect(),
        None => sidecar.networks.all(),
    };
    let mut views = Vec::new();
    for network in networks {
        for (key, flow, quiet) in network.datagrams().flows() {
            views.push(view(sidecar, &network, key, flow, quiet.as_secs()));
        }
    }
    views
}

fn view(sidecar: &Sidecar, network: &Network, key: FlowKey, flow: Flow, quiet_s: u64) -> SessionView {
    let peer = sidecar.places.known_at(&key.remote.ip());
    SessionView {
        id: id(key).to_string(),
        kind: SessionKind::Udp,
        capsule: network.name().to_string(),
        direction: if flow.opened_here { Direction::Out } else { Direction::In },
        local: key.local,
        remote: key.remote,
        outside: None,
        anchored: None,
        peer_capsule: peer.as_ref().map(|record| record.name.to_string()),
        peer_host: peer
            .as_ref()
            .filter(|record| record.suspension.is_none())
            .map(|record| record.host.to_string()),
        peer_state: peer.map(|record| views::state(record.state)),
        state: SessionState::Open,
        state_s: None,
        bytes_in: flow.bytes_in,
        bytes_out: flow.bytes_out,
        buffered_bytes: 0,
        buffer_limit_bytes: 0,
        age_s: flow.began.elapsed().as_secs(),
        datagrams_in: Some(flow.datagrams_in),
        datagrams_out: Some(flow.datagrams_out),
        quiet_s: Some(quiet_s),
    }
}

/// The same on both hosts and after every restart: a flow is nothing but its addresses.
fn id(key: FlowKey) -> SessionId {
    let mut ends: [SocketAddr; 2] = [key.local, key.remote];
    ends.sort();
    let hash = blake3::hash(format!("udp {} {}", ends[0], ends[1]).as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    SessionId::from_bytes(bytes)
}

/// What became of the datagrams of a capsule.
pub(super) fn counts(network: &Network) -> DatagramCounts {
    let counts = network.datagrams().counts();
    DatagramCounts {
        sent: counts.sent(),
        received: counts.received(),
        waiting_bytes: network.datagrams().waiting_bytes(),
        lost_no_room: counts.lost_for(Lost::NoRoom),
        lost_too_late: counts.lost_for(Lost::TooLate),
        lost_nowhere: counts.lost_for(Lost::Nowhere),
        lost_denied: counts.lost_for(Lost::Denied),
        lost_misplaced: counts.lost_for(Lost::Misplaced),
    }
}
