//! What a capsule left on a host.

use std::fs;
use std::path::{Path, PathBuf};

use testkit::Host;

/// The id of a capsule.
#[track_caller]
pub fn capsule_id(host: &Host, name: &str) -> String {
    let view = host.capsule(["--json", "inspect", name]).ok().json();
    view["id"].as_str().expect("a capsule has an id").to_owned()
}

/// Whether the host keeps a folder of this capsule.
pub fn on_disk(host: &Host, id: &str) -> bool {
    host.data().join("capsules").join(id).exists()
}

/// Fails unless the host has no file, mount, control group or process of a capsule any more. Asked at once: a verb
/// returns when its work is done.
///
/// # Panics
/// When something is left.
#[track_caller]
pub fn nothing_left_of(host: &Host, id: &str) {
    let mut left = Vec::new();
    left.extend(entries(&host.data().join("capsules")).into_iter().filter(|path| names(path, id)));
    left.extend(entries(&host.data().join("runc")).into_iter().filter(|path| names(path, id)));
    left.extend(entries(&host.data().join("moves")));
    left.extend(mounts(host, id));
    left.extend(groups(host, id));
    left.extend(processes(host, id));
    assert!(left.is_empty(), "{} still has of capsule {id}: {left:#?}", host.name());
}

fn names(path: &Path, id: &str) -> bool {
    path.to_string_lossy().contains(id)
}

fn mounts(host: &Host, id: &str) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let data = host.data().display().to_string();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| point.starts_with(&data) && point.contains(id)).map(PathBuf::from).collect()
}

/// A sidecar's groups are under one named after its host: a moved capsule has a group of the same id under another.
fn groups(host: &Host, id: &str) -> Vec<PathBuf> {
    let of_host = format!("{}-", host.name());
    let mut found = Vec::new();
    let mut todo = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = todo.pop() {
        for path in entries(&folder).into_iter().filter(|path| path.is_dir() && !path.is_symlink()) {
            let under_host = path.iter().any(|part| part.to_string_lossy().starts_with(&of_host));
            if names(&path, id) && under_host {
                found.push(path.clone());
            }
            todo.push(path);
        }
    }
    found
}

/// Processes whose command line names the capsule's folder on this host.
fn processes(host: &Host, id: &str) -> Vec<PathBuf> {
    let folder = host.data().join("capsules").join(id).display().to_string();
    let of_capsule = |path: &PathBuf| {
        let Ok(line) = fs::read(path.join("cmdline")) else { return false };
        String::from_utf8_lossy(&line).contains(&folder)
    };
    entries(Path::new("/proc")).into_iter().filter(of_capsule).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
