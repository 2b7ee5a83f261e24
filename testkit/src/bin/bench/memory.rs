//! Memory of a sidecar: fresh, and for each session that does nothing.

use std::thread;
use std::time::Duration;

use serde::Serialize;
use testkit::{Mesh, wait_until};

use crate::Extent;
use crate::machine::resident_kib;
use crate::sides::{HOLD, Sides};

const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// Until everything that was under way has been done.
const SETTLE: Duration = Duration::from_secs(1);
const HOLD_SECONDS: &str = "60";

#[derive(Debug, Default, Serialize)]
pub(crate) struct Memory {
    /// With one capsule and no session.
    pub(crate) start_mib: f64,
    pub(crate) sessions: usize,
    pub(crate) opener_kib_per_session: f64,
    pub(crate) acceptor_kib_per_session: f64,
}

pub(crate) fn measure(mesh: &Mesh, sides: &Sides, extent: &Extent) -> Memory {
    eprintln!("bench: memory of {} idle sessions", extent.idle_connections);
    let resident = || ["b", "a"].map(|host| resident_kib(mesh.host(host).sidecar_pid().unwrap_or(0)));
    let count = extent.idle_connections.to_string();
    let before = resident();
    let mut holder = sides.start_in_capsule("connects", HOLD, &["--hold", &count, "--seconds", HOLD_SECONDS]);
    wait_until(OPEN_LIMIT, "the idle connections to be open", || holder.stderr().contains("are open"));
    thread::sleep(SETTLE);
    let after = resident();
    holder.kill();
    // Killing the command does not end the program: its capsule's other half must see the connections end.
    let host = mesh.host("b");
    host.capsule(["exec", "clients", "--", "sh", "-c", "kill $(pidof connects)"]);
    thread::sleep(SETTLE);
    let grown = |at: usize| after[at].saturating_sub(before[at]) as f64 / extent.idle_connections as f64;
    Memory {
        start_mib: before[1] as f64 / 1024.0,
        sessions: extent.idle_connections,
        opener_kib_per_session: grown(0),
        acceptor_kib_per_session: grown(1),
    }
}
