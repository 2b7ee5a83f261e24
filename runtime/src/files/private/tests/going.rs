use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use super::{fill_base, round, settle, write};
use crate::files::private::{Ended, Pace, Rounds};
use crate::files::sandbox::{Sandbox, see, send};

#[test]
fn what_takes_another_kind_of_thing_s_place_arrives() {
    let mut sandbox = Sandbox::new("kinds");
    fill_base(&sandbox.directory("base"));
    let root = sandbox.overlay();
    let (upper, target) = (sandbox.path.join("upper"), sandbox.directory("target"));
    let names = ["directory", "file", "link", "fifo", "whiteout"];
    let made = |name: &str, kind: &str| {
        let path = root.join(name);
        match kind {
            "directory" => {
                std::fs::create_dir_all(path.join("below/more")).unwrap();
                write(&path.join("below/more/file"), name);
                std::fs::hard_link(path.join("below/more/file"), path.join("linked")).unwrap();
            }
            "file" => write(&path, name),
            "link" => symlink("replaced", &path).unwrap(),
            "fifo" => {
                rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
            }
            // What stands in the base is hidden by its removal.
            _ => {}
        }
    };
    // Each kind becomes each other one, below a name of the base and below one that is not there.
    let pairs = names.iter().flat_map(|from| names.iter().map(move |to| (*from, *to)));
    let pairs: Vec<(String, &str, &str)> = pairs
        .flat_map(|(from, to)| ["new", "replaced"].map(|within| (format!("{within}/{from}-{to}"), from, to)))
        .collect();
    std::fs::create_dir(root.join("new")).unwrap();
    pairs.iter().for_each(|(name, from, _)| made(name, from));
    let mut rounds = Rounds::new(&upper);
    round(&sandbox, &mut rounds, &target, Pace::Running);
    assert_eq!(see(&upper), see(&target));
    for (name, from, to) in &pairs {
        match *from {
            "directory" => std::fs::remove_dir_all(root.join(name)).unwrap(),
            "whiteout" => {}
            _ => std::fs::remove_file(root.join(name)).unwrap(),
        }
        made(name, to);
    }
    // A directory of the base that was there only to hold these becomes a whiteout, and an opaque one.
    std::fs::remove_dir_all(root.join("replaced")).unwrap();
    settle();
    round(&sandbox, &mut rounds, &target, Pace::Running);
    assert_eq!(target.join("replaced").symlink_metadata().unwrap().rdev(), 0);
    assert_eq!(see(&upper), see(&target));
    std::fs::create_dir(root.join("replaced")).unwrap();
    settle();
    round(&sandbox, &mut rounds, &target, Pace::Frozen);
    assert_eq!(see(&upper), see(&target));
    assert!(rounds.last().unwrap().is_empty());
}

#[test]
fn the_root_alone_arrives_and_takes_nothing_along() {
    let sandbox = Sandbox::new("root");
    let (upper, target) = (sandbox.directory("upper"), sandbox.directory("target"));
    let mut rounds = Rounds::new(&upper);
    for pace in [Pace::Running, Pace::Frozen] {
        // An empty layer, and one whose files stay as they are.
        std::fs::set_permissions(&upper, std::fs::Permissions::from_mode(0o1751)).unwrap();
        chown(&upper, Some(17), Some(18)).unwrap();
        rustix::fs::lsetxattr(&upper, "user.note", format!("{pace:?}").as_bytes(), XattrFlags::empty())
            .unwrap();
        File::open(&upper)
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH + Duration::from_nanos(1 << 60))
            .unwrap();
        settle();
        assert_eq!(round(&sandbox, &mut rounds, &target, pace), [PathBuf::from(".")]);
        assert_eq!(see(&upper), see(&target));
        write(&upper.join("file"), "file");
        settle();
        round(&sandbox, &mut rounds, &target, pace);
        std::fs::set_permissions(&upper, std::fs::Permissions::from_mode(0o700)).unwrap();
        // What is behind its back can't go along unless rsync looks for it.
        write(&target.join("file"), "mark");
        settle();
        assert_eq!(round(&sandbox, &mut rounds, &target, pace), [PathBuf::from(".")]);
        assert_eq!(std::fs::read(target.join("file")).unwrap(), b"mark");
        assert_eq!(target.metadata().unwrap().mode() & 0o7777, 0o700);
        std::fs::remove_file(upper.join("file")).unwrap();
        settle();
        assert_eq!(round(&sandbox, &mut rounds, &target, pace), [PathBuf::from(".")]);
        assert_eq!(see(&upper), see(&target));
    }
}

#[test]
fn what_vanishes_during_a_round_is_removed_by_the_next() {
    let sandbox = Sandbox::new("vanish");
    let (upper, target) = (sandbox.directory("upper"), sandbox.directory("target"));
    let mut rounds = Rounds::new(&upper);
    for name in ["old", "directory/old", "whole/below"] {
        std::fs::create_dir_all(upper.join(name).parent().unwrap()).unwrap();
        write(&upper.join(name), "old");
    }
    settle();
    round(&sandbox, &mut rounds, &target, Pace::Running);
    for name in ["old", "directory/old", "whole/below", "new", "directory/new"] {
        write(&upper.join(name), "changed");
    }
    std::fs::set_permissions(&upper, std::fs::Permissions::from_mode(0o711)).unwrap();
    settle();
    let next = rounds.next().unwrap();
    // All that was named, before rsync has looked.
    for name in ["old", "directory/old", "new", "directory/new"] {
        std::fs::remove_file(upper.join(name)).unwrap();
    }
    std::fs::remove_dir_all(upper.join("whole")).unwrap();
    assert_eq!(send(&sandbox, &upper, &target, Some(&next), Pace::Running), Ended::Complete);
    assert_eq!(target.metadata().unwrap().mode() & 0o7777, 0o711);
    rounds.note(next, Ended::Complete);
    settle();
    let last = rounds.last().unwrap();
    assert_eq!(
        last.removed().iter().collect::<Vec<_>>(),
        [
            Path::new("directory/new"),
            Path::new("directory/old"),
            Path::new("new"),
            Path::new("old"),
            Path::new("whole"),
        ]
    );
    assert_eq!(send(&sandbox, &upper, &target, Some(&last), Pace::Frozen), Ended::Complete);
    assert_eq!(see(&upper), see(&target));
    rounds.note(last, Ended::Complete);
    // When nothing runs nothing can vanish: that is told, and not passed over.
    write(&upper.join("named"), "named");
    write(&upper.join("there"), "there");
    let last = rounds.last().unwrap();
    std::fs::remove_file(upper.join("named")).unwrap();
    let failed = std::panic::catch_unwind(|| send(&sandbox, &upper, &target, Some(&last), Pace::Frozen));
    assert!(failed.is_err());
}

