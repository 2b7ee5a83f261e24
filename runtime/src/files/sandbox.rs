//! What the tests of this module stand on: directories, overlays and rsync pairs of their own.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mount::{MountFlags, UnmountFlags};

use super::private::connect::pump;
use super::private::{Ended, Pace, Remover, Round, ended, pieces, rsync_receiver, rsync_sender};

/// A directory that is removed at the end, whatever was mounted in it.
pub(crate) struct Sandbox {
    pub(crate) path: PathBuf,
    mounts: Vec<PathBuf>,
}

impl Sandbox {
    pub(crate) fn new(name: &str) -> Sandbox {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("cx-files-{name}-{}-{count}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Sandbox { path: path.canonicalize().unwrap(), mounts: Vec::new() }
    }

    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Mounts an overlay at `root` over `base`, with `upper` and `work`, all made here.
    pub(crate) fn overlay(&mut self) -> PathBuf {
        let root = self.directory("root");
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            self.directory("base").display(),
            self.directory("upper").display(),
            self.directory("work").display()
        );
        let options = CString::new(options).unwrap();
        rustix::mount::mount("overlay", &root, "overlay", MountFlags::empty(), Some(options.as_c_str()))
            .unwrap();
        self.mounts.push(root.clone());
        root
    }

    pub(crate) fn tmpfs(&mut self, name: &str) -> PathBuf {
        let path = self.directory(name);
        rustix::mount::mount("tmpfs", &path, "tmpfs", MountFlags::empty(), None::<&CStr>).unwrap();
        self.mounts.push(path.clone());
        path
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for mount in self.mounts.iter().rev() {
            let _ = rustix::mount::unmount(mount, UnmountFlags::DETACH);
        }
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("left behind {}: {error}", self.path.display());
        }
    }
}

/// A process that is ended with the test.
pub(crate) struct Ending(pub(crate) Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything of a file that a program can see, but its inode number, and what lies on disk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    mode: u32,
    owner: (u32, u32),
    device: u64,
    size: u64,
    modified: (i64, i64),
    content: Vec<u8>,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first name of the same inode.
    first_name: PathBuf,
}

/// A whole tree, to be compared with another.
pub(crate) fn see(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    let mut names = HashMap::new();
    visit(root, Path::new(""), &mut names, &mut all);
    all
}

fn visit(root: &Path, name: &Path, names: &mut HashMap<u64, PathBuf>, all: &mut BTreeMap<PathBuf, Seen>) {
    let path = root.join(name);
    let metadata = path.symlink_metadata().unwrap();
    let kind = metadata.file_type();
    let content = if kind.is_file() {
        blake3::Hasher::new()
            .update_reader(std::fs::File::open(&path).unwrap())
            .unwrap()
            .finalize()
            .as_bytes()
            .to_vec()
    } else if kind.is_symlink() {
        std::fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
    } else {
        Vec::new()
    };
    // The inode of whiteouts is shared among all overlays with one work directory.
    let whiteout = kind.is_char_device() && metadata.rdev() == 0;
    let first_name = if kind.is_dir() || whiteout {
        PathBuf::new()
    } else {
        names.entry(metadata.ino()).or_insert_with(|| name.to_path_buf()).clone()
    };
    let seen = Seen {
        mode: metadata.mode(),
        owner: (metadata.uid(), metadata.gid()),
        device: metadata.rdev(),
        size: if kind.is_dir() { 0 } else { metadata.size() },
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        content,
        attributes: attributes(&path),
        first_name,
    };
    all.insert(name.to_path_buf(), seen);
    if kind.is_dir() {
        let mut children: Vec<_> =
            std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
        children.sort();
        for child in children {
            visit(root, &name.join(child), names, all);
        }
    }
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, list.as_mut_slice()).unwrap();
    let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut all = BTreeMap::new();
    for name in names.filter(|name| *name != b"trusted.overlay.origin") {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
        all.insert(name.to_vec(), value[..length].to_vec());
    }
    all
}

/// A program that answers rsync as the hidden mode of a binary does: this very test binary.
pub(crate) fn connector(sandbox: &Sandbox) -> PathBuf {
    let script = sandbox.path.join("connect 'or");
    let test = std::env::current_exe().unwrap();
    let text = format!(
        "#!/bin/sh\nCX_SOCKET=\"$2\" exec '{}' --exact files::private::tests::connector --ignored --nocapture \
         3>&1 1>/dev/null\n",
        test.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script
}

/// Sends one round as two hosts do, their link being a Unix socket.
pub(crate) fn send(
    sandbox: &Sandbox,
    upper: &Path,
    target: &Path,
    round: Option<&Round>,
    pace: Pace,
) -> Ended {
    let socket = sandbox.path.join("the socket");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    let script = connector(sandbox);
    let mut remover = Remover::of(target).unwrap();
    for piece in pieces(round.iter().flat_map(|round| round.removed())) {
        remover.remove(&piece).unwrap();
    }
    let mut sender = rsync_sender(upper, &script, &socket, round, pace).unwrap();
    let mut sender = Ending(sender.spawn().unwrap());
    let mut receiver = Ending(rsync_receiver(target).spawn().unwrap());
    let (stream, _) = listener.accept().unwrap();
    let (input, output) = (receiver.0.stdin.take().unwrap(), receiver.0.stdout.take().unwrap());
    let back = stream.try_clone().unwrap();
    let joined = std::thread::spawn(move || {
        let _ = pump(output, &back);
        let _ = back.shutdown(std::net::Shutdown::Write);
    });
    let _ = pump(&stream, input);
    joined.join().unwrap();
    let (near, far) = (finish(&mut sender.0), finish(&mut receiver.0));
    let far_end = ended(far.0, &far.1, target, pace).unwrap();
    let near_end = ended(near.0, &near.1, upper, pace).unwrap();
    if near_end == Ended::Complete && far_end == Ended::Complete {
        Ended::Complete
    } else {
        Ended::Incomplete
    }
}

fn finish(child: &mut Child) -> (std::process::ExitStatus, String) {
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    eprint!("{stderr}");
    (child.wait().unwrap(), stderr)
}
