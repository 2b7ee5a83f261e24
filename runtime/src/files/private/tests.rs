use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

use super::connect::join;
use super::{Ended, Listing, Pace, Rounds};
use crate::files::sandbox::{Sandbox, see, send};

/// Things that go, come back, or become something else while rounds are under way.
mod going;

/// Not a test: what the script of `sandbox::connector` starts.
#[test]
#[ignore = "started by other tests as the remote shell of rsync"]
fn connector() {
    let socket = std::os::unix::net::UnixStream::connect(std::env::var_os("CX_SOCKET").unwrap()).unwrap();
    let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
    let output = rustix::process::pidfd_getfd(own, 3, PidfdGetfdFlags::empty()).unwrap();
    join(socket, std::io::stdin(), File::from(output)).unwrap();
    // Ends the other thread, which may wait for input.
    std::process::exit(0);
}

fn write(path: &Path, content: impl AsRef<[u8]>) {
    std::fs::write(path, content).unwrap();
}

fn round(sandbox: &Sandbox, rounds: &mut Rounds, target: &Path, pace: Pace) -> Vec<PathBuf> {
    let round = if pace == Pace::Frozen { rounds.last().unwrap() } else { rounds.next().unwrap() };
    let paths = round.paths().to_vec();
    if !round.is_empty() {
        let upper = sandbox.path.join("upper");
        assert_eq!(send(sandbox, &upper, target, Some(&round), pace), Ended::Complete);
    }
    rounds.note(round, Ended::Complete);
    paths
}

/// Longer than the slack, so that what was done before a round is not sent again by the next.
fn settle() {
    std::thread::sleep(Duration::from_millis(30));
}

/// One of everything that a private layer may hold.
fn fill(root: &Path) {
    write(&root.join("plain"), "plain");
    write(&root.join("empty"), "");
    for name in [
        &b"new\nline"[..],
        b"not-utf8-\xff\xfe",
        b"#hash",
        b";semicolon",
        b" lead and trail ",
        b"-rf",
        b"*?[x]\\",
    ] {
        write(&root.join(std::ffi::OsStr::from_bytes(name)), name);
    }
    write(&root.join("n".repeat(255)), "long");
    write(&root.join("hidden"), "no permissions");
    std::fs::set_permissions(root.join("hidden"), std::fs::Permissions::from_mode(0o0)).unwrap();
    write(&root.join("setuid"), "x");
    chown(root.join("setuid"), Some(1234), Some(98765)).unwrap();
    std::fs::set_permissions(root.join("setuid"), std::fs::Permissions::from_mode(0o6755)).unwrap();

    std::fs::create_dir(root.join("locked")).unwrap();
    write(&root.join("locked/inside"), "inside");
    std::fs::set_permissions(root.join("locked"), std::fs::Permissions::from_mode(0o0)).unwrap();
    std::fs::create_dir(root.join("sticky")).unwrap();
    std::fs::set_permissions(root.join("sticky"), std::fs::Permissions::from_mode(0o3777)).unwrap();
    std::fs::create_dir_all(root.join("deep/er/est")).unwrap();
    write(&root.join("deep/er/est/file"), "deep");
    std::fs::hard_link(root.join("deep/er/est/file"), root.join("other-name")).unwrap();

    symlink("/nowhere/at all", root.join("dangling")).unwrap();
    symlink("deep", root.join("to-directory")).unwrap();
    chown_link(&root.join("dangling"), 4, 5);
    let make = |name: &str, kind, mode, device| {
        rustix::fs::mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(mode), device).unwrap();
    };
    make("fifo", FileType::Fifo, 0o620, 0);
    make("socket", FileType::Socket, 0o755, 0);
    make("null", FileType::CharacterDevice, 0o666, rustix::fs::makedev(1, 3));
    make("disk", FileType::BlockDevice, 0o660, rustix::fs::makedev(7, 77));
    std::fs::hard_link(root.join("null"), root.join("null-too")).unwrap();
    std::fs::hard_link(root.join("fifo"), root.join("fifo-too")).unwrap();

    attributes(root);
    sparse(&root.join("sparse"), 2200 << 20);
    sparse(&root.join("trailing-hole"), 5 << 20);
    File::options().write(true).open(root.join("trailing-hole")).unwrap().set_len(64 << 20).unwrap();
}

