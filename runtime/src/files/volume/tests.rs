use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use super::copy_into;
use crate::files::FilesError;
use crate::files::sandbox::{Sandbox, see};
use crate::files::space::{disk_needed, free_space};

fn volume(sandbox: &Sandbox) -> std::path::PathBuf {
    let volume = sandbox.directory("volume");
    std::fs::create_dir(volume.join("sub")).unwrap();
    std::fs::write(volume.join("sub/file"), "file").unwrap();
    std::fs::hard_link(volume.join("sub/file"), volume.join("link")).unwrap();
    symlink("sub", volume.join("symlink")).unwrap();
    rustix::fs::setxattr(volume.join("sub"), "user.x", b"y", rustix::fs::XattrFlags::empty()).unwrap();
    chown(&volume, Some(103), Some(104)).unwrap();
    std::fs::set_permissions(&volume, std::fs::Permissions::from_mode(0o2750)).unwrap();
    let sparse = std::fs::File::create(volume.join("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    volume
}

#[test]
fn a_volume_is_copied_exactly_and_hides_the_base() {
    let mut sandbox = Sandbox::new("volume");
    let volume = volume(&sandbox);
    let before = see(&volume);
    let base = sandbox.directory("base");
    std::fs::create_dir_all(base.join("var/lib/data")).unwrap();
    std::fs::write(base.join("var/lib/data/of-the-host"), "hidden").unwrap();
    chown(base.join("var/lib"), Some(5), Some(6)).unwrap();
    std::fs::set_permissions(base.join("var/lib"), std::fs::Permissions::from_mode(0o1771)).unwrap();
    symlink("/var/lib", base.join("alias")).unwrap();
    let upper = sandbox.directory("upper");

    copy_into(&volume, &base, &upper, Path::new("/alias/data")).unwrap();
    copy_into(&volume, &base, &upper, Path::new("/made/for/it")).unwrap();
    copy_into(&volume.join("sub/file"), &base, &upper, Path::new("/var/lib/one")).unwrap();
    // Below a volume nothing of the base is seen, not even its symlinks.
    symlink("/elsewhere", base.join("var/lib/data/trap")).unwrap();
    copy_into(&volume.join("sub/file"), &base, &upper, Path::new("/var/lib/data/trap/file")).unwrap();
    assert!(upper.join("var/lib/data/trap/file").exists());
    std::fs::remove_dir_all(upper.join("var/lib/data/trap")).unwrap();
    // One inside another, later wins.
    copy_into(&volume.join("sub"), &base, &upper, Path::new("/made/for/it/symlink/deeper")).unwrap();
    assert_eq!(see(&volume), before);

    let root = sandbox.overlay();
    let data = see(&root.join("var/lib/data"));
    assert_eq!(data.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    for (path, seen) in before.iter().filter(|(path, _)| path.as_path() != Path::new("")) {
        assert_eq!(Some(seen), data.get(path), "{}", path.display());
    }
    let above = root.join("var/lib").metadata().unwrap();
    assert_eq!((above.uid(), above.gid(), above.mode() & 0o7777), (5, 6, 0o1771));
    let top = root.join("var/lib/data").metadata().unwrap();
    assert_eq!((top.uid(), top.gid(), top.mode() & 0o7777), (103, 104, 0o2750));
    assert_eq!(root.join("made/for/it/sparse").metadata().unwrap().blocks(), 0);
    assert_eq!(std::fs::read(root.join("var/lib/one")).unwrap(), b"file");
    assert_eq!(std::fs::read(root.join("made/for/it/sub/deeper/file")).unwrap(), b"file");
    let needed = disk_needed(&upper).unwrap();
    assert!(needed.bytes < 1 << 20, "{needed:?}");
    assert!(needed.inodes > 15 && free_space(&upper).unwrap().bytes > needed.bytes);
}

#[test]
fn destinations_stay_inside() {
    let sandbox = Sandbox::new("destination");
    let volume = volume(&sandbox);
    let base = sandbox.directory("base");
    let upper = sandbox.directory("upper");
    symlink("../../../../..", base.join("up")).unwrap();
    symlink("loop", base.join("loop")).unwrap();
    std::fs::write(base.join("file"), "file").unwrap();
    copy_into(&volume, &base, &upper, Path::new("/up/../place")).unwrap();
    assert!(upper.join("place/sub/file").exists());
    let fails = |path: &str| copy_into(&volume, &base, &upper, Path::new(path)).unwrap_err();
    for path in ["relative", "/", "/..", "/up"] {
        assert!(matches!(fails(path), FilesError::BadDestination { .. }), "{path}");
    }
    assert!(matches!(fails("/loop/x"), FilesError::TooManySymlinks { .. }));
    let error = fails("/file/x");
    assert!(matches!(error, FilesError::NotADirectory { .. }));
    assert_eq!(
        error.to_string(),
        "/file/x leads through /file, which is no directory; choose another destination"
    );
    let around = copy_into(&sandbox.path, &base, &upper, Path::new("/all")).unwrap_err();
    assert!(matches!(around, FilesError::SourceContainsUpper { .. }));
}
