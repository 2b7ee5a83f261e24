//! Where the built programs are.

use std::env;
use std::path::PathBuf;

/// Path of a program of this workspace, built beside the running test (`target/release`).
///
/// # Panics
/// When it was not built.
#[track_caller]
pub fn program(name: &str) -> PathBuf {
    find(name).unwrap_or_else(|| panic!("{name} is not beside the running program: make build"))
}

pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = folder().join(name);
    path.is_file().then_some(path)
}

/// `target/release` for `target/release/demo` and for `target/release/deps/test-0123`.
pub(crate) fn folder() -> PathBuf {
    let own = env::current_exe().expect("/proc is mounted");
    let folder = own.parent().expect("a file is in a folder");
    match folder.file_name().and_then(|name| name.to_str()) {
        Some("deps" | "examples") => folder.parent().expect("target/release/deps").to_owned(),
        _ => folder.to_owned(),
    }
}
