//! Fault points: failures that tests switch on by name. Only in builds with the feature `fault-points`.
//!
//! `CAPSULE_FAULT=dump` makes every move fail at the beginning of its dump; `CAPSULE_FAULT_FILE=PATH` reads the
//! name from a file at each point, so that a running sidecar can be told.

/// A failure that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("fault point {0} was switched on")]
pub struct Fault(pub String);

/// Fails if the fault point `name` is switched on.
///
/// # Errors
/// It is.
#[cfg(feature = "fault-points")]
pub fn reach(name: &str) -> Result<(), Fault> {
    let by_file = std::env::var_os("CAPSULE_FAULT_FILE").and_then(|path| std::fs::read_to_string(path).ok());
    let wanted = by_file.or_else(|| std::env::var("CAPSULE_FAULT").ok());
    match wanted {
        Some(wanted) if wanted.trim() == name => Err(Fault(name.to_owned())),
        _ => Ok(()),
    }
}

/// Never fails in this build.
///
/// # Errors
/// None.
#[cfg(not(feature = "fault-points"))]
pub fn reach(_name: &str) -> Result<(), Fault> {
    Ok(())
}