fn chown_link(path: &Path, uid: u32, gid: u32) {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).unwrap();
}

fn attributes(root: &Path) {
    let set = |name: &str, attribute: &str, value: &[u8]| {
        rustix::fs::lsetxattr(root.join(name), attribute, value, XattrFlags::empty()).unwrap();
    };
    write(&root.join("attributes"), "attributes");
    set("attributes", "user.note", b"note\0\xff");
    set("attributes", "user.empty", b"");
    set("attributes", "user.rsync.%stat", b"100644 0,0 7:7");
    set("attributes", "trusted.note", b"trusted");
    set("attributes", "user.big", &[7; 3000]);
    set("deep", "user.on-directory", b"d");
    set("dangling", "trusted.on-link", b"l");
    // cap_net_bind_service=ep, version 2.
    write(&root.join("capable"), "x");
    set("capable", "security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // Access list: owner rw-, user 1000 rw-, group r--, mask rw-, other ---.
    let mut list = vec![2, 0, 0, 0];
    for (tag, allowed, id) in
        [(1_u16, 6_u16, u32::MAX), (2, 6, 1000), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 0, u32::MAX)]
    {
        list.extend(tag.to_le_bytes());
        list.extend(allowed.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    write(&root.join("listed"), "access list");
    set("listed", "system.posix_acl_access", &list);
    std::fs::create_dir(root.join("listed-directory")).unwrap();
    set("listed-directory", "system.posix_acl_default", &list);
    set("listed-directory", "system.posix_acl_access", &list);
}

fn sparse(path: &Path, length: u64) {
    let mut file = File::create(path).unwrap();
    file.write_all(b"first").unwrap();
    file.seek(SeekFrom::Start(length / 2)).unwrap();
    file.write_all(&[9; 10_000]).unwrap();
    file.seek(SeekFrom::Start(length - 4)).unwrap();
    file.write_all(b"last").unwrap();
}

/// What the base holds for `whiteouts`.
fn fill_base(base: &Path) {
    write(&base.join("removed-1"), "gone");
    write(&base.join("removed-2"), "gone");
    std::fs::create_dir_all(base.join("replaced/below")).unwrap();
    write(&base.join("replaced/below/file"), "not to shine through");
    write(&base.join("copied-up"), "from the base");
    write(&base.join("linked-in-base"), "twice");
    std::fs::hard_link(base.join("linked-in-base"), base.join("linked-in-base-too")).unwrap();
}

fn whiteouts(root: &Path) {
    std::fs::remove_file(root.join("removed-1")).unwrap();
    std::fs::remove_file(root.join("removed-2")).unwrap();
    std::fs::remove_dir_all(root.join("replaced")).unwrap();
    std::fs::create_dir(root.join("replaced")).unwrap();
    write(&root.join("replaced/new"), "new");
    OpenOptions::new().append(true).open(root.join("copied-up")).unwrap().write_all(b" and on").unwrap();
    write(&root.join("linked-in-base"), "broken up");
}

#[test]
fn everything_arrives_exactly() {
    let mut sandbox = Sandbox::new("exact");
    fill_base(&sandbox.directory("base"));
    let root = sandbox.overlay();
    let upper = sandbox.path.join("upper");
    fill(&root);
    whiteouts(&root);
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o1775)).unwrap();
    chown(&root, Some(11), Some(12)).unwrap();

    let target = sandbox.directory("target");
    let mut rounds = Rounds::new(&upper);
    let began = Instant::now();
    round(&sandbox, &mut rounds, &target, Pace::Running);
    println!("everything, with 2.2 GiB of holes: {:?}", began.elapsed());

    let opaque = rustix::fs::lgetxattr(target.join("replaced"), "trusted.overlay.opaque", &mut [0_u8; 8][..]);
    assert_eq!(opaque, Ok(1));
    assert_eq!(target.join("removed-1").symlink_metadata().unwrap().rdev(), 0);
    assert!(
        rustix::fs::lgetxattr(upper.join("copied-up"), "trusted.overlay.origin", &mut [0_u8; 99][..]).is_ok()
    );
    assert!(
        rustix::fs::lgetxattr(target.join("copied-up"), "trusted.overlay.origin", &mut [0_u8; 99][..])
            .is_err()
    );
    let (from, to) = (see(&upper), see(&target));
    for (path, seen) in &from {
        assert_eq!(Some(seen), to.get(path), "{}", path.display());
    }
    assert_eq!(from.len(), to.len());
    for name in ["sparse", "trailing-hole"] {
        assert!(target.join(name).metadata().unwrap().blocks() < 200, "{name} lost its holes");
    }
}

