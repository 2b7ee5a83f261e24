//! `rotate-root`: says what a step did and what the next one waits for.

use std::time::SystemTime;

use anyhow::{Result, bail};
use overlay_proto::HostName;

use crate::data::{Data, Rotation};
use crate::sealed::Passphrase;

/// Makes one step, or with `status` none.
///
/// # Errors
/// When the step can't be made; the message says what to do.
pub fn run(data: &Data, passphrase: Option<&Passphrase>, status: bool) -> Result<()> {
    let now = SystemTime::now();
    if status {
        let (rotation, waiting) = data.rotation(now)?;
        eprintln!("{}", describe(&rotation));
        if !waiting.is_empty() {
            eprintln!("not ready: {}", names(&waiting));
        }
        return Ok(());
    }
    match data.rotate_root(passphrase, now)? {
        Rotation::Waiting(hosts) => bail!(
            "not yet, nothing was changed. These hosts do not hold what the directory gives out: {}. A host takes it up \
             with its next lease, within seconds; one that is away can be removed (capsule hosts remove HOST), and joins \
             again with a token; one of an earlier version must be upgraded",
            names(&hosts)
        ),
        made => {
            eprintln!("{}", describe(&made));
            Ok(())
        }
    }
}

fn describe(rotation: &Rotation) -> &'static str {
    match rotation {
        Rotation::None => "the root is not being replaced",
        Rotation::Begun => {
            "there is a next root, and hosts learn to trust it beside the present one. Then: capsule-directory rotate-root \
             again, to sign by it"
        }
        Rotation::Switched => {
            "the new root signs, and hosts get certificates under it; the last one is still trusted. Then: \
             capsule-directory rotate-root again, to end that. Join tokens made before are good for nothing: make new ones"
        }
        Rotation::Finished => "the last root is trusted no more: the replacement is done",
        Rotation::Waiting(_) => "waiting for hosts",
    }
}

fn names(hosts: &[HostName]) -> String {
    let names: Vec<&str> = hosts.iter().map(HostName::as_str).collect();
    names.join(", ")
}
