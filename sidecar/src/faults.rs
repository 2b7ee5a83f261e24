//! Fault points: failures that tests and operators switch on by name. Only in builds with the feature `fault-points`.
//!
//! `CAPSULE_FAULT=dump` makes every move fail at the beginning of its dump; `CAPSULE_FAULT_FILE=PATH` reads the faults
//! from a file at each point, so that a running sidecar can be told. Faults are separated by spaces. Each is the name of
//! a point, and what happens there:
//!
//! | written | what happens at the point |
//! |---|---|
//! | `dump` | the step fails |
//! | `dump:kill` | this process kills itself (SIGKILL) |
//! | `dump:wait=PATH` | it makes the file `PATH.reached`, and goes on when there is a file `PATH` |
//!
//! Where nothing can fail, a plain name does nothing.

/// A failure that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("fault point {0} was switched on")]
pub struct Fault(pub String);

/// Does what is switched on at the fault point `name`.
///
/// # Errors
/// A failure is.
#[cfg(feature = "fault-points")]
pub fn reach(name: &str) -> Result<(), Fault> {
    let by_file = std::env::var_os("CAPSULE_FAULT_FILE").and_then(|path| std::fs::read_to_string(path).ok());
    let wanted = by_file.or_else(|| std::env::var("CAPSULE_FAULT").ok()).unwrap_or_default();
    for fault in wanted.split_whitespace() {
        let (point, what) = fault.split_once(':').unwrap_or((fault, ""));
        if point != name {
            continue;
        }
        if what.is_empty() {
            return Err(Fault(name.to_owned()));
        }
        if what == "kill" {
            tracing::warn!(point = name, "killed by a fault point");
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        } else if let Some(path) = what.strip_prefix("wait=") {
            let path = std::path::Path::new(path);
            match tokio::runtime::Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
                // Only what reached the point waits.
                Ok(tokio::runtime::RuntimeFlavor::MultiThread) => {
                    tokio::task::block_in_place(|| wait_for(name, path));
                }
                _ => wait_for(name, path),
            }
        } else {
            tracing::error!(point = name, what, "a fault that does not exist");
        }
    }
    Ok(())
}

/// Blocks this thread: what waits here is what is tried.
#[cfg(feature = "fault-points")]
fn wait_for(name: &str, path: &std::path::Path) {
    /// Pause between looks for the file.
    const LOOK: std::time::Duration = std::time::Duration::from_millis(5);
    tracing::warn!(point = name, path = %path.display(), "waiting at a fault point");
    let reached = path.with_extension("reached");
    if let Err(error) = std::fs::write(&reached, name) {
        tracing::error!(path = %reached.display(), %error, "can't be told that a fault point was reached");
    }
    while !path.exists() {
        std::thread::sleep(LOOK);
    }
    tracing::warn!(point = name, "going on");
}

/// Never fails in this build.
///
/// # Errors
/// None.
#[cfg(not(feature = "fault-points"))]
pub fn reach(_name: &str) -> Result<(), Fault> {
    Ok(())
}

/// As [`reach`], where nothing can fail.
pub fn pass(name: &str) {
    let _ = reach(name);
}
