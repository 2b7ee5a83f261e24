use std::fs::{File, Permissions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::XattrFlags;

use super::*;
use crate::files::private::{Ended, Pace, Rounds};
use crate::files::sandbox::{Ending, Sandbox, see, send};

/// What a capsule of the tests runs: it opens its arguments, maps those that start with "map:", and waits.
const PROGRAM: &str = "\
import mmap, os, sys
kept = []
os.chdir('/work')
for name in sys.argv[1:]:
    f = open(name.removeprefix('map:'), 'rb')
    if name.startswith('map:'):
        kept.append(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)); f.close()
    else:
        kept.append(f)
kept.append(os.memfd_create('memory')); kept.append(open('/dev/null')); kept.append(open('/proc/self/maps'))
print('ready', flush=True)
sys.stdin.readline()
for name in sys.stdin.readline().split():
    os.unlink(name)
print('ready', flush=True)
sys.stdin.read()
";

/// A base with Python from this host, bound in, and the given files.
fn base(sandbox: &Sandbox) -> PathBuf {
    let base = sandbox.directory("base");
    for name in ["usr", "dev", "proc", "old", "work", "data/deep"] {
        std::fs::create_dir_all(base.join(name)).unwrap();
    }
    for name in ["bin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), base.join(name)).unwrap();
    }
    file(&base.join("data/one"), b"one");
    file(&base.join("data/deep/two"), &[2; 100_000]);
    file(&base.join("data/written"), b"to be copied up");
    file(&base.join("data/unlinked"), b"to be removed inside");
    base
}

