use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps, XattrFlags};

use super::*;
use crate::files::sandbox::Sandbox;

/// All that can be seen of a tree, by path.
fn seen(root: &Path) -> Vec<String> {
    fn walk(root: &Path, path: &Path, all: &mut Vec<String>) {
        let stat = std::fs::symlink_metadata(path).unwrap();
        let kind = stat.file_type();
        let mut line = format!(
            "{} {:o} {}:{} {}.{} {:x}",
            path.strip_prefix(root).unwrap().display(),
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.mtime(),
            stat.mtime_nsec(),
            stat.rdev(),
        );
        if kind.is_symlink() {
            line += &format!(" → {}", std::fs::read_link(path).unwrap().display());
        } else if kind.is_file() || kind.is_dir() {
            let file = File::open(path).unwrap();
            let mut attributes = xattr::all(file.as_fd(), path).unwrap();
            attributes.retain(|(name, _)| name != ORIGIN);
            attributes.sort();
            line += &format!(" {attributes:?}");
        }
        if kind.is_file() {
            let digest = blake3::hash(&std::fs::read(path).unwrap());
            line += &format!(" {} links {} {digest}", stat.len(), stat.nlink());
        }
        all.push(line);
        if kind.is_dir() {
            let mut names: Vec<_> = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
            names.sort();
            names.iter().for_each(|name| walk(root, name, all));
        }
    }
    let mut all = Vec::new();
    walk(root, root, &mut all);
    all
}

fn packed(directory: &Path) -> Vec<u8> {
    let mut stream = Vec::new();
    pack(directory, &mut stream).unwrap();
    stream
}

/// The upper layer of an overlay that was worked in.
fn worked_in(sandbox: &mut Sandbox) -> PathBuf {
    let base = sandbox.directory("base");
    for name in ["removed", "replaced/inside", "kept/below"] {
        std::fs::create_dir_all(base.join(name).parent().unwrap()).unwrap();
        std::fs::write(base.join(name), name).unwrap();
    }
    let root = sandbox.overlay();
    std::fs::remove_file(root.join("removed")).unwrap();
    std::fs::remove_dir_all(root.join("replaced")).unwrap();
    std::fs::create_dir(root.join("replaced")).unwrap();
    std::fs::write(root.join("kept/below"), "changed").unwrap();
    std::fs::write(root.join("kept/new"), vec![7; 700_000]).unwrap();
    std::fs::hard_link(root.join("kept/new"), root.join("second-name")).unwrap();
    symlink("kept/new", root.join("link")).unwrap();
    let _socket = UnixListener::bind(root.join("socket")).unwrap();
    let fifo = root.join("fifo");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o622), 0).unwrap();
    std::fs::set_permissions(root.join("kept/below"), std::fs::Permissions::from_mode(0o4751)).unwrap();
    std::os::unix::fs::lchown(root.join("kept/new"), Some(1001), Some(1002)).unwrap();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let set =
        rustix::fs::setxattr(root.join("kept/new"), "security.capability", &capability, XattrFlags::empty());
    set.unwrap();
    rustix::fs::setxattr(root.join("kept"), "user.note", b"\0bytes", XattrFlags::empty()).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 5 << 20).unwrap();
    sparse.set_len(1 << 30).unwrap();
    std::fs::create_dir_all(root.join("odd/\n name ä")).unwrap();
    let old = Timespec { tv_sec: -5, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: old, last_modification: old };
    rustix::fs::utimensat(CWD, root.join("odd"), &times, AtFlags::empty()).unwrap();
    sandbox.path.join("upper")
}

#[test]
fn an_upper_layer_comes_back_as_it_was() {
    let mut sandbox = Sandbox::new("pack");
    let upper = worked_in(&mut sandbox);
    let stream = packed(&upper);
    assert!(stream.len() < 2_000_000, "holes and second names cost nothing: {}", stream.len());
    let to = sandbox.directory("to");
    unpack(&mut stream.as_slice(), &to, |_| true).unwrap();
    let (was, is) = (seen(&upper), seen(&to));
    assert_eq!(was, is);
    assert!(was.iter().any(|line| line.starts_with("removed 20000")), "a whiteout: {was:#?}");
    assert!(was.iter().any(|line| line.starts_with("replaced ") && line.contains("116, 114, 117")), "opaque");
    assert!(std::fs::metadata(to.join("sparse")).unwrap().blocks() < 1000);
    assert_eq!(std::fs::metadata(to.join("kept/new")).unwrap().nlink(), 2);
    assert_eq!(packed(&to), stream);
}

#[test]
fn what_is_not_wanted_is_not_made() {
    let mut sandbox = Sandbox::new("pack-some");
    let upper = worked_in(&mut sandbox);
    let to = sandbox.directory("to");
    let wanted = |path: &Path| path == Path::new("kept") || path == Path::new("kept/new");
    unpack(&mut packed(&upper).as_slice(), &to, wanted).unwrap();
    let made: Vec<_> = seen(&to).iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(made, ["", "kept", "kept/new"]);
}

#[test]
fn nothing_is_made_outside() {
    let sandbox = Sandbox::new("pack-outside");
    let attributes =
        || Attributes { permissions: 0o644, uid: 0, gid: 0, modified: (0, 0), extended: Vec::new() };
    let directory = || Entry::Directory { path: Vec::new(), attributes: attributes() };
    let file = |path: &[u8]| Entry::File { path: path.to_vec(), attributes: attributes() };
    let leads_out =
        Entry::Symlink { path: b"out".to_vec(), target: b"..".to_vec(), attributes: attributes() };
    let trials = [
        vec![directory(), file(b"../escaped")],
        vec![directory(), file(b"/escaped")],
        vec![directory(), leads_out, file(b"out/escaped")],
        vec![directory(), file(b"nowhere/escaped")],
        vec![directory(), Entry::Hard { path: b"mine".to_vec(), to: b"../secret".to_vec() }],
        vec![directory(), Entry::Leave { path: b"..".to_vec(), modified: (0, 0) }],
        vec![directory(), file(b"")],
    ];
    std::fs::write(sandbox.path.join("secret"), "").unwrap();
    for (number, entries) in trials.iter().enumerate() {
        let mut stream = Vec::new();
        for entry in entries {
            let body = postcard::to_stdvec(entry).unwrap();
            stream.extend((body.len() as u32).to_be_bytes());
            stream.extend(body);
        }
        stream.extend([0; 16]);
        let to = sandbox.directory(&format!("to-{number}"));
        let refused = unpack(&mut stream.as_slice(), &to, |_| true);
        assert!(refused.is_err(), "trial {number}: {refused:?}");
        assert!(!sandbox.path.join("escaped").exists() && !Path::new("/escaped").exists(), "trial {number}");
    }
}

#[test]
fn a_cut_or_senseless_stream_is_refused() {
    let mut sandbox = Sandbox::new("pack-cut");
    let upper = worked_in(&mut sandbox);
    let stream = packed(&upper);
    for (number, length) in (0..stream.len()).step_by(stream.len() / 40).enumerate() {
        let to = sandbox.directory(&format!("to-{number}"));
        assert!(unpack(&mut &stream[..length], &to, |_| true).is_err(), "{length} bytes");
    }
    let to = sandbox.directory("to");
    assert!(matches!(unpack(&mut [0xff; 64].as_slice(), &to, |_| true), Err(PackError::Nonsense(_))));
}
