//! Settings of the daemons: put together by figment, and judged whole. Whoever wrote them reads of every fault at once, and
//! where it is, and not of the first one only.

mod place;

use std::fmt;
use std::path::PathBuf;

use figment::error::Kind;
use figment::providers::Serialized;
use figment::value::{Dict, Value};
use figment::{Error, Figment, Source};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What is wrong with one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The setting; empty where the text as a whole can't be read.
    pub key: String,
    /// Where its value comes from.
    pub origin: Origin,
    /// What is wrong with it.
    pub what: String,
}

/// Where a setting's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A file, and the line there, counted from one, where that is known.
    File(PathBuf, Option<usize>),
    /// The environment: `CAPSULE_…`.
    Environment,
    /// The command line, or nowhere.
    Flags,
}

/// All that is wrong with settings, one line for each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct Faults(pub Vec<Fault>);

/// Reads settings out of `figment`, whose first layer are the defaults, and has `judge` say which of them make no sense, by
/// key. A value that another layer overrules does no harm, whatever it is.
///
/// # Errors
/// Every fault that can be found.
pub fn read<T: Serialize + DeserializeOwned + Default>(
    figment: &Figment,
    judge: impl Fn(&T) -> Vec<(&'static str, String)>,
) -> Result<T, Faults> {
    let mut values: Dict = figment.extract().map_err(|errors| Faults(unreadable(errors)))?;
    let defaults: Dict = Figment::from(Serialized::defaults(T::default())).extract().unwrap_or_default();
    let mut faults = Vec::new();
    let settings: T = loop {
        // Each turn finds a fault in at least one setting, and takes that out.
        match Figment::from(Serialized::defaults(&values)).extract::<T>() {
            Ok(settings) => break settings,
            Err(errors) => {
                let before = faults.len();
                for error in errors {
                    let Some(key) = key_of(&error) else { continue };
                    faults.push(fault(figment, &key, error.kind.to_string()));
                    put_right(&mut values, &defaults, &key);
                }
                if faults.len() == before {
                    let what = "the settings can't be read".to_owned();
                    faults.push(Fault { key: String::new(), origin: Origin::Flags, what });
                    return Err(Faults(faults));
                }
            }
        }
    };
    faults.extend(judge(&settings).into_iter().map(|(key, what)| fault(figment, key, what)));
    if faults.is_empty() { Ok(settings) } else { Err(Faults(faults)) }
}

/// A file that is no TOML, or not there.
fn unreadable(errors: Error) -> Vec<Fault> {
    let of = |error: Error| {
        let path = error.metadata.as_ref().and_then(|data| data.source.as_ref()).and_then(Source::file_path);
        let origin = path.map_or(Origin::Flags, |path| Origin::File(path.to_owned(), place::broken(path)));
        Fault { key: String::new(), origin, what: error.kind.to_string() }
    };
    errors.into_iter().map(of).collect()
}

/// The setting that an error is about.
fn key_of(error: &Error) -> Option<String> {
    match (error.path.first(), &error.kind) {
        (Some(key), _) => Some(key.clone()),
        (None, Kind::UnknownField(key, _)) => Some(key.clone()),
        (None, Kind::DuplicateField(key)) => Some((*key).to_owned()),
        (None, Kind::MissingField(key)) => Some(key.to_string()),
        (None, _) => None,
    }
}

fn put_right(values: &mut Dict, defaults: &Dict, key: &str) {
    match defaults.get(key) {
        Some(value) => values.insert(key.to_owned(), Value::clone(value)),
        None => values.remove(key),
    };
}

fn fault(figment: &Figment, key: &str, what: String) -> Fault {
    let origin = match figment.find_metadata(key) {
        Some(metadata) => match metadata.source.as_ref().and_then(Source::file_path) {
            Some(path) => Origin::File(path.to_owned(), place::line_of(path, key)),
            None if metadata.name.contains("environment") => Origin::Environment,
            None => Origin::Flags,
        },
        None => Origin::Flags,
    };
    Fault { key: key.to_owned(), origin, what }
}

fn lines(faults: &[Fault]) -> String {
    let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::File(path, Some(line)) => write!(f, "{}:{line}: ", path.display())?,
            Origin::File(path, None) => write!(f, "{}: ", path.display())?,
            Origin::Environment => write!(f, "environment CAPSULE_{}: ", self.key.to_uppercase())?,
            Origin::Flags => {}
        }
        match self.key.as_str() {
            "" => f.write_str(&self.what),
            key => write!(f, "{key}: {}", self.what),
        }
    }
}

#[cfg(test)]
mod tests;
