//! `serve --check-config`: all that `serve` would refuse, said at once. Changes nothing and reserves nothing.

use std::path::Path;
use std::time::SystemTime;

use anyhow::{Result, bail};

use crate::config::Config;
use crate::data::Data;
use crate::sealed::Passphrase;

/// Says what is wrong with settings and data, or that nothing is.
///
/// # Errors
/// All faults, a line each.
pub fn run(data: &Path, config: Result<Config>) -> Result<()> {
    let mut faults = Vec::new();
    let store = config.as_ref().ok().map(|config| config.store.clone());
    let passphrase = match &config {
        Ok(config) => config.ca_passphrase_file.as_deref().map(Passphrase::read).transpose().ok().flatten(),
        Err(_) => None,
    };
    faults.extend(config.err().map(|error| format!("{error:#}")));
    match Data::open(data) {
        Ok(data) => faults.extend(data.faults(store.as_ref(), passphrase.as_ref(), SystemTime::now())),
        Err(error) => faults.push(format!("{error:#}")),
    }
    if !faults.is_empty() {
        bail!("bad settings:\n{}", faults.join("\n"));
    }
    eprintln!("the settings and {} are right", data.display());
    Ok(())
}
