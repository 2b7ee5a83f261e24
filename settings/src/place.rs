//! Where in a file a setting is.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use toml::{Spanned, Value};

/// The line of a top-level key, counted from one.
pub(super) fn line_of(path: &Path, key: &str) -> Option<usize> {
    let text = fs::read_to_string(path).ok()?;
    let keys: BTreeMap<Spanned<String>, Value> = toml::from_str(&text).ok()?;
    let found = keys.into_keys().find(|name| name.get_ref() == key)?;
    Some(line_at(&text, found.span().start))
}

/// The line at which a file is no TOML any more.
pub(super) fn broken(path: &Path) -> Option<usize> {
    let text = fs::read_to_string(path).ok()?;
    let error = toml::from_str::<toml::Table>(&text).err()?;
    Some(line_at(&text, error.span()?.start))
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}
