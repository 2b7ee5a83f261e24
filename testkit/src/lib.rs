//! A mesh on one machine, for tests, the demo and the bench.
//!
//! ```text
//!   netns PREFIX-switch      br0 ──┬───────────┬───────────┐
//!                              p1  │       p2  │       p3  │       a port goes down in `Host::cut`
//!   netns PREFIX-directory   eth0 192.0.2.2    │           │       capsule-directory
//!   netns PREFIX-a                         eth0 192.0.2.10 │       capsule-sidecar, shims, programs
//!   netns PREFIX-b                                     eth0 192.0.2.11
//!   netns PREFIX-relay       eth0 192.0.2.3     a relay, if the test asks for one: see [`Relay`]
//! ```
//!
//! The machine's own network namespace is not touched: every device is made inside the switch's. Processes enter a
//! host by `nsenter --net`, which changes the network namespace only and keeps the pid; `ip netns exec` would give them
//! a mount namespace too, which CRIU refuses to dump.
//!
//! What goes wrong panics and says what: a test that ends in a panic gets the tails of all logs printed and the logs
//! copied to `target/testkit/PREFIX`. Therefore tests should panic rather than return errors. Everything is removed when
//! the [`Mesh`] is dropped, and by a helper process when the test itself is killed.
//!
//! ```no_run
//! let mesh = testkit::Mesh::running("example", &["a", "b"]);
//! let (a, b) = (mesh.host("a"), mesh.host("b"));
//! a.capsule(&["run", "-d", "ticker", "--", "sleep", "60"]).ok();
//! a.capsule(&["move", "ticker", "--to", "b", "--json"]).ok();
//! assert_eq!(b.capsule(&["ps", "--local", "--json"]).json()["capsules"][0]["state"], "running");
//! ```

mod bounded;
mod directory;
pub mod figures;
mod host;
mod lacking;
mod leftovers;
mod mesh;
mod network;
pub mod pattern;
mod process;
mod programs;
mod relay;
mod size;
mod sweep;
mod wait;

pub use directory::Directory;
pub use host::Host;
pub use lacking::{Lacking, lacking};
pub use leftovers::{Leftovers, leftovers};
pub use mesh::Mesh;
pub use process::{Output, Process};
pub use programs::program;
pub use relay::{Counts, Relay, Weather};
pub use size::parse_size;
pub use sweep::{sweep, sweep_dead};
pub use wait::{wait_for, wait_until};
