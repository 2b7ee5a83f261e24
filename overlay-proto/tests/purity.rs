//! The core does no IO, reads no clock, spawns nothing, draws no randomness: its sources and dependencies say so.

use std::fs;
use std::path::Path;

/// What a pure crate has no use for. `std::net` is there for address types only.
const FORBIDDEN: &[&str] = &[
    "tokio",
    "quinn",
    "async fn",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "ToSocketAddrs",
    "std::fs",
    "std::io",
    "std::process",
    "std::env",
    "std::os",
    "std::thread",
    "thread::spawn",
    "std::time",
    "Instant",
    "SystemTime",
    "std::sync",
    "static mut",
    "thread_local",
    "rand::",
    "getrandom",
    "RandomState",
    "HashMap",
    "HashSet",
    "unsafe",
    "extern",
    "include_bytes",
    "println!",
    "libc",
];

/// Codec, hash and derives: none of them does anything by itself.
const DEPENDENCIES: &[&str] = &["blake3", "bytes", "prost", "serde", "thiserror"];

fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("sources are there") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.display().to_string(), fs::read_to_string(&path).expect("a source")));
        }
    }
}

/// Code without comments, where the words may stand.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split("//").next().unwrap_or(line))
}

#[test]
fn sources_name_nothing_impure() {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 10, "the scan sees the sources");
    for (path, text) in found {
        for line in code(&text) {
            for word in FORBIDDEN {
                assert!(!line.contains(word), "{path} names {word}: {line}");
            }
            if let Some(rest) = line.split("std::net").nth(1) {
                let allowed = rest.contains("Addr") && !rest.contains('*');
                assert!(allowed, "{path} takes more than addresses from std::net: {line}");
            }
        }
    }
}

#[test]
fn dependencies_are_pure() {
    let manifest =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).expect("manifest");
    let mut names = Vec::new();
    let mut inside = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if let Some((name, _)) = line.split_once('=').filter(|_| inside) {
            names.push(name.trim().to_owned());
        }
    }
    assert_eq!(names, DEPENDENCIES, "a new dependency of the core needs a reason");
    assert!(!Path::new(env!("CARGO_MANIFEST_DIR")).join("build.rs").exists());
}