#[test]
fn later_rounds_follow_every_change() {
    let mut sandbox = Sandbox::new("rounds");
    fill_base(&sandbox.directory("base"));
    let root = sandbox.overlay();
    let upper = sandbox.path.join("upper");
    fill(&root);
    std::fs::remove_file(root.join("sparse")).unwrap();
    for index in 0..20 {
        std::fs::create_dir_all(root.join(format!("tree/{index}"))).unwrap();
        write(&root.join(format!("tree/{index}/file")), format!("{index}"));
    }
    std::fs::hard_link(root.join("tree/0/file"), root.join("tree-0-link")).unwrap();
    settle();
    let target = sandbox.directory("target");
    let mut rounds = Rounds::new(&upper);
    round(&sandbox, &mut rounds, &target, Pace::Running);
    settle();
    assert_eq!(round(&sandbox, &mut rounds, &target, Pace::Running), Vec::<PathBuf>::new());

    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o751)).unwrap();
    settle();
    let hidden = target.join("hidden").metadata().unwrap().ino();
    assert_eq!(round(&sandbox, &mut rounds, &target, Pace::Running), [PathBuf::from(".")]);
    assert_eq!(target.metadata().unwrap().mode() & 0o7777, 0o751);
    assert_eq!(target.join("hidden").metadata().unwrap().ino(), hidden);

    // A name under a renamed directory keeps its link to one that did not change.
    std::fs::rename(root.join("tree/0"), root.join("tree/renamed")).unwrap();
    // Two that change places, with the same names below.
    std::fs::rename(root.join("tree/1"), root.join("tree/x")).unwrap();
    std::fs::rename(root.join("tree/2"), root.join("tree/1")).unwrap();
    std::fs::rename(root.join("tree/x"), root.join("tree/2")).unwrap();
    std::fs::remove_dir_all(root.join("tree/3")).unwrap();
    // A directory with files becomes a file, another a link to a directory with the same names, and back.
    std::fs::remove_dir_all(root.join("tree/4")).unwrap();
    write(&root.join("tree/4"), "a file");
    std::fs::remove_dir_all(root.join("tree/5")).unwrap();
    symlink("6", root.join("tree/5")).unwrap();
    std::fs::remove_file(root.join("dangling")).unwrap();
    std::fs::create_dir(root.join("dangling")).unwrap();
    write(&root.join("dangling/in"), "in");
    std::fs::remove_file(root.join("null")).unwrap();
    write(&root.join("null"), "no device");
    std::fs::remove_file(root.join("other-name")).unwrap();
    write(&root.join("other-name"), "no link");
    // Only attributes.
    rustix::fs::lsetxattr(root.join("plain"), "user.new", b"new", XattrFlags::empty()).unwrap();
    rustix::fs::lremovexattr(root.join("attributes"), "user.note").unwrap();
    rustix::fs::lremovexattr(root.join("listed"), "system.posix_acl_access").unwrap();
    std::fs::set_permissions(root.join("setuid"), std::fs::Permissions::from_mode(0o4711)).unwrap();
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o700)).unwrap();
    // Content, with size and mtime as they were.
    let file = OpenOptions::new().write(true).open(root.join("tree/7/file")).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(b"!", 0).unwrap();
    file.set_modified(modified).unwrap();
    whiteouts(&root);

    settle();
    let untouched = ["hidden", "tree/8/file", "fifo", "sticky"].map(|name| target.join(name));
    let inodes = || untouched.each_ref().map(|path| path.symlink_metadata().unwrap().ino());
    let before = inodes();
    let sent = round(&sandbox, &mut rounds, &target, Pace::Frozen);
    assert_eq!(inodes(), before);
    println!("sent {sent:?}");
    assert!(!sent.iter().any(|path| path.starts_with("tree/8") || path == Path::new("hidden")));
    let (from, to) = (see(&upper), see(&target));
    for (path, seen) in &from {
        assert_eq!(Some(seen), to.get(path), "{}", path.display());
    }
    assert_eq!(from.keys().collect::<Vec<_>>(), to.keys().collect::<Vec<_>>());
    assert_eq!(rounds.last().unwrap().paths(), Vec::<PathBuf>::new());
}

