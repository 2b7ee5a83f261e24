//! Control groups, of both versions: found by name or by process, thawed, removed.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io, thread};

/// Deeper than anything that is made for a capsule.
const DEPTH_MAX: usize = 8;
/// A group is busy for a moment after its last process died.
const REMOVAL_TRIES: u32 = 50;

/// Groups whose own name is wanted, in every hierarchy.
pub(super) fn named(wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open: Vec<(PathBuf, usize)> = hierarchies().into_iter().map(|place| (place, 0)).collect();
    while let Some((place, depth)) = open.pop() {
        for child in children(&place) {
            let name = child.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if wanted(&name) {
                found.push(child.clone());
            }
            if depth < DEPTH_MAX {
                open.push((child, depth + 1));
            }
        }
    }
    found
}

/// Groups of a process that are not also those of this process or above it.
pub(super) fn of(pid: i32) -> Vec<PathBuf> {
    let own = paths("self");
    let strange =
        paths(&pid.to_string()).into_iter().filter(|path| !own.iter().any(|own| own.starts_with(path)));
    let places = hierarchies();
    strange
        .flat_map(|path| places.iter().map(move |place| place.join(&path)).collect::<Vec<_>>())
        .filter(|group| group.is_dir())
        .collect()
}

/// Wakes a frozen process up, so that it can die (version 1 keeps killed processes frozen).
pub(super) fn thaw(pid: i32) {
    for group in of(pid) {
        // Only one of these exists, depending on the version; the write fails when the group is just going away.
        for (file, value) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
            if group.join(file).exists() {
                let _ = fs::write(group.join(file), value);
            }
        }
    }
}

/// Removes a group with all groups below it, and those above it that are empty then: a sidecar's own group goes with
/// its last capsule.
pub(super) fn remove(group: &Path) -> io::Result<()> {
    remove_tree(group)?;
    let above = hierarchies().into_iter().find(|place| group.starts_with(place));
    for parent in
        group.ancestors().skip(1).take_while(|parent| above.as_deref().is_some_and(|top| *parent != top))
    {
        // The kernel refuses while another capsule or process is inside.
        if fs::remove_dir(parent).is_err() {
            break;
        }
    }
    Ok(())
}

fn remove_tree(group: &Path) -> io::Result<()> {
    for child in children(group) {
        remove_tree(&child)?;
    }
    let mut tries = 0;
    loop {
        match fs::remove_dir(group) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tries < REMOVAL_TRIES => tries += 1,
            result => return result,
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Where cgroup file systems are mounted.
fn hierarchies() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounts = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    mounts
        .filter(|fields| matches!(fields[2], "cgroup" | "cgroup2"))
        .map(|fields| PathBuf::from(fields[1]))
        .collect()
}

fn children(place: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Paths of a process below the hierarchies' roots.
fn paths(pid: &str) -> Vec<PathBuf> {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let paths =
        table.lines().filter_map(|line| line.splitn(3, ':').nth(2)).map(|path| path.trim_start_matches('/'));
    paths.filter(|path| !path.is_empty()).map(PathBuf::from).collect()
}