fn file(path: &Path, content: &[u8]) {
    std::fs::write(path, content).unwrap();
    chown(path, Some(33), Some(44)).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o640)).unwrap();
    let time = UNIX_EPOCH + Duration::new(1_600_000_000, 123_456_789);
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// Starts the program in a mount namespace of its own, pivoted into the overlay, as a runtime does.
fn capsule(root: &Path, arguments: &[&str]) -> Ending {
    let script = "mount --rbind /usr usr && mount --rbind /dev dev && mount -t proc proc proc && \
                  pivot_root . old && umount -l old && exec /usr/bin/python3 -c \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    command.arg(format!("mount --bind '{0}' '{0}' && cd '{0}' && {script}", root.display()));
    command.args(["sh", PROGRAM]).args(arguments);
    let mut child = Ending(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    ready(&mut child);
    child
}

fn ready(child: &mut Ending) {
    let mut word = [0; 6];
    child.0.stdout.as_mut().unwrap().read_exact(&mut word).expect("the program ends before it is ready");
}

fn tell(child: &mut Ending, text: &str) {
    use std::io::Write;
    child.0.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
}

fn paths(files: &[BaseFile]) -> Vec<&str> {
    files.iter().map(|file| file.path.to_str().unwrap()).collect()
}

#[test]
fn what_processes_have_from_the_base_is_found() {
    find_open(Sandbox::new("open"));
}

#[test]
fn a_base_on_another_file_system_is_the_same() {
    let mut sandbox = Sandbox::new("apart");
    sandbox.tmpfs("base");
    find_open(sandbox);
}

fn find_open(mut sandbox: Sandbox) {
    let base = base(&sandbox);
    let root = sandbox.overlay();
    std::fs::write(root.join("data/private"), "private").unwrap();
    std::fs::write(root.join("data/written"), "copied up").unwrap();
    let arguments =
        ["map:/data/deep/two", "/data/one", "/data/one", "/data/private", "/data/written", "/data/unlinked"];
    let mut child = capsule(&root, &arguments);
    tell(&mut child, "\n/data/unlinked\n");
    ready(&mut child);

    let began = std::time::Instant::now();
    let found = open_base_files(&[child.0.id(), u32::MAX], &base, &sandbox.path.join("upper")).unwrap();
    println!("one process looked into: {:?}", began.elapsed());
    assert_eq!(paths(&found.files), ["/data/deep/two", "/data/one", "/work"]);
    assert_eq!(found.unlinked, [Unlinked { path: "/data/unlinked".into(), size: 20 }]);
    assert_eq!(found.immovable, []);
    let one = &found.files[1];
    assert_eq!(
        (one.kind.clone(), one.size, one.mode, one.uid, one.gid),
        (BaseKind::Regular, 3, 0o640, 33, 44)
    );
    assert_eq!(one.modified, (1_600_000_000, 123_456_789));
    assert_eq!(one.digest, Some(*blake3::hash(b"one").as_bytes()));
    assert_eq!(found.files[2].kind, BaseKind::Directory);
}

#[test]
fn a_file_replaced_in_the_base_is_immovable() {
    let mut sandbox = Sandbox::new("replaced");
    let base = base(&sandbox);
    let root = sandbox.overlay();
    let child = capsule(&root, &["map:/data/deep/two", "/data/one"]);
    std::fs::write(base.join("data/new"), "an upgrade of the host").unwrap();
    std::fs::rename(base.join("data/new"), base.join("data/one")).unwrap();
    std::fs::remove_file(base.join("data/deep/two")).unwrap();

    let found = open_base_files(&[child.0.id()], &base, &sandbox.path.join("upper")).unwrap();
    let reasons: Vec<_> =
        found.immovable.iter().map(|file| (file.path.to_str().unwrap(), file.reason.as_str())).collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert_eq!(reasons[0].0, "/data/deep/two");
    assert!(reasons[0].1.contains("removed"), "{reasons:?}");
    assert_eq!(reasons[1].0, "/data/one");
    assert!(reasons[1].1.contains("replaced"), "{reasons:?}");
}

#[test]
fn mounts_on_top_of_the_base_do_not_belong_to_it() {
    let mut sandbox = Sandbox::new("hidden");
    let base = sandbox.directory("base");
    std::fs::create_dir(base.join("sub")).unwrap();
    std::fs::write(base.join("sub/file"), "below").unwrap();
    sandbox.tmpfs("base/sub");
    std::fs::write(base.join("sub/file"), "on top").unwrap();
    let files = named_base_files(&base, &sandbox.directory("upper"), &["/sub/file".into()]).unwrap();
    assert_eq!(files[0].digest, Some(*blake3::hash(b"below").as_bytes()));
}

#[test]
fn the_whole_host_serves_as_a_base() {
    let sandbox = Sandbox::new("host");
    let upper = sandbox.directory("upper");
    let files = named_base_files(Path::new("/"), &upper, &["/bin/sh".into()]).unwrap();
    let names = paths(&files);
    assert!(names.contains(&"/bin") || names.contains(&"/bin/sh"), "{names:?}");
    let shell = files.iter().find(|file| file.kind == BaseKind::Regular).unwrap();
    assert!(shell.build_id.as_ref().is_some_and(|id| id.len() == 20), "{shell:?}");
    assert_eq!(compare(Path::new("/"), &files).unwrap(), []);
    let json = serde_json::to_string(&files).unwrap();
    assert_eq!(serde_json::from_str::<Vec<BaseFile>>(&json).unwrap(), files);
}

/// A source's base, and a target's that is different in each way.
fn two_bases(sandbox: &Sandbox) -> (PathBuf, PathBuf, Vec<PathBuf>) {
    let (source, target) = (sandbox.directory("source"), sandbox.directory("other"));
    for host in [&source, &target] {
        std::fs::create_dir_all(host.join("lib/sub")).unwrap();
        file(&host.join("lib/same"), b"same");
        file(&host.join("lib/content"), b"content");
        file(&host.join("lib/length"), b"length");
        file(&host.join("lib/mode"), b"mode");
        file(&host.join("lib/owner"), b"owner");
        file(&host.join("lib/time"), b"time");
        symlink("lib/same", host.join("link")).unwrap();
    }
    std::fs::write(target.join("lib/content"), b"CONTENT").unwrap();
    std::fs::write(target.join("lib/length"), b"longer").unwrap();
    std::fs::set_permissions(target.join("lib/mode"), Permissions::from_mode(0o600)).unwrap();
    chown(target.join("lib/owner"), Some(1), None).unwrap();
    File::options().write(true).open(target.join("lib/time")).unwrap().set_modified(UNIX_EPOCH).unwrap();

    file(&source.join("lib/sub/missing"), b"missing");
    std::fs::create_dir_all(source.join("opt/program/lib")).unwrap();
    chown(source.join("opt/program"), Some(7), Some(8)).unwrap();
    std::fs::set_permissions(source.join("opt/program"), Permissions::from_mode(0o2751)).unwrap();
    rustix::fs::setxattr(source.join("opt/program"), "user.kept", b"x", XattrFlags::empty()).unwrap();
    file(&source.join("opt/program/lib/lib.so.1.2"), b"library");
    symlink("lib.so.1.2", source.join("opt/program/lib/lib.so.1")).unwrap();
    symlink("program", source.join("opt/current")).unwrap();
    std::fs::create_dir(source.join("empty")).unwrap();
    std::fs::create_dir(source.join("a-link-there")).unwrap();
    file(&source.join("a-link-there/file"), b"file");
    symlink("lib", target.join("a-link-there")).unwrap();
    std::fs::create_dir(source.join("a-file-there")).unwrap();
    file(&source.join("a-file-there/file"), b"file");
    file(&target.join("a-file-there"), b"file");
    file(&source.join("a-directory-there"), b"file");
    std::fs::create_dir(target.join("a-directory-there")).unwrap();
    let names = [
        "/lib/same",
        "/lib/content",
        "/lib/length",
        "/lib/mode",
        "/lib/owner",
        "/lib/time",
        "/lib/sub/missing",
        "/link",
        "/opt/current/lib/lib.so.1",
        "/empty",
        "/a-link-there/file",
        "/a-file-there/file",
        "/a-directory-there",
    ];
    (source, target, names.map(PathBuf::from).to_vec())
}

#[test]
fn differences_are_named_and_shipped() {
    let mut sandbox = Sandbox::new("ship");
    let (source, target, names) = two_bases(&sandbox);
    let files = named_base_files(&source, &sandbox.directory("upper"), &names).unwrap();
    let differences = compare(&target, &files).unwrap();
    let mut missing = Vec::new();
    let mut differs = Vec::new();
    let mut blocked = Vec::new();
    for difference in &differences {
        let path = difference.path.to_str().unwrap();
        match &difference.kind {
            DifferenceKind::Missing => missing.push(path),
            DifferenceKind::Differs => differs.push(path),
            DifferenceKind::Blocked(reason) => blocked.push((path, reason.as_str())),
        }
    }
    let library = ["/opt/program/lib/lib.so.1", "/opt/program/lib/lib.so.1.2"];
    assert_eq!(missing, ["/empty", "/lib/sub/missing", "/opt/current", library[0], library[1]]);
    assert_eq!(differs, ["/lib/content", "/lib/length", "/lib/mode", "/lib/owner"]);
    assert_eq!(
        blocked,
        [
            ("/a-directory-there", "it is a directory at the target and a file at the source"),
            ("/a-file-there/file", "/a-file-there is a file at the target"),
            ("/a-link-there/file", "/a-link-there is a symlink at the target"),
        ]
    );

    let staging = sandbox.directory("staging");
    let staged = stage(&source, &differences, &staging).unwrap();
    assert_eq!(staged.files, 9);
    let stored = see(&staging);
    for (path, seen) in see(&source) {
        if stored.contains_key(&path) && path != Path::new("") {
            assert_eq!(stored.get(&path), Some(&seen), "{}", path.display());
        }
    }
    ship(&mut sandbox, &target, &files, &staging);
}

/// Sends the staged tree, merges it, and looks at it through an overlay over the target's base.
fn ship(sandbox: &mut Sandbox, target: &Path, files: &[BaseFile], staging: &Path) {
    let received = sandbox.directory("received");
    assert_eq!(send(sandbox, staging, &received, None, Pace::Frozen), Ended::Complete);
    assert_eq!(see(staging).keys().collect::<Vec<_>>(), see(&received).keys().collect::<Vec<_>>());

    // The capsule wrote one of them meanwhile, and has a directory with rights of its own.
    let upper = sandbox.directory("upper");
    std::fs::create_dir_all(upper.join("lib")).unwrap();
    std::fs::set_permissions(upper.join("lib"), Permissions::from_mode(0o711)).unwrap();
    std::fs::write(upper.join("lib/length"), "the capsule's own").unwrap();
    let before = upper.join("lib").metadata().unwrap();
    merge(&received, &upper).unwrap();
    assert_eq!(merge(&received, &upper).unwrap(), 0);
    let after = upper.join("lib").metadata().unwrap();
    assert_eq!((before.mode(), before.mtime_nsec()), (after.mode(), after.mtime_nsec()));

    std::fs::rename(target, sandbox.path.join("base")).unwrap();
    let root = sandbox.overlay();
    let seen = compare(&root, files).unwrap();
    let left: Vec<_> = seen.iter().filter(|one| !matches!(one.kind, DifferenceKind::Blocked(_))).collect();
    assert_eq!(left, [&Difference { path: "/lib/length".into(), kind: DifferenceKind::Differs }]);
    assert_eq!(std::fs::read(root.join("lib/length")).unwrap(), b"the capsule's own");
    assert_eq!(std::fs::read(root.join("opt/current/lib/lib.so.1")).unwrap(), b"library");
    assert_eq!(std::fs::read(root.join("lib/time")).unwrap(), b"time");
    let library = root.join("opt/program/lib/lib.so.1.2").metadata().unwrap();
    assert_eq!((library.mtime(), library.mtime_nsec()), (1_600_000_000, 123_456_789));

    // What came by merging is private from now on, and goes along with the next move.
    let next = sandbox.directory("next");
    let mut rounds = Rounds::new(&upper);
    let round = rounds.next().unwrap();
    assert_eq!(send(sandbox, &upper, &next, Some(&round), Pace::Frozen), Ended::Complete);
    rounds.note(round, Ended::Complete);
    assert_eq!(see(&upper), see(&next));
}

#[test]
fn paths_from_another_host_cannot_leave_the_base() {
    let sandbox = Sandbox::new("escape");
    let base = sandbox.directory("base");
    symlink("/etc", base.join("out")).unwrap();
    symlink("../../../../etc", base.join("up")).unwrap();
    for path in ["/out/hostname", "/up/hostname", "/../etc/hostname", "etc/hostname"] {
        let file = BaseFile {
            path: path.into(),
            kind: BaseKind::Regular,
            size: 1,
            mode: 0o644,
            uid: 0,
            gid: 0,
            modified: (0, 0),
            digest: None,
            build_id: None,
        };
        let differences = compare(&base, &[file]).unwrap();
        assert!(matches!(differences[0].kind, DifferenceKind::Blocked(_)), "{path}: {differences:?}");
    }
}