#[test]
fn a_path_that_comes_back_during_a_round_is_not_left_behind() {
    let sandbox = Sandbox::new("back");
    let (upper, target) = (sandbox.directory("upper"), sandbox.directory("target"));
    let directory = upper.join("a/b");
    let make = || {
        std::fs::create_dir_all(&directory).unwrap();
        write(&directory.join("file"), "file");
    };
    let remove = || std::fs::remove_dir_all(upper.join("a")).unwrap();
    for end in [Ended::Complete, Ended::Incomplete] {
        let mut rounds = Rounds::new(&upper);
        make();
        settle();
        round(&sandbox, &mut rounds, &target, Pace::Running);
        remove();
        settle();
        // Gone when it is listed, and back when rsync looks.
        let next = rounds.next().unwrap();
        assert_eq!(next.paths(), [PathBuf::from(".")]);
        assert_eq!(next.removed().iter().collect::<Vec<_>>(), [Path::new("a")]);
        std::fs::create_dir(upper.join("a")).unwrap();
        send(&sandbox, &upper, &target, Some(&next), Pace::Running);
        assert!(!target.join("a").exists());
        rounds.note(next, end);
        settle();
        round(&sandbox, &mut rounds, &target, Pace::Running);
        assert_eq!(see(&upper), see(&target));
        std::fs::remove_dir(upper.join("a")).unwrap();
        settle();
        round(&sandbox, &mut rounds, &target, Pace::Frozen);
        assert_eq!(see(&upper), see(&target));
        settle();
        assert!(rounds.last().unwrap().is_empty());
    }
    // One that was sent by a round that failed, and vanished then.
    let mut rounds = Rounds::new(&upper);
    round(&sandbox, &mut rounds, &target, Pace::Running);
    make();
    let failed = rounds.next().unwrap();
    send(&sandbox, &upper, &target, Some(&failed), Pace::Running);
    rounds.note(failed, Ended::Incomplete);
    remove();
    settle();
    round(&sandbox, &mut rounds, &target, Pace::Frozen);
    assert_eq!(see(&upper), see(&target));
}

#[test]
fn a_directory_that_was_elsewhere_during_a_round_is_sent_again() {
    let sandbox = Sandbox::new("elsewhere");
    let (upper, target) = (sandbox.directory("upper"), sandbox.directory("target"));
    let outside = sandbox.directory("outside");
    write(&outside.join("file"), "not of this capsule");
    let (here, away) = (upper.join("a/here"), upper.join("a/away"));
    std::fs::create_dir_all(here.join("deep")).unwrap();
    std::fs::create_dir(upper.join("a/beside")).unwrap();
    for name in ["a/here/file", "a/here/deep/file", "a/beside/file"] {
        write(&upper.join(name), "right");
    }
    settle();
    // What rsync meets instead: nothing, another directory, a way out of the layer.
    for other in ["nothing", "directory", "symlink"] {
        for end in [Ended::Complete, Ended::Incomplete] {
            let _ = std::fs::remove_dir_all(&target);
            std::fs::create_dir(&target).unwrap();
            let mut rounds = Rounds::new(&upper);
            if end == Ended::Incomplete {
                round(&sandbox, &mut rounds, &target, Pace::Running);
                settle();
            }
            let swap = || {
                std::fs::rename(&here, &away).unwrap();
                match other {
                    "directory" => {
                        std::fs::create_dir_all(here.join("deep")).unwrap();
                        write(&here.join("file"), "wrong");
                        write(&here.join("deep/file"), "wrong");
                    }
                    "symlink" => symlink(&outside, &here).unwrap(),
                    _ => {}
                }
            };
            // A round that fails may have sent the other one because that was listed.
            let next = if end == Ended::Complete {
                let next = rounds.next().unwrap();
                swap();
                next
            } else {
                swap();
                rounds.next().unwrap()
            };
            send(&sandbox, &upper, &target, Some(&next), Pace::Running);
            assert_ne!(std::fs::read(target.join("a/here/file")).ok().as_deref(), Some(&b"right"[..]));
            rounds.note(next, end);
            match other {
                "directory" => std::fs::remove_dir_all(&here).unwrap(),
                "symlink" => std::fs::remove_file(&here).unwrap(),
                _ => {}
            }
            std::fs::rename(&away, &here).unwrap();
            settle();
            let sent = round(&sandbox, &mut rounds, &target, Pace::Frozen);
            assert_eq!(see(&upper), see(&target), "{other} {end:?}: {sent:?}");
            assert!(!sent.contains(&PathBuf::from("a/beside/file")), "{sent:?}");
            settle();
        }
    }
}