#[test]
fn a_second_write_to_a_dirty_mapped_page_is_noticed() {
    // Others who write out the file system clean the page too, and spoil the attempt.
    let silent = (0..20).filter(|_| second_write_is_noticed()).take(1).count();
    assert_eq!(silent, 1, "no write left the stamps as they were; did the kernel change?");
}

/// Whether the write in question was one that leaves no trace in size and times.
fn second_write_is_noticed() -> bool {
    let mut sandbox = Sandbox::new("mapped");
    let root = sandbox.overlay();
    let path = root.join("mapped");
    write(&path, vec![b'a'; 8192]);
    let mut writer = MappedWriter::start(&path);
    let target = sandbox.directory("target");
    let upper = sandbox.path.join("upper");
    let mut rounds = Rounds::new(&upper);
    let stamps = || {
        upper
            .join("mapped")
            .metadata()
            .map(|m| (m.size(), m.mtime(), m.mtime_nsec(), m.ctime_nsec()))
            .unwrap()
    };

    writer.write(0, b'b');
    round(&sandbox, &mut rounds, &target, Pace::Running);
    settle();
    writer.write(1, b'c');
    let dirty = stamps();
    let between = rounds.next().unwrap();
    assert_eq!(between.paths(), [PathBuf::from("mapped")]);
    settle();
    // The listing wrote the page out, so this write to the same page faults and stamps.
    writer.write(2, b'd');
    let stamped = stamps();
    assert_ne!(dirty, stamped);
    assert_eq!(send(&sandbox, &upper, &target, Some(&between), Pace::Running), Ended::Complete);
    rounds.note(between, Ended::Complete);
    assert_eq!(std::fs::read(target.join("mapped")).unwrap()[..4], *b"bcda");
    settle();
    // The page is dirty still, so that this one does not: rsync's look at size and time would miss it.
    writer.write(3, b'e');
    let silent = stamps() == stamped;
    assert_eq!(round(&sandbox, &mut rounds, &target, Pace::Frozen), [PathBuf::from("mapped")]);
    assert_eq!(std::fs::read(target.join("mapped")).unwrap()[..4], *b"bcde");
    assert_eq!(see(&upper), see(&target));
    silent
}

#[test]
fn a_layer_in_memory_is_compared_by_content() {
    let mut sandbox = Sandbox::new("memory");
    let upper = sandbox.tmpfs("upper");
    write(&upper.join("mapped"), vec![b'a'; 4096]);
    write(&upper.join("empty"), "");
    let mut writer = MappedWriter::start(&upper.join("mapped"));
    writer.write(0, b'b');
    let target = sandbox.directory("target");
    let mut rounds = Rounds::new(&upper);
    round(&sandbox, &mut rounds, &target, Pace::Running);
    settle();
    writer.write(1, b'c');
    assert_eq!(round(&sandbox, &mut rounds, &target, Pace::Frozen), [PathBuf::from("mapped")]);
    assert_eq!(see(&upper), see(&target));
}

/// A process that has a file mapped and writes single bytes into it.
struct MappedWriter {
    process: crate::files::sandbox::Ending,
    input: std::process::ChildStdin,
    output: std::process::ChildStdout,
}

impl MappedWriter {
    fn start(path: &Path) -> MappedWriter {
        const PROGRAM: &str = "import mmap,sys\nf=open(sys.argv[1],'r+b')\nm=mmap.mmap(f.fileno(),0)\n\
             for l in sys.stdin:\n  a,b=map(int,l.split()); m[a]=b; print('x',flush=True)\n";
        let mut command = std::process::Command::new("python3");
        command.args(["-c", PROGRAM]).arg(path);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut process = crate::files::sandbox::Ending(command.spawn().unwrap());
        let (input, output) = (process.0.stdin.take().unwrap(), process.0.stdout.take().unwrap());
        MappedWriter { process, input, output }
    }

