use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, FileType, Mode};

use super::{Remover, pieces};
use crate::files::sandbox::{Sandbox, see};
use crate::files::{FilesError, limits};

/// A private layer, and beside it what must stay as it is.
fn layer(sandbox: &Sandbox) -> PathBuf {
    let upper = sandbox.directory("upper");
    let outside = sandbox.directory("outside");
    std::fs::create_dir(outside.join("directory")).unwrap();
    std::fs::write(outside.join("directory/file"), "outside").unwrap();
    std::fs::write(outside.join("file"), "outside").unwrap();
    std::fs::create_dir_all(upper.join("kept/below")).unwrap();
    std::fs::write(upper.join("kept/below/file"), "kept").unwrap();
    symlink(&outside, upper.join("absolute")).unwrap();
    symlink("../outside", upper.join("relative")).unwrap();
    symlink("kept", upper.join("within")).unwrap();
    symlink("/proc/self/cwd", upper.join("magic")).unwrap();
    upper
}

fn remove(upper: &Path, paths: &[&[u8]]) -> Result<(), FilesError> {
    let mut list = paths.join(&0);
    list.push(0);
    Remover::of(upper)?.remove(&list)
}

#[test]
fn what_is_named_goes_with_all_below() {
    let sandbox = Sandbox::new("goes");
    let upper = layer(&sandbox);
    let before = see(&upper);
    let gone = upper.join("gone");
    for index in 0..2000 {
        std::fs::create_dir_all(gone.join(format!("{}/b", index % 7))).unwrap();
        std::fs::write(gone.join(format!("{}/b/{index}", index % 7)), "x").unwrap();
    }
    // Neither is followed: what they lead to stays.
    symlink(sandbox.path.join("outside"), gone.join("0/link")).unwrap();
    symlink("../../kept", gone.join("1/link")).unwrap();
    std::fs::hard_link(upper.join("kept/below/file"), gone.join("2/link")).unwrap();
    let whiteout = upper.join("whiteout");
    rustix::fs::mknodat(CWD, &whiteout, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    let strange = upper.join(std::ffi::OsStr::from_bytes(b"..\xff\n "));
    std::fs::write(&strange, "x").unwrap();
    symlink("/nowhere", upper.join("dangling")).unwrap();
    // As deep as a path may be.
    let deep = upper.join("deep").join(vec!["d"; 1900].join("/"));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("file"), "x").unwrap();
    let outside = see(&sandbox.path.join("outside"));

    remove(&upper, &[b"gone", b"whiteout", b"..\xff\n ", b"dangling", b"deep"]).unwrap();
    let keys = |seen: &std::collections::BTreeMap<PathBuf, _>| seen.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&see(&upper)), keys(&before));
    assert_eq!(std::fs::read(upper.join("kept/below/file")).unwrap(), b"kept");
    assert_eq!(see(&sandbox.path.join("outside")), outside);
    // Once more, and others that are not there, or that have a file or nothing on the way.
    remove(&upper, &[b"gone", b"never/was", b"kept/below/file/x", b"kept/nothing/there"]).unwrap();
    assert_eq!(keys(&see(&upper)), keys(&before));
}

#[test]
fn nothing_outside_is_reached() {
    let sandbox = Sandbox::new("outside");
    let upper = layer(&sandbox);
    let before = see(&sandbox.path);
    let absolute = sandbox.path.join("outside/file");
    let absolute = absolute.as_os_str().as_bytes();
    for path in [
        absolute,
        b"",
        b".",
        b"..",
        b"/",
        b"../outside",
        b"../outside/file",
        b"kept/../../outside/file",
        b"kept/below/../../../outside",
        b"./kept",
        b"kept/.",
        b"kept/..",
        b"kept/",
        b"kept//below",
        b"//kept",
    ] {
        // None of such a list is done, whatever else it names.
        let error = remove(&upper, &[b"kept", path]).unwrap_err();
        assert!(matches!(error, FilesError::BadRemovals { .. }), "{error}");
        println!("{error}");
    }
    // Through symlinks: there is no such path.
    let through: [&[u8]; 7] = [
        b"absolute/file",
        b"absolute/directory",
        b"relative/file",
        b"relative/directory/file",
        b"within/below",
        b"magic/kept",
        b"absolute/directory/file",
    ];
    remove(&upper, &through).unwrap();
    assert_eq!(see(&sandbox.path), before);
}

