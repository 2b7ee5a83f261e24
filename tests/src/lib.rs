//! What the end-to-end tests share: capsules started, watched and ended, talks that must go on, and a look for
//! what a capsule left behind.

mod base;
mod capsules;
mod faults;
mod fire;
mod mounted;
mod outside;
mod residue;
mod stream;
mod suspended;
mod talk;

use std::time::Duration;

use testkit::{Mesh, program};

pub use base::make_base;
pub use capsules::{Ended, Place, ended, exec, locators, move_to, place, places, run, start, wait_logged};
pub use faults::{FaultySidecar, Held};
pub use fire::{Fire, Ticks};
pub use mounted::small_disk;
pub use outside::{game_went_on, mesh_configured, mesh_with_gateway, publish, published, replace_sidecar};
pub use residue::{capsule_id, nothing_left_of, on_disk};
pub use stream::{Peer, checked};
pub use suspended::{capsule_file, refused, resume, suspend, try_resume};
pub use talk::{RedisClient, Talk, redis_clients, start_redis};

/// What may take a moment on a machine of two cores: a start, a line in a log.
pub const SOON: Duration = Duration::from_secs(20);

/// Path of a built program, as an argument.
#[track_caller]
pub fn tool(name: &str) -> String {
    program(name).display().to_string()
}

/// Ends a mesh: nothing of it may be left.
///
/// # Panics
/// When something is.
#[track_caller]
pub fn end(mesh: Mesh) {
    let left = mesh.end();
    assert!(left.is_empty(), "{left}");
}