    fn write(&mut self, at: usize, byte: u8) {
        assert!(self.process.0.try_wait().unwrap().is_none());
        writeln!(self.input, "{at} {byte}").unwrap();
        std::io::Read::read_exact(&mut self.output, &mut [0; 2]).unwrap();
    }
}

#[test]
fn files_may_vanish_and_change_during_rounds() {
    let mut sandbox = Sandbox::new("busy");
    let root = sandbox.overlay();
    let upper = sandbox.path.join("upper");
    std::fs::create_dir(root.join("steady")).unwrap();
    for index in 0..300 {
        write(&root.join(format!("steady/{index}")), vec![b'x'; 5000]);
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    let target = sandbox.directory("target");
    let mut rounds = Rounds::new(&upper);
    std::thread::scope(|scope| {
        scope.spawn(|| busy(&root, &stop));
        let mut complete = 0;
        for _ in 0..6 {
            let round = rounds.next().unwrap();
            let ended = send(&sandbox, &upper, &target, Some(&round), Pace::Running);
            complete += u32::from(ended == Ended::Complete);
            rounds.note(round, ended);
        }
        for _ in 0..200 {
            Listing::of(&upper).unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        println!("{complete} of 6 rounds complete");
    });
    let last = round(&sandbox, &mut rounds, &target, Pace::Frozen);
    println!("last round: {} of {}", last.len(), rounds.last().unwrap().listing().len());
    let (from, to) = (see(&upper), see(&target));
    for (path, seen) in &from {
        assert_eq!(Some(seen), to.get(path), "{}", path.display());
    }
    assert_eq!(from.keys().collect::<Vec<_>>(), to.keys().collect::<Vec<_>>());
}

fn busy(root: &Path, stop: &std::sync::atomic::AtomicBool) {
    let mut turn = 0_u64;
    let log = root.join("log");
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        turn += 1;
        let directory = root.join(format!("short-{}", turn % 7));
        std::fs::create_dir_all(directory.join("lived")).unwrap();
        write(&directory.join("lived/file"), vec![b'y'; (turn % 9000) as usize]);
        File::options().create(true).append(true).open(&log).unwrap().write_all(b"line\n").unwrap();
        let steady = File::options().write(true).open(root.join(format!("steady/{}", turn % 300))).unwrap();
        steady.write_all_at(&turn.to_le_bytes(), turn % 4000).unwrap();
        write(&root.join("temporary"), "t");
        std::fs::rename(root.join("temporary"), root.join("renamed")).unwrap();
        std::fs::remove_dir_all(root.join(format!("short-{}", (turn + 3) % 7))).unwrap_or_default();
        if turn.is_multiple_of(50) {
            File::options().write(true).open(&log).unwrap().set_len(0).unwrap();
        }
    }
}

#[test]
fn an_unchanged_layer_costs_no_rsync() {
    let mut sandbox = Sandbox::new("unchanged");
    let root = sandbox.overlay();
    let upper = sandbox.path.join("upper");
    for (count, limit) in [(20, Duration::from_millis(2)), (5000, Duration::from_millis(100))] {
        for index in 0..count {
            let directory = root.join(format!("{count}/{}", index % 50));
            std::fs::create_dir_all(&directory).unwrap();
            write(&directory.join(index.to_string()), "content");
        }
        settle();
        let mut rounds = Rounds::new(&upper);
        rounds.note(rounds.next().unwrap(), Ended::Complete);
        let mut times: Vec<Duration> = (0..9)
            .map(|_| {
                let began = Instant::now();
                assert!(rounds.last().unwrap().is_empty());
                began.elapsed()
            })
            .collect();
        times.sort();
        println!("{count} files unchanged: median {:?}, worst {:?}", times[4], times[8]);
        assert!(times[4] < limit, "{:?}", times[4]);
    }
    let target = sandbox.directory("target");
    let mut rounds = Rounds::new(&upper);
    let began = Instant::now();
    round(&sandbox, &mut rounds, &target, Pace::Running);
    println!("5,070 files by rsync: {:?}", began.elapsed());
    write(&root.join("20/0/0"), "changed");
    let began = Instant::now();
    round(&sandbox, &mut rounds, &target, Pace::Frozen);
    println!("one small file in the last round: {:?}", began.elapsed());
    assert_eq!(see(&upper), see(&target));
    rustix::fs::syncfs(File::open(&upper).unwrap().as_fd()).unwrap();
}