#[test]
fn a_list_that_is_too_long_or_broken_is_refused() {
    let sandbox = Sandbox::new("list");
    let upper = layer(&sandbox);
    let before = see(&upper);
    let mut remover = Remover::of(&upper).unwrap();
    let long = [&b"kept\0"[..], &vec![b'x'; limits::REMOVALS_PIECE_BYTES - 5], &b"\0"[..]].concat();
    for piece in [&b""[..], b"kept", b"\0", b"kept\0\0", b"kept\0kept", &long] {
        let error = remover.remove(piece).unwrap_err();
        assert!(matches!(error, FilesError::BadRemovals { .. }), "{error}");
    }
    // Every name counts, also those that are not there.
    let mut remover = Remover::of(&upper).unwrap();
    let piece = b"a\0".repeat(limits::REMOVALS_PIECE_BYTES / 2);
    let whole = limits::REMOVALS_MAX / (limits::REMOVALS_PIECE_BYTES / 2);
    for _ in 0..whole {
        remover.remove(&piece).unwrap();
    }
    let error = remover.remove(&piece).unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
    assert_eq!(see(&upper), before);
}

#[test]
fn a_directory_that_becomes_a_symlink_meanwhile_leads_nowhere() {
    let sandbox = Sandbox::new("swapped");
    let upper = sandbox.directory("upper");
    let outside = sandbox.directory("outside");
    for index in 0..200 {
        std::fs::write(outside.join(index.to_string()), "outside").unwrap();
    }
    let before = see(&outside);
    symlink(&outside, upper.join("link")).unwrap();
    std::fs::create_dir(upper.join("a")).unwrap();
    let stop = AtomicBool::new(false);
    let exchange = || {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        let _ = rustix::fs::renameat_with(CWD, upper.join("a"), CWD, upper.join("link"), flags);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                exchange();
            }
        });
        for turn in 0..5_000 {
            let name = format!("a/{}", turn % 200);
            let _ = std::fs::create_dir(upper.join("a"));
            // Whether it is there, and whether it is a directory, changes all the time.
            let _ = remove(&upper, &[name.as_bytes()]);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(see(&outside), before);
}

#[test]
fn pieces_hold_every_path_and_are_no_longer_than_allowed() {
    assert_eq!(pieces(&[]).count(), 0);
    let paths: Vec<PathBuf> =
        (0..9000).map(|index| format!("{index}/{}", "n".repeat(index % 4000)).into()).collect();
    let all: Vec<Vec<u8>> = pieces(&paths).collect();
    assert!(all.len() > 10 && all.iter().all(|piece| piece.len() <= limits::REMOVALS_PIECE_BYTES));
    // Nearly full: another path would not have fitted.
    assert!(all[..all.len() - 1].iter().all(|piece| piece.len() > limits::REMOVALS_PIECE_BYTES - 4100));
    let joined = all.concat();
    let back = joined.strip_suffix(&[0]).unwrap().split(|byte| *byte == 0);
    assert!(back.eq(paths.iter().map(|path| path.as_os_str().as_bytes())));
    let sandbox = Sandbox::new("pieces");
    let upper = layer(&sandbox);
    let mut remover = Remover::of(&upper).unwrap();
    // Names longer than 255 can't be there; the kernel says so, and that is told.
    assert!(all.iter().any(|piece| remover.remove(piece).is_err()));
}
