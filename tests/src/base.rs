//! Small roots that stand for the files of a host, so that hosts with different files can be tried on one machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Makes a root with these programs, the libraries they need, and the folders that every host has.
///
/// # Panics
/// When a program is not there.
#[track_caller]
pub fn make_base(root: &Path, programs: &[(&str, &str)]) {
    for folder in ["dev", "proc", "sys", "tmp", "run", "etc", "root", "usr/bin", "opt"] {
        fs::create_dir_all(root.join(folder)).expect("the mesh's folder is ours");
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("just made");
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("just made");
    fs::write(root.join("etc/group"), "root:x:0:\n").expect("just made");
    for (program, place) in programs {
        copy(Path::new(program), &root.join(place.trim_start_matches('/')));
        for library in libraries(program) {
            copy(Path::new(&library), &root.join(library.trim_start_matches('/')));
        }
    }
}

#[track_caller]
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().expect("a file is in a folder")).expect("the mesh's folder is ours");
    fs::copy(from, to).unwrap_or_else(|error| panic!("{} to {}: {error}", from.display(), to.display()));
}

/// The absolute paths that `ldd` names.
#[track_caller]
fn libraries(program: &str) -> Vec<String> {
    let output = Command::new("ldd").arg(program).output().expect("ldd is part of libc-bin");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    let found: Vec<String> = paths.map(str::to_owned).collect();
    assert!(!found.is_empty(), "{program}: {text}");
    found
}
